"""What to do about an observation: the only state machine, without I/O or clock.

``decide`` looks at one attempt, one observation and, where a process has
ended, at what the metadata database says of the task instance (the witness).
It returns a decision; ``controller`` carries it out.

    phase      means
    READY      may be sent as soon as its backend and [core] parallelism have room
    BACKOFF    let go by its backend; sent again, under the same name, at its time
    SENT       handed to the backend, not answered yet
    ACCEPTED   the backend has it: the message is published, the pod exists
    STARTED    its process runs

An end removes the attempt, so a terminal result is final: the first one wins.
Every rule for an end is in ``_decide_end``, in this order: withdrawn attempts
are closed silently; an attempt that the task instance no longer carries is
closed silently, because its end is nobody's failure; an attempt that ended
while the task instance is still QUEUED never started the task, so a new
submission is made without using a retry, up to a limit; one that ended while
it is RUNNING died without a word, and fails, unless its route says that such a
death is to cost no retry: then Airflow is made to run the task again as if a
user had cleared it. The same is done, whatever the route says, where the
process never heard that it may start: RUNNING is then Airflow's half of an
answer that did not arrive. But where the task runs in the pod of another
submission, which a cluster set back to old data has brought again, Airflow
turned this one away: its end is nobody's failure, and the attempt goes on with
the task.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum

from hybrid_executor.model.attempt import BackendName, SubmissionId, TaskAddress, WorkloadKind
from hybrid_executor.model.observation import (
    Accepted,
    Diagnosis,
    Ended,
    How,
    Observation,
    Rejected,
    Started,
    Waiting,
)
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome
from hybrid_executor.naming import is_pod_of_another


class Phase(IntEnum):
    """How far an attempt has come; a later phase never goes back but by BACKOFF and READY."""

    READY = 0
    BACKOFF = 1
    SENT = 2
    ACCEPTED = 3
    STARTED = 4

    @property
    def word(self) -> str:
        """As metrics and logs have it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Numbers that a user may set; each documented with its option in ``provider``."""

    #: Submissions of one attempt, or tries in a row, that die before the task starts, before it fails.
    submission_limit: int = 5
    backoff_first_s: float = 1.0
    backoff_max_s: float = 60.0
    #: ``[scheduler] task_instance_heartbeat_timeout``: for so long nobody is missed who says nothing.
    heartbeat_timeout_s: float = 300.0

    def backoff_s(self, failures: int) -> float:
        """Exponential from the first failure (``failures`` = 1), without jitter."""
        return min(self.backoff_max_s, self.backoff_first_s * 2.0 ** min(failures - 1, 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """What ``decide`` may know of an attempt."""

    attempt_id: str
    kind: WorkloadKind
    backend: BackendName
    phase: Phase
    #: The current submission.
    number: int
    #: Times in a row that its backend let this submission go.
    refusals: int = 0
    #: Withdrawn by Airflow; nothing is told to Airflow any more.
    revoked: bool = False
    #: Deaths of a running task that cost no retry, and how many of them in a row: the route's.
    retry_on: frozenset[Reason] = frozenset()
    retry_limit: int = 0
    #: How many tries right before this one ended so.
    restarts: int = 0
    #: Of its task instance; None for what is no task.
    address: TaskAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """The task instance's row; ``decide`` gets None where there is none any more."""

    state: str | None
    #: ``external_executor_id``: the attempt that the task instance carries.
    attempt_id: str | None
    #: ``queued_by_job_id`` as text.
    owner: str | None = None
    #: When the task's process started, and on which host, as it told Airflow itself.
    started_at: datetime | None = None
    host: str | None = None
    #: ``retry_reason``: why the last try did not count, if an executor or a policy said so.
    retry_reason: str | None = None

    def is_running_as(self, attempt_id: str, owner: str) -> bool:
        """Whether it runs as this attempt and no scheduler but ``owner`` answers for it."""
        is_here = self.attempt_id == attempt_id and self.owner in (None, owner)
        return is_here and self.state == RUNNING


@dataclass(frozen=True, slots=True)
class Ignore:
    """Stale, repeated or meaningless here."""


