"""The ledger's SQL for people who ask: which submissions, how many, and where they run.

Only builds statements; ``history`` runs them. Each follows an index however
long the history is: open rows have one of their own, tasks another, and what
is asked of the past is asked since a time.
"""

import base64
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, literal, literal_column, select, tuple_

from hybrid_executor.ledger.tables import UtcTime, submission
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, Stage

_c = submission.c

#: ``SubmissionRecord.state`` of what is open, as SQL. Constants stand in the text: PostgreSQL would take
#: an expression with parameters for another one wherever it comes again, as in GROUP BY.
stage_as_sql: ColumnElement[str] = case(
    (_c.started_at.is_not(None), literal_column(f"'{Stage.RUNNING}'")),
    (_c.submitted_at.is_not(None), literal_column(f"'{Stage.SUBMITTED}'")),
    else_=literal_column(f"'{Stage.QUEUED}'"),
)

#: An attempt's, as a mark may name it; some databases refuse text that has any character in it.
_ID = re.compile(r"[0-9a-f-]{1,36}")

#: What ``pod_runs`` reads: whole rows would be ten times as much.
POD_RUN = (
    "dag_id",
    "task_id",
    "queued_at",
    "started_at",
    "ended_at",
    "outcome",
    "reason",
    "cpu_request_m",
    "memory_request_bytes",
    "memory_limit_bytes",
    "cpu_peak_m",
    "memory_peak_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which submissions; None asks for no matter which."""

    #: Queued at this time, UTC, or later.
    since: datetime
    #: Queued before this time, UTC.
    until: datetime | None = None
    #: Of one of these DAGs; None among them stands for what is of none, as callbacks are.
    dag_ids: frozenset[str | None] | None = None
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int | None = None
    queue: str | None = None
    backend: BackendName | None = None
    state: Stage | Outcome | None = None
    #: What it ended for, or, while it is open, waits for.
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ends: the last submission on it."""

    queued_at: datetime
    attempt_id: str
    submission: int

    @property
    def mark(self) -> str:
        """It as one word that no shell cuts and no URL quotes."""
        words = [self.queued_at.isoformat(), self.attempt_id, self.submission]
        return base64.urlsafe_b64encode(json.dumps(words).encode()).decode().rstrip("=")

    @classmethod
    def at(cls, mark: str) -> "Place":
        """The place of a mark; ``ValueError`` for a word that is none."""
        try:
            words = json.loads(base64.urlsafe_b64decode(mark + "=" * (-len(mark) % 4)))
            queued_at, attempt_id, submission = words
            place = cls(datetime.fromisoformat(queued_at).astimezone(UTC), attempt_id, submission)
            is_one = _ID.fullmatch(attempt_id) and 0 < submission < 2**31
        except (TypeError, ValueError, OverflowError):
            is_one = None
        if not is_one:
            raise ValueError(f"{mark!r} is no place that a page has named")
        return place


def newest(wanted: Wanted, limit: int, after: Place | None = None) -> Select[Any]:
    """Submissions, newest first, those after a place if one is given."""
    found = select(submission).where(_c.queued_at >= wanted.since, *_conditions(wanted))
    if after:
        place = (literal(after.queued_at, UtcTime()), literal(after.attempt_id), literal(after.submission))
        found = found.where(
            # What follows says so too, but not every planner sees it.
            _c.queued_at <= after.queued_at,
            tuple_(_c.queued_at, _c.attempt_id, _c.submission) < tuple_(*place),
        )
    return found.order_by(_c.queued_at.desc(), _c.attempt_id.desc(), _c.submission.desc()).limit(limit)


def of_task(dag_id: str, run_id: str, task_id: str, map_index: int | None, limit: int) -> Select[Any]:
    """What became of one task of a run, newest first; of all its mapped instances for None."""
    key = [_c.dag_id == dag_id, _c.run_id == run_id, _c.task_id == task_id]
    if map_index is not None:
        key.append(_c.map_index == map_index)
    order = (_c.queued_at.desc(), _c.attempt_id, _c.submission.desc())
    return select(submission).where(*key).order_by(*order).limit(limit)


def stages_of_run(dag_id: str, run_id: str) -> Select[Any]:
    """How far each open submission of a run is."""
    return select(_c.attempt_id, stage_as_sql.label("stage")).where(
        _c.ended_at.is_(None), _c.dag_id == dag_id, _c.run_id == run_id
    )


def span_of_run(dag_id: str, run_id: str) -> Select[Any]:
    """When the first and the last submission of a run were queued, and how many there are."""
    # Counted as well: of times alone PostgreSQL would look for the ends of the index on ``queued_at``.
    columns: list[ColumnElement[Any]] = [
        func.min(_c.queued_at).label("first"),
        func.max(_c.queued_at).label("last"),
        func.count().label("count"),
    ]
    return select(*columns).where(_c.dag_id == dag_id, _c.run_id == run_id)


def open_counts() -> Select[Any]:
    """Open submissions by backend, queue and stage; with the oldest of each."""
    counted = (func.count().label("count"), func.min(_c.queued_at).label("oldest"))
    return (
        select(_c.backend, _c.queue, stage_as_sql.label("stage"), *counted)
        .where(_c.ended_at.is_(None))
        .group_by(_c.backend, _c.queue, stage_as_sql)
    )


def stages_of(owner: str) -> Select[Any]:
    """How far each open submission of one scheduler is, the newest of each attempt last."""
    return (
        select(_c.attempt_id, _c.submission, stage_as_sql.label("stage"))
        .where(_c.ended_at.is_(None), _c.scheduler_job == owner)
        .order_by(_c.attempt_id, _c.submission)
    )


def end_counts(since: datetime) -> Select[Any]:
    """Submissions that ended since then, by backend, queue and outcome."""
    return (
        select(_c.backend, _c.queue, _c.outcome, func.count().label("count"))
        .where(_c.ended_at >= since)
        .group_by(_c.backend, _c.queue, _c.outcome)
    )


def waits() -> Select[Any]:
    """The oldest submission of each backend, queue and reason that waits, and how many wait so."""
    group = (_c.backend, _c.queue, _c.waits_for)
    waiting = (
        select(
            submission,
            func.row_number().over(partition_by=group, order_by=(_c.queued_at, _c.attempt_id)).label("nth"),
            func.count().over(partition_by=group).label("count"),
        )
        .where(_c.ended_at.is_(None), _c.started_at.is_(None))
        .subquery()
    )
    return select(waiting).where(waiting.c.nth == 1).order_by(waiting.c.queued_at)


def places() -> Select[Any]:
    """How many submissions run where."""
    return (
        select(_c.backend, _c.ran_on, func.count().label("count"))
        .where(_c.ended_at.is_(None), _c.started_at.is_not(None))
        .group_by(_c.backend, _c.ran_on)
    )


def celery_loads() -> Select[Any]:
    """How many submissions of which queue are where on Celery workers that are to stay, or not started."""
    return (
        select(_c.queue, _c.ran_on, func.count().label("count"))
        .where(_c.ended_at.is_(None), _c.backend == BackendName.CELERY.value, _c.worker_leaves_at.is_(None))
        .group_by(_c.queue, _c.ran_on)
    )


def owners() -> Select[Any]:
    """How many open submissions which scheduler answers for."""
    return (
        select(_c.scheduler_job, func.count().label("count"))
        .where(_c.ended_at.is_(None))
        .group_by(_c.scheduler_job)
    )


def oldest() -> Select[Any]:
    """When the oldest submission was queued."""
    return select(_c.queued_at).order_by(_c.queued_at).limit(1)


def pod_runs(since: datetime, until: datetime, dag_id: str | None) -> Select[Any]:
    """What ran in pods and has ended, of what was queued from ``since`` until before ``until``."""
    query = select(*(_c[name] for name in POD_RUN)).where(
        _c.queued_at >= since,
        _c.queued_at < until,
        _c.backend == BackendName.KUBERNETES.value,
        _c.dag_id.is_not(None),
        _c.started_at.is_not(None),
        _c.ended_at.is_not(None),
    )
    return query if dag_id is None else query.where(_c.dag_id == dag_id)


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    equal = {
        _c.dag_id: wanted.dag_id,
        _c.run_id: wanted.run_id,
        _c.task_id: wanted.task_id,
        _c.map_index: wanted.map_index,
        _c.queue: wanted.queue,
        _c.backend: wanted.backend and wanted.backend.value,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    if wanted.until:
        conditions.append(_c.queued_at < wanted.until)
    if wanted.dag_ids is not None:
        conditions.append(_of_dags(wanted.dag_ids))
    if isinstance(wanted.state, Stage):
        conditions += [_c.ended_at.is_(None), stage_as_sql == wanted.state.value]
    elif wanted.state:
        conditions.append(_c.outcome == wanted.state.value)
    if wanted.reason:
        ended = _c.reason == wanted.reason.value
        waits = (_c.waits_for == wanted.reason.value) & _c.ended_at.is_(None) & _c.started_at.is_(None)
        conditions.append(ended | waits)
    return conditions


def _of_dags(dag_ids: frozenset[str | None]) -> ColumnElement[bool]:
    named = _c.dag_id.in_(sorted(dag_id for dag_id in dag_ids if dag_id is not None))
    return named | _c.dag_id.is_(None) if None in dag_ids else named
