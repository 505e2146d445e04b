"""How things stand, as one user may see it: queues, waits, places, how long things take, and curves.

Pure: makes of a ``Survey``, which is everybody's, what is of the DAGs that the
user may read; no row of another DAG is counted in anything. The page in
Airflow's UI calls it, and ``airflow hybrid status`` its ``places``.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil
from typing import NamedTuple

from hybrid_executor.ledger.history import Wait
from hybrid_executor.ledger.survey import Move, Survey
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.record import Outcome, Stage, SubmissionRecord

#: Between two points of a curve.
STEP = timedelta(minutes=1)


class Queue(NamedTuple):
    """A queue of one backend."""

    backend: BackendName
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How long something took, in seconds: half of them no longer than ``median_s``."""

    count: int
    median_s: float
    p95_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStanding:
    """One queue at one time."""

    queue: Queue
    stages: Mapping[Stage, int]
    #: Of the last hour.
    ends: Mapping[Outcome, int]
    #: What has waited longest; None where nothing waits.
    oldest: SubmissionRecord | None
    #: From queued to started, and from started to ended, of what ended lately.
    waited: Spread | None
    ran: Spread | None
    #: How many had not started, at each of the overview's ``times``.
    depths: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All that one user may see of how things stand."""

    at: datetime
    since: datetime
    #: The times of every curve; they begin later than ``since`` where more has happened than is read.
    times: Sequence[datetime]
    queues: Sequence[QueueStanding]
    #: By queue and reason, the longest first.
    waits: Sequence[Wait]
    #: How many run on each worker, and in pods on each node; the busiest first.
    places: Sequence[tuple[BackendName, str, int]]
    #: Ends for a reason, the most frequent first.
    reasons: Sequence[tuple[BackendName, str, int]]


def overview(survey: Survey, dag_ids: Collection[str | None]) -> Overview:
    """What the survey says of these DAGs; None among them stands for what is of no DAG."""
    seen = _of(survey, dag_ids)
    stages, ends = _stages(seen), _ends(seen)
    waits = _waits(seen)
    moves = _by_queue(seen.moves)
    times = _times(seen)
    return Overview(
        at=seen.at,
        since=seen.since,
        times=times,
        queues=[
            QueueStanding(
                queue=queue,
                stages=stages.get(queue, {}),
                ends=ends.get(queue, {}),
                oldest=_oldest(waits, queue),
                waited=spread(
                    (move.started_at - move.queued_at).total_seconds()
                    for move in moves.get(queue, ())
                    if move.started_at
                ),
                ran=spread(
                    (move.ended_at - move.started_at).total_seconds()
                    for move in moves.get(queue, ())
                    if move.started_at and move.ended_at
                ),
                depths=depths(times, _waiting(stages.get(queue, {})), moves.get(queue, ())),
            )
            for queue in sorted({*stages, *ends})
        ],
        waits=waits,
        places=places((row.backend, row.where, row.count) for row in seen.running),
        reasons=_reasons(seen),
    )


def spread(seconds: Iterable[float]) -> Spread | None:
    """None of nothing; what clocks of two machines make negative counts as 0."""
    ordered = sorted(max(0.0, value) for value in seconds)
    if not ordered:
        return None
    return Spread(count=len(ordered), median_s=_rank(ordered, 0.5), p95_s=_rank(ordered, 0.95))


def _rank(ordered: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def depths(times: Sequence[datetime], waiting: int, moves: Iterable[Move]) -> list[int]:
    """How many waited at each time, told backwards from how many wait at the last of them."""
    queued, left = [], []
    for move in moves:
        queued.append(move.queued_at)
        if gone := move.started_at or move.ended_at:
            left.append(gone)
    queued.sort()
    left.sort()

    def after(ordered: list[datetime], time: datetime) -> int:
        return len(ordered) - bisect_right(ordered, time)

    return [max(0, waiting + after(left, time) - after(queued, time)) for time in times]


def _of(survey: Survey, dag_ids: Collection[str | None]) -> Survey:
    """The part of a survey that is of these DAGs."""
    return replace(
        survey,
        opens=[row for row in survey.opens if row.dag_id in dag_ids],
        ends=[row for row in survey.ends if row.dag_id in dag_ids],
        waits=[wait for wait in survey.waits if _dag_of(wait.oldest) in dag_ids],
        running=[row for row in survey.running if row.dag_id in dag_ids],
        moves=[move for move in survey.moves if move.dag_id in dag_ids],
    )


def _dag_of(record: SubmissionRecord) -> str | None:
    return record.address.dag_id if record.address else None


def _stages(survey: Survey) -> dict[Queue, Counter[Stage]]:
    counted: defaultdict[Queue, Counter[Stage]] = defaultdict(Counter)
    for row in survey.opens:
        counted[Queue(row.backend, row.queue)][row.stage] += row.count
    return counted


def _ends(survey: Survey) -> dict[Queue, Counter[Outcome]]:
    counted: defaultdict[Queue, Counter[Outcome]] = defaultdict(Counter)
    for row in survey.ends:
        counted[Queue(row.backend, row.queue)][row.outcome] += row.count
    return counted


def _waits(survey: Survey) -> list[Wait]:
    """Those of all DAGs together, by queue and reason."""
    found: dict[tuple[Queue, str | None], Wait] = {}
    for wait in sorted(survey.waits, key=lambda wait: wait.oldest.queued_at):
        key = (_queue_of(wait.oldest), wait.oldest.waits_for)
        first = found.get(key)
        found[key] = replace(first, count=first.count + wait.count) if first else wait
    return list(found.values())


def _oldest(waits: Iterable[Wait], queue: Queue) -> SubmissionRecord | None:
    return next((wait.oldest for wait in waits if _queue_of(wait.oldest) == queue), None)


def _queue_of(record: SubmissionRecord) -> Queue:
    return Queue(record.backend, record.queue)


def _waiting(stages: Mapping[Stage, int]) -> int:
    return sum(count for stage, count in stages.items() if stage is not Stage.RUNNING)


def _by_queue(moves: Iterable[Move]) -> dict[Queue, list[Move]]:
    found: defaultdict[Queue, list[Move]] = defaultdict(list)
    for move in moves:
        found[Queue(move.backend, move.queue)].append(move)
    return found


def _times(survey: Survey) -> list[datetime]:
    """A step apart, the last of them now."""
    steps = int((survey.at - survey.complete_since) / STEP)
    return [survey.at - STEP * back for back in range(steps, -1, -1)]


def places(running: Iterable[tuple[BackendName, str, int]]) -> list[tuple[BackendName, str, int]]:
    """Workers by their names, pods (``pod on node``) by their nodes; the busiest first."""
    load: Counter[tuple[BackendName, str]] = Counter()
    for backend, where, count in running:
        name = where.rpartition(" on ")[2] if backend is BackendName.KUBERNETES else where
        load[backend, name] += count
    return [(backend, name, count) for (backend, name), count in load.most_common()]


def _reasons(survey: Survey) -> list[tuple[BackendName, str, int]]:
    counted: Counter[tuple[BackendName, str]] = Counter()
    for row in survey.ends:
        if row.reason:
            counted[row.backend, row.reason] += row.count
    return [(backend, reason, count) for (backend, reason), count in counted.most_common()]