@dataclass(frozen=True, slots=True)
class Advance:
    """The attempt has come to ``phase``, or waits there for ``reason``."""

    phase: Phase
    reason: Reason | None = None
    message: str = ""
    external_name: str | None = None
    where: str | None = None
    #: Its backend has it but for the payload, which is handed over again.
    lacks_payload: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """Send the same submission again after so many seconds."""

    after_s: float
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Close this submission as replaced and make a new one after so many seconds."""

    after_s: float
    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class Restart:
    """Have Airflow run the task as a new try that costs no retry, and close the attempt."""

    diagnosis: Diagnosis
    #: Before the new try begins.
    after_s: float = 0.0
    #: The task instance is prepared already; only Airflow's word to go on is missing.
    prepared: bool = False


@dataclass(frozen=True, slots=True)
class Succeed:
    """Tell Airflow that the process ended well, and close the attempt."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Tell Airflow that the attempt failed, and close it."""

    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class Close:
    """Close the attempt and tell Airflow nothing: it knows already, or asked for it."""

    outcome: Outcome
    diagnosis: Diagnosis | None = None


Decision = Ignore | Advance | Retry | Resubmit | Restart | Succeed | Fail | Close

QUEUED = "queued"
RUNNING = "running"
RESTARTING = "restarting"
#: States of a task instance whose process ended and said so itself, and which no
#: scheduler moves on from by itself: only here a SUCCESS event can do no harm.
SETTLED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
#: How ``retry_reason`` begins where the executor wrote it.
RESTARTED_BY = "hybrid executor: "
#: States that say that the task's own code, or whoever killed it, ended it badly.
ENDED_BADLY = frozenset({"failed", "up_for_retry", "upstream_failed"})


def needs_witness(kind: WorkloadKind, observation: Observation, *, revoked: bool) -> bool:
    """Whether ``decide`` must be given the task instance's row."""
    return isinstance(observation, Ended) and kind is WorkloadKind.TASK and not revoked


def decide(view: AttemptView, observation: Observation, witness: Witness | None, policy: Policy) -> Decision:
    """Return what follows from one observation; total and pure."""
    if observation.submission != (view.attempt_id, view.number):
        return Ignore()
    match observation:
        case Accepted(external_name=name, lacks_payload=lacks):
            if view.phase is Phase.STARTED:
                return Ignore()
            return Advance(Phase.ACCEPTED, external_name=name, lacks_payload=lacks and not view.revoked)
        case Waiting():
            return _decide_wait(view, observation, policy)
        case Started(where=where):
            return Advance(Phase.STARTED, where=where)
        case Rejected(diagnosis=diagnosis):
            return Close(Outcome.REVOKED, diagnosis) if view.revoked else Fail(diagnosis)
        case Ended():
            return _decide_end(view, observation, witness, policy)


def _decide_wait(view: AttemptView, seen: Waiting, policy: Policy) -> Decision:
    if view.phase is Phase.STARTED:
        return Ignore()
    if seen.retry_after_s is None:
        return Advance(Phase.ACCEPTED, reason=seen.reason, message=seen.message)
    if view.revoked:
        return Close(Outcome.REVOKED, Diagnosis(reason=Reason.REVOKED))
    after_s = max(seen.retry_after_s, policy.backoff_s(view.refusals + 1))
    return Retry(after_s, seen.reason, seen.message)


def _decide_end(view: AttemptView, end: Ended, witness: Witness | None, policy: Policy) -> Decision:
    if view.revoked:
        return Close(Outcome.REVOKED, Diagnosis(reason=Reason.REVOKED))
    if view.kind is not WorkloadKind.TASK:
        return _decide_other_end(view, end, policy)
    if witness is None or witness.attempt_id != view.attempt_id:
        return Close(_outcome_of(end), end.diagnosis)
    if witness.state == QUEUED:
        return _died_before_start(view, end, policy)
    if witness.state == RESTARTING:
        if died_of := restart_diagnosis(witness.retry_reason):
            return Restart(died_of, prepared=True)
        # A user cleared it while it ran; SUCCESS is the word that makes the scheduler go on.
        return Succeed()
    if witness.state == RUNNING:
        return _decide_end_of_running(view, end, witness, policy)
    # The outcome is the process's: a task that raises, and says so, ended its process in good order.
    # One whose task was killed for memory inside it says so itself, and its backend knows of what.
    if witness.state in ENDED_BADLY and (end.how is not How.SUCCEEDED or end.diagnosis):
        return Close(Outcome.FAILED, end.diagnosis or Diagnosis(reason=Reason.ERROR))
    return Succeed() if witness.state in SETTLED else Close(Outcome.SUCCEEDED)


