"""The ledger's record of a submission, and a change to one."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from hybrid_executor.model.attempt import BackendName, SubmissionId, TaskAddress, WorkloadKind
from hybrid_executor.model.observation import Diagnosis
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.resources import Resources


class Outcome(StrEnum):
    """How a submission is closed in the ledger."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: Ended without having run; a later submission of the same attempt replaced it.
    REPLACED = "replaced"
    #: Withdrawn by Airflow or a user.
    REVOKED = "revoked"
    #: Its process died while the task ran, and Airflow runs the task again without using a retry.
    RESTARTED = "restarted"


class Stage(StrEnum):
    """How far an open submission is, as the ledger knows it."""

    #: Recorded, and with its scheduler: there is no room for it, or its backend does not take it.
    QUEUED = "queued"
    #: With its backend, which has not started it.
    SUBMITTED = "submitted"
    RUNNING = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionRecord(Resources):
    """One row of the ledger: a submission with what is known of its attempt. Times are UTC.

    Resources are those of pods alone.
    """

    id: SubmissionId
    kind: WorkloadKind
    workload_id: str
    address: TaskAddress | None
    queue: str
    backend: BackendName
    #: Of the route: whoever adopts it asks there, whatever routes say by then.
    cluster: str = ""
    rule: str
    pod_template_file: str | None = None
    #: Of the route, for whoever adopts it.
    retry_on: frozenset[Reason] = frozenset()
    retry_limit: int = 0
    #: The scheduler's job id that answers for it.
    scheduler_job: str
    queued_at: datetime
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    #: The Celery task id, or ``namespace/pod``; None until the backend has accepted.
    external_name: str | None = None
    where: str | None = None
    #: The latest wait before it started: for what, in words, and since when.
    waits_for: Reason | None = None
    waits_message: str | None = None
    waits_since: datetime | None = None
    #: When its worker's pod was seen to be on its way out: a new worker is not for it.
    worker_leaves_at: datetime | None = None
    outcome: Outcome | None = None
    reason: Reason | None = None
    message: str | None = None
    exit_code: int | None = None

    @property
    def state(self) -> Stage | Outcome:
        """How far it is, or how it ended."""
        if self.outcome:
            return self.outcome
        if self.started_at:
            return Stage.RUNNING
        return Stage.SUBMITTED if self.submitted_at else Stage.QUEUED

    @property
    def diagnosis(self) -> Diagnosis | None:
        """Why it ended, or, while it has not started, what it waits for; None where nothing is known."""
        if self.reason:
            return Diagnosis(reason=self.reason, message=self.message or "", exit_code=self.exit_code)
        if self.waits_for and self.state in (Stage.QUEUED, Stage.SUBMITTED):
            return Diagnosis(reason=self.waits_for, message=self.waits_message or "")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRun(Resources):
    """Of a row whose task ran in a pod and has ended: what it asked for and took."""

    dag_id: str
    task_id: str
    queued_at: datetime
    #: From its start to its end.
    ran_s: float
    outcome: Outcome | None
    reason: Reason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(Resources):
    """New values for one row; None leaves a column as it is.

    A row that has ended is never changed again: the first terminal result wins.
    """

    id: SubmissionId
    scheduler_job: str | None = None
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    external_name: str | None = None
    where: str | None = None
    waits_for: Reason | None = None
    waits_message: str | None = None
    waits_since: datetime | None = None
    worker_leaves_at: datetime | None = None
    outcome: Outcome | None = None
    reason: Reason | None = None
    message: str | None = None
    exit_code: int | None = None
