"""The ledger at a glance: what is open and what has ended lately, by queue and by DAG.

Every answer says of which DAG it is, so that one reading serves everybody and
each is shown their own part of it. Reads and never writes; each query follows
the index of what is open or of what has ended, and what it returns grows with
the work in flight and the last hour, not with the history. The page in
Airflow's UI calls it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, RowMapping, Select, func, select

from hybrid_executor.ledger.database import readable, translated
from hybrid_executor.ledger.history import Wait
from hybrid_executor.ledger.queries import stage_as_sql
from hybrid_executor.ledger.tables import submission
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.record import Outcome, Stage

_c = submission.c
#: Moves of one kind that are read; where there are more, the curves begin later.
MOVES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Open:
    """So many are open on a queue, at one stage; ``oldest`` was queued first."""

    backend: BackendName
    queue: str
    dag_id: str | None
    stage: Stage
    count: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """So many have ended in one way, for one reason."""

    backend: BackendName
    queue: str
    dag_id: str | None
    outcome: Outcome
    #: As the ledger has it: a later release may know more of them.
    reason: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Running:
    """So many run on one worker, or in one pod: ``pod on node``."""

    backend: BackendName
    where: str
    dag_id: str | None
    count: int


class Move(NamedTuple):
    """When one submission was queued, started and ended, as far as it is."""

    backend: BackendName
    queue: str
    dag_id: str | None
    queued_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    attempt_id: str
    submission: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What the ledger says at one time, of every DAG."""

    at: datetime
    #: Ends are counted from here on.
    since: datetime
    #: Every move from here on is in ``moves``.
    complete_since: datetime
    opens: Sequence[Open]
    ends: Sequence[Ended]
    waits: Sequence[Wait]
    running: Sequence[Running]
    moves: Sequence[Move]


def mark(engine: Engine) -> str:
    """A word that is another one as soon as anything in the ledger has changed; one query, of open rows."""
    with translated(), engine.connect() as connection:
        return "/".join(str(value) for value in connection.execute(marking()).one())


def survey(engine: Engine, at: datetime, since: datetime) -> Survey:
    """Seven queries, whatever is in flight; raises ``LedgerUnavailable``."""
    with translated(), engine.connect() as connection:
        begins, moves = _moves(connection, since)
        return Survey(
            at=at,
            since=since,
            complete_since=begins,
            opens=[
                Open(BackendName(backend), queue, dag_id, Stage(stage), count, oldest)
                for backend, queue, dag_id, stage, count, oldest in connection.execute(opens())
            ],
            ends=[
                Ended(BackendName(backend), queue, dag_id, Outcome(outcome), reason, count)
                for backend, queue, dag_id, outcome, reason, count in connection.execute(ends(since))
            ],
            waits=[Wait(count=row["count"], oldest=readable(row)) for row in _mappings(connection, waits())],
            running=[
                Running(BackendName(backend), where or "?", dag_id, count)
                for backend, where, dag_id, count in connection.execute(running())
            ],
            moves=moves,
        )


def _moves(connection: Connection, since: datetime) -> tuple[datetime, list[Move]]:
    """The newest of each kind, and from when on none of them is missing."""
    begins, found = since, []
    for query, ordered_by in ((queued, "queued_at"), (started, "started_at"), (ended, "ended_at")):
        rows = [Move(BackendName(row[0]), *row[1:]) for row in connection.execute(query(since))]
        if len(rows) == MOVES_MAX:
            begins = max(begins, getattr(rows[-1], ordered_by))
        found.append(rows)
    # What is open, was queued and has started since then came twice.
    return begins, list(dict.fromkeys(chain(*found)))


def _mappings(connection: Connection, query: Select[Any]) -> Sequence[RowMapping]:
    return connection.execute(query).mappings().all()


def marking() -> Select[Any]:
    """One row that changes with the ledger: how many are how far, and when something last happened."""
    last_end = select(func.max(_c.ended_at)).where(_c.ended_at.is_not(None)).scalar_subquery()
    times = (_c.queued_at, _c.submitted_at, _c.started_at, _c.waits_since)
    return select(
        *(count for time in times for count in (func.count(time), func.max(time))),
        func.count(_c.worker_leaves_at),
        last_end,
    ).where(_c.ended_at.is_(None))


def opens() -> Select[Any]:
    """What is open by backend, queue, DAG and stage."""
    key = (_c.backend, _c.queue, _c.dag_id)
    counted = (func.count().label("count"), func.min(_c.queued_at).label("oldest"))
    return (
        select(*key, stage_as_sql.label("stage"), *counted)
        .where(_c.ended_at.is_(None))
        .group_by(*key, stage_as_sql)
    )


def ends(since: datetime) -> Select[Any]:
    """What has ended since then by backend, queue, DAG, outcome and reason."""
    key = (_c.backend, _c.queue, _c.dag_id, _c.outcome, _c.reason)
    return select(*key, func.count().label("count")).where(_c.ended_at >= since).group_by(*key)


def waits() -> Select[Any]:
    """The oldest of each queue, reason and DAG that has not started, and how many wait so."""
    key = (_c.backend, _c.queue, _c.waits_for, _c.dag_id)
    waiting = (
        select(
            submission,
            func.row_number().over(partition_by=key, order_by=(_c.queued_at, _c.attempt_id)).label("nth"),
            func.count().over(partition_by=key).label("count"),
        )
        .where(_c.ended_at.is_(None), _c.started_at.is_(None))
        .subquery()
    )
    return select(waiting).where(waiting.c.nth == 1).order_by(waiting.c.queued_at)


def running() -> Select[Any]:
    """How many run where, by DAG."""
    key = (_c.backend, _c.ran_on, _c.dag_id)
    return (
        select(*key, func.count().label("count"))
        .where(_c.ended_at.is_(None), _c.started_at.is_not(None))
        .group_by(*key)
    )


def queued(since: datetime) -> Select[Any]:
    """What is open and was queued since then, the newest first."""
    return _moving().where(_c.ended_at.is_(None), _c.queued_at >= since).order_by(_c.queued_at.desc())


def started(since: datetime) -> Select[Any]:
    """What runs and has started since then, the newest first."""
    return _moving().where(_c.ended_at.is_(None), _c.started_at >= since).order_by(_c.started_at.desc())


def ended(since: datetime) -> Select[Any]:
    """What has ended since then, the newest first."""
    return _moving().where(_c.ended_at >= since).order_by(_c.ended_at.desc())


def _moving() -> Select[Any]:
    key = (_c.backend, _c.queue, _c.dag_id)
    return select(*key, _c.queued_at, _c.started_at, _c.ended_at, _c.attempt_id, _c.submission).limit(
        MOVES_MAX
    )