def _decide_end_of_running(view: AttemptView, end: Ended, witness: Witness, policy: Policy) -> Decision:
    """A process is gone, and the task instance says that the task runs."""
    # An older submission's pod was first, of this attempt or of an earlier one.
    if runs_elsewhere(view, witness):
        return Advance(Phase.STARTED)
    if end.asked_as is not None:
        return _was_never_let_start(view, end, witness, policy)
    return _died_running(view, end, policy)


def runs_elsewhere(view: AttemptView, witness: Witness | None) -> bool:
    """Whether the task is known to run in the pod of another submission."""
    return (
        witness is not None
        and witness.state == RUNNING
        and witness.host is not None
        and view.address is not None
        and is_pod_of_another(witness.host, view.address, SubmissionId(view.attempt_id, view.number))
    )


def _decide_other_end(view: AttemptView, end: Ended, policy: Policy) -> Decision:
    """Callbacks and connection tests have no state of their own to look at."""
    if end.how is How.SUCCEEDED:
        return Succeed()
    if end.how is How.ABSENT and view.phase < Phase.STARTED:
        return _died_before_start(view, end, policy)
    return Fail(_diagnosis_of(end))


def _died_before_start(view: AttemptView, end: Ended, policy: Policy) -> Decision:
    diagnosis = _diagnosis_of(end)
    if end.for_good:
        return Fail(diagnosis)
    if view.number < policy.submission_limit:
        return Resubmit(policy.backoff_s(view.number), diagnosis)
    return _too_often(diagnosis, view.number)


def _was_never_let_start(view: AttemptView, end: Ended, witness: Witness, policy: Policy) -> Decision:
    """Airflow took its start for good, and it never heard of it, so its process did nothing."""
    diagnosis = _diagnosis_of(end)
    if witness.host != end.asked_as:
        # Another process runs the task, and says itself how that ends.
        return Advance(Phase.STARTED)
    deaths = view.restarts + view.number
    if deaths < policy.submission_limit:
        return Restart(diagnosis, policy.backoff_s(deaths))
    return _too_often(diagnosis, deaths)


def _too_often(diagnosis: Diagnosis, times: int) -> Fail:
    return Fail(
        replace(
            diagnosis,
            message=f"{diagnosis.message or diagnosis.reason} (ended {times} times before the task "
            "could start; [hybrid_executor] submission_limit)",
        )
    )


def _died_running(view: AttemptView, end: Ended, policy: Policy) -> Decision:
    if end.how is How.ABSENT and view.backend is BackendName.CELERY:
        # A result store that lost its data is no proof that a worker died. The task's
        # own heartbeat, which Airflow watches, is.
        return Advance(Phase.STARTED)
    if end.how is How.SUCCEEDED and not end.diagnosis:
        message = "the process ended without an error but never told Airflow how the task ended"
        return Fail(Diagnosis(reason=Reason.LOST, message=message, exit_code=0))
    diagnosis = _diagnosis_of(end)
    if diagnosis.reason not in view.retry_on:
        return Fail(diagnosis)
    if view.restarts < view.retry_limit:
        return Restart(diagnosis, policy.backoff_s(view.restarts + 1))
    text = f"{diagnosis.message or diagnosis.reason} (as did {view.restarts} tries before; its retry_limit)"
    return Fail(replace(diagnosis, message=text))


def restart_text(diagnosis: Diagnosis) -> str:
    """What is written beside a task instance that the executor has run again."""
    return f"{RESTARTED_BY}{diagnosis}"


def restart_diagnosis(text: str | None) -> Diagnosis | None:
    """Of what it died, if it was this executor that has it run again; None if a user did."""
    if not text or not text.startswith(RESTARTED_BY):
        return None
    name, _, message = text.removeprefix(RESTARTED_BY).partition(": ")
    try:
        return Diagnosis(reason=Reason(name), message=message)
    except ValueError:  # of a later release
        return Diagnosis(reason=Reason.LOST, message=text)


def _diagnosis_of(end: Ended) -> Diagnosis:
    if end.diagnosis:
        return end.diagnosis
    messages = {
        How.ABSENT: "no trace of it is left in its backend",
        How.CANCELLED: "it was cancelled by somebody else",
        How.SUCCEEDED: "its process ended before the task was started",
        How.FAILED: "its process ended with an error",
    }
    reason = Reason.ERROR if end.how is How.FAILED else Reason.LOST
    return Diagnosis(reason=reason, message=messages[end.how])


def _outcome_of(end: Ended) -> Outcome:
    if end.how is How.SUCCEEDED:
        return Outcome.SUCCEEDED
    return Outcome.REVOKED if end.how is How.CANCELLED else Outcome.FAILED
