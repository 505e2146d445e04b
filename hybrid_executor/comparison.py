"""What follows when an attempt and the task instance that it was made for no longer agree. Pure.

``compare`` looks at one attempt in flight and at what the metadata database
says of its task instance, ``compare_row`` at one open row of the ledger for
which nothing is in flight, ``contradicted`` at one end. Each difference
has a name out of ``model.mismatch``; ``reconcile``, ``leftovers`` and
``controller`` carry out what follows. No I/O, no clock: durations are given.
"""

from dataclasses import dataclass
from datetime import datetime

from hybrid_executor.lifecycle import ENDED_BADLY, RUNNING, AttemptView, Witness, runs_elsewhere
from hybrid_executor.model.attempt import BackendName, WorkloadKind
from hybrid_executor.model.mismatch import Mismatch
from hybrid_executor.model.observation import Ended, How
from hybrid_executor.model.record import Outcome

#: States of a task instance in which its attempt may still have a process.
ALIVE = frozenset({"queued", "running", "restarting"})
#: How long a process may live on after Airflow has gone on without it, before it is withdrawn:
#: a task's supervisor reports the state first and ends its log after that.
LINGER_S = 15.0
#: A withdrawn attempt keeps its slot for Airflow's heartbeat timeout without a word of its backend, and no
#: shorter than this. By then the Execution API has stopped its process at a heartbeat, or the process itself,
#: for want of an answer to three in a row, which it sends every few seconds.
LEAK_MIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the executor knows of an attempt in flight."""

    attempt_id: str
    kind: WorkloadKind
    backend: BackendName
    queued_at: datetime
    #: With its backend.
    is_sent: bool
    #: Its backend has seen its process.
    has_started: bool
    #: Withdrawn, and for how long.
    revoked: bool = False
    withdrawn_s: float = 0.0
    #: For how long its task instance has gone on without it, as far as that was seen.
    over_s: float = 0.0
    #: Whether its backend answers at present.
    is_answered: bool = True


@dataclass(frozen=True, slots=True)
class Agrees:
    """There is nothing to repair."""


@dataclass(frozen=True, slots=True)
class Lingers:
    """It does not agree, and is given time to end by itself."""


@dataclass(frozen=True, slots=True)
class LetGo:
    """Forget it, and touch nothing: somebody else answers for it."""

    mismatch: Mismatch


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Withdraw it from its backend and close it; Airflow is told nothing."""

    mismatch: Mismatch
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class WithdrawAgain:
    """Ask its backend once more, and go on waiting for the answer."""

    mismatch: Mismatch


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Close it, withdrawn as it is, so that its slot is free."""

    mismatch: Mismatch


Finding = Agrees | Lingers | LetGo | Withdraw | WithdrawAgain | GiveBack


def compare(standing: Standing, witness: Witness | None, owner: str, heartbeat_timeout_s: float) -> Finding:
    """What follows for one attempt in flight of the scheduler ``owner``; total.

    ``witness`` is its task instance, None where there is none (any more);
    callbacks and connection tests never have one.
    """
    if standing.kind is not WorkloadKind.TASK:
        return _compare_withdrawn(standing, heartbeat_timeout_s) if standing.revoked else Agrees()
    if witness and witness.owner not in (None, owner):
        return LetGo(Mismatch.OWNED_ELSEWHERE)
    mismatch = gone_on(witness, standing.attempt_id)
    if mismatch is None:
        return Agrees()
    if standing.revoked:
        return _compare_withdrawn(standing, heartbeat_timeout_s)
    if standing.is_sent and _has_run(standing, witness) and standing.over_s < LINGER_S:
        return Lingers()
    return Withdraw(mismatch, outcome_of(witness, standing.attempt_id))


def _compare_withdrawn(standing: Standing, heartbeat_timeout_s: float) -> Finding:
    if standing.withdrawn_s < max(heartbeat_timeout_s, LEAK_MIN_S) or not standing.is_answered:
        return Lingers()
    if standing.backend is BackendName.CELERY:
        return GiveBack(Mismatch.SLOT_LEAKED)
    return WithdrawAgain(Mismatch.SLOT_LEAKED)


def gone_on(witness: Witness | None, attempt_id: str) -> Mismatch | None:
    """How the task instance has gone on without the attempt; None while it carries it and is not over."""
    if witness is None:
        return Mismatch.TASK_DELETED
    if witness.attempt_id != attempt_id:
        return Mismatch.TASK_REPLACED
    if witness.state in ALIVE:
        return None
    # Without a state, or to be queued again: it was cleared, or waits for its next try.
    waits = witness.state in (None, "scheduled", "up_for_reschedule", "deferred")
    return Mismatch.TASK_REPLACED if waits else Mismatch.TASK_OVER


def _has_run(standing: Standing, witness: Witness | None) -> bool:
    """Whether there is a task's process to wait for: its backend saw it, or it told Airflow that it starts.

    A user who marks a task gives it a start as well, but no host; an earlier try left both, but before.
    """
    if standing.has_started:
        return True
    if witness is None or not witness.host or not witness.started_at:
        return False
    return witness.started_at >= standing.queued_at


def outcome_of(witness: Witness | None, attempt_id: str) -> Outcome:
    """What the task instance's state says of an attempt that ended unseen."""
    if witness is None or witness.attempt_id != attempt_id:
        return Outcome.REVOKED
    if witness.state in ENDED_BADLY:
        return Outcome.FAILED
    return Outcome.SUCCEEDED


def state_text(witness: Witness | None) -> str:
    """What Airflow's table says, in words."""
    return f"the task instance is {witness.state}" if witness else "the task instance is gone"


def contradicted(end: Ended, view: AttemptView, witness: Witness | None) -> Mismatch | None:
    """What it is called that an end does not fit what else is known; None for an end that does.

    A look-up finds no trace of an attempt, or the task runs and this was not its process.
    """
    if runs_elsewhere(view, witness):
        return Mismatch.RUNS_ELSEWHERE
    if end.how is not How.ABSENT:
        return None
    if view.backend is BackendName.KUBERNETES:
        return Mismatch.POD_LOST
    return Mismatch.RESULT_LOST if witness and witness.state == RUNNING else Mismatch.MESSAGE_LOST
