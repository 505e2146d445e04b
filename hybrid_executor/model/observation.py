"""What a backend saw. Observations are facts; what follows is for ``lifecycle``.

A backend may repeat an observation or deliver it late; ``lifecycle`` is
written so that this changes nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.resources import Resources


class How(StrEnum):
    """How a submission ended."""

    #: The process ended by itself without an error. Not the task's state: Airflow knows that.
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: A look-up found no trace: never sent, or gone.
    ABSENT = "absent"
    #: Ended because it was cancelled.
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Why something ended or can't start, in words for the person on call."""

    reason: Reason
    message: str = ""
    exit_code: int | None = None

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else str(self.reason)

    @property
    def advice(self) -> str:
        """All of it in one line: what happened, and what to do."""
        hint = self.reason.hint
        return f"{self} -> {hint}" if hint else str(self)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The backend has it: the message is published, the pod exists."""

    submission: SubmissionId
    #: The Celery task id, or ``namespace/pod``.
    external_name: str
    #: Whether what it is to run may not have arrived: the submission is to be handed over once more,
    #: its payload made anew. The backend holds it all the same.
    lacks_payload: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not running yet, for a known reason.

    ``retry_after_s`` is None where the backend holds the submission (a pod that
    is Pending, a message in its queue). A number means that the backend has let
    it go (nothing was made, or making it again under the same name is harmless)
    and that it is to be submitted again after so many seconds at the earliest.
    """

    submission: SubmissionId
    reason: Reason
    message: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """Refused for good; nothing was made and trying again would change nothing."""

    submission: SubmissionId
    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class Started:
    """The process that runs the task has started."""

    submission: SubmissionId
    #: The Celery worker's node name, or ``pod on node``.
    where: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The process that ran the task is gone, or was never there (``How.ABSENT``)."""

    submission: SubmissionId
    how: How
    diagnosis: Diagnosis | None = None
    #: A further submission would end in the same way.
    for_good: bool = False
    #: What it had asked for and took, as far as its backend knows; None where it knows nothing.
    resources: Resources | None = None
    #: Of one that was never given leave to start: the host name by which it had asked Airflow for it.
    asked_as: str | None = None


Observation = Accepted | Waiting | Rejected | Started | Ended
