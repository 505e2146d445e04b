"""What became of an attempt or a task, for any process that can reach Airflow's metadata database.

One record for both backends, live or long past: ``SubmissionRecord``, of the
newest submission. Reads the ledger and nothing else, so it says how the
process ended; what became of the task is Airflow's to say. Every answer is the
database's; the ledger's live half, where there is one, only wakes who waits,
within milliseconds. A process that is no part of Airflow calls
``airflow.settings.configure_orm()`` first.

    from hybrid_executor import results

    results.get("8cde6fc8-0d1e-4a54-9c55-4f6c4c0a7a10")
    results.wait(results.Task("etl", "manual__1", "load"), deadline_s=60)

Called by users; nothing of this package needs it.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from hybrid_executor import contract
from hybrid_executor.ledger.history import History
from hybrid_executor.ledger.live.bell import Bell
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.record import Outcome, SubmissionRecord
from hybrid_executor.settings import load_live
from hybrid_executor.timeline import Event, Moment, story

#: Between two looks: what has just changed changes again soon, what has not may take long.
LOOK_MIN_S, LOOK_MAX_S = 0.2, 2.0
#: The same while the live half wakes: what it lost is seen no later.
LOOK_WOKEN_S = 5.0


class Task(NamedTuple):
    """A task of a run, in one try or, without one, in its newest."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int | None = None


#: An attempt by its id, which is the task instance's ``external_executor_id``, or a task.
What = str | Task


def get(what: What) -> SubmissionRecord | None:
    """Its newest submission; None where the ledger knows of none.

    Blocks for one query; raises ``LedgerUnavailable``.
    """
    found = _submissions(what)
    return found[-1] if found else None


def wait(what: What, *, deadline_s: float) -> SubmissionRecord:
    """Its newest submission, once that has ended; also waits for one that the ledger does not know yet.

    A submission that was sent again is no end. ``TimeoutError`` says how it
    stood when the deadline, in seconds, was over. A database that is away for
    a while is waited for.
    """
    found: list[SubmissionRecord] = []
    for found in _looks(what, deadline_s):
        if found and _is_over(found[-1]):
            return found[-1]
    stood = f"it is {found[-1].state}" if found else "the ledger knows nothing of it"
    why = found[-1].diagnosis if found else None
    raise TimeoutError(f"no end within {deadline_s:g} s; {stood}" + (f", {why}" if why else ""))


def stream(what: What, *, deadline_s: float) -> Iterator[Moment]:
    """What happens to it from its beginning, each once and as soon as it is seen.

    Ends with its end or with the deadline, in seconds. Of several waits
    between two looks the last is seen.
    """
    told: set[tuple[SubmissionId, Event, str]] = set()
    for found in _looks(what, deadline_s):
        for record in found:
            for moment in story(record):
                key = (record.id, moment.event, moment.text)
                if key not in told:
                    told.add(key)
                    yield moment
        if found and _is_over(found[-1]):
            return


def _is_over(record: SubmissionRecord) -> bool:
    return record.ended_at is not None and record.outcome is not Outcome.REPLACED


def _looks(what: What, deadline_s: float) -> Iterator[list[SubmissionRecord]]:
    """Looks at the ledger again and again, at least once: when the live half says so, or ever less often."""
    end_s, look_s = time.monotonic() + deadline_s, LOOK_MIN_S
    before: list[SubmissionRecord] = []
    attempts: set[str] = set()
    bell = Bell(load_live(), lambda told: _is_about(what, told, attempts))
    is_heard = False
    try:
        while True:
            try:
                found = _submissions(what)
            except LedgerUnavailable:
                if time.monotonic() >= end_s:
                    raise
                found = before
            yield found
            look_s = LOOK_MIN_S if found != before else min(look_s * 1.5, LOOK_MAX_S)
            before, attempts = found, {record.id.attempt_id for record in found}
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return
            was_heard, is_heard = is_heard, bell.listen(left_s)
            # What happened before it listened, it does not tell.
            if was_heard or not is_heard:
                bell.wait(min(look_s, left_s), min(LOOK_WOKEN_S, left_s))
    finally:
        bell.close()


def _is_about(what: What, told: Mapping[str, str], attempts: Collection[str]) -> bool:
    """Whether a transition is one of this attempt, or of this task in any try."""
    if not isinstance(what, Task):
        return told.get("attempt") == what
    address = (what.dag_id, what.run_id, what.task_id, str(what.map_index))
    of = tuple(told.get(name) for name in ("dag_id", "run_id", "task_id", "map_index"))
    return of == address or told.get("attempt") in attempts


def _submissions(what: What) -> list[SubmissionRecord]:
    """All of one attempt, or of one try of a task, oldest first."""
    history = History(contract.metadata_engine())
    if not isinstance(what, Task):
        return history.of_attempt(what)
    found = history.of_task(what.dag_id, what.run_id, what.task_id, what.map_index)
    tries = [record.address.try_number for record in found if record.address]
    wanted = what.try_number or max(tries, default=None)
    return [record for record in found if record.address and record.address.try_number == wanted]
