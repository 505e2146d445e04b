"""What Flower was told of pods, beside what the ledger knows of them: what is due is the difference.

Kept in a table of its own, written by the holder of a lease alone and after the
telling, so whoever holds it next goes on where the last one stopped: at worst
the batch that was on its way is told twice. Raises ``LedgerUnavailable`` only.
``hybrid_executor.flower`` calls it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Engine,
    RowMapping,
    Select,
    and_,
    case,
    delete,
    insert,
    literal_column,
    or_,
    select,
    tuple_,
)

from hybrid_executor.ledger.database import translated
from hybrid_executor.ledger.lease import Lease
from hybrid_executor.ledger.rows import record_of
from hybrid_executor.ledger.tables import flower, submission
from hybrid_executor.model.attempt import BackendName, SubmissionId
from hybrid_executor.model.record import SubmissionRecord

_c, _told = submission.c, flower.c
_PODS = _c.backend == BackendName.KUBERNETES.value
_SAME = and_(_told.attempt_id == _c.attempt_id, _told.submission == _c.submission)
_ROW = (submission, _told.told)
#: ``podevents.Told`` of an open row, and of one that has ended.
_REACHED: ColumnElement[int] = case(
    (_c.started_at.is_not(None), literal_column("3")),
    (_c.submitted_at.is_not(None), literal_column("2")),
    else_=literal_column("1"),
)
ENDED = 4


class FlowerRegister:
    """Reads and writes what was told, by one holder."""

    def __init__(self, engine: Engine, lease: Lease) -> None:
        self._engine = engine
        self._lease = lease

    def due(self, ended_since: datetime, limit: int) -> list[tuple[SubmissionRecord, int | None]]:
        """Pods of which there is something to tell, with how far they were told of; so many at most.

        All that are open, all that were told of and have ended since, whenever
        that was, and those never told of that ended at ``ended_since`` or later.
        """
        found: list[tuple[SubmissionRecord, int | None]] = []
        with translated(), self._engine.connect() as connection:
            for query in (_left_open(), _never_told(ended_since), _open()):
                rows = connection.execute(query.limit(limit - len(found))).mappings().all()
                found += [(record, row["told"]) for row in rows if (record := _legible(row))]
                if len(found) >= limit:
                    break
        return found

    def note(self, told: Sequence[tuple[SubmissionId, int]], now: datetime) -> bool:
        """Write down how far each was told of; False, and nothing written, if another holds the lease."""
        with translated(), self._engine.begin() as connection:
            if not self._lease.guard(connection, now):
                return False
            keys = [tuple(key) for key, _ in told]
            connection.execute(delete(flower).where(tuple_(_told.attempt_id, _told.submission).in_(keys)))
            rows = [
                {"attempt_id": key.attempt_id, "submission": key.number, "told": stage, "told_at": now}
                for key, stage in told
            ]
            connection.execute(insert(flower), rows)
        return True

    def running(self) -> Iterable[tuple[str, str | None]]:
        """Cluster and ``namespace/pod`` of each pod whose task runs; one query."""
        query = select(_c.cluster, _c.external_name).where(
            _PODS, _c.ended_at.is_(None), _c.started_at.is_not(None)
        )
        with translated(), self._engine.connect() as connection:
            return [(cluster or "", name) for cluster, name in connection.execute(query)]

    def forget(self, before: datetime) -> None:
        """Drop what was told to its end before that time."""
        with translated(), self._engine.begin() as connection:
            connection.execute(delete(flower).where(_told.told == ENDED, _told.told_at < before))


def _open() -> Select[Any]:
    due = or_(_told.told.is_(None), _told.told < _REACHED)
    # Naming ended_at leads to the index of what is open; see ``statements.open_of_others``.
    order = (_c.ended_at, _c.queued_at, _c.attempt_id, _c.submission)
    return select(*_ROW).outerjoin(flower, _SAME).where(_PODS, _c.ended_at.is_(None), due).order_by(*order)


def _left_open() -> Select[Any]:
    return select(*_ROW).join(flower, _SAME).where(_told.told < ENDED, _c.ended_at.is_not(None))


def _never_told(since: datetime) -> Select[Any]:
    unknown = _told.attempt_id.is_(None)
    return (
        select(*_ROW)
        .outerjoin(flower, _SAME)
        .where(_PODS, _c.ended_at >= since, unknown)
        .order_by(_c.ended_at, _c.attempt_id, _c.submission)
    )


def _legible(row: RowMapping) -> SubmissionRecord | None:
    """The record; None for one of a later release, which tells of it itself."""
    try:
        return record_of(row)
    except ValueError:
        return None
