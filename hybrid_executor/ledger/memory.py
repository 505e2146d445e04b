"""A ledger in memory: the same contract as the durable one, for tests and trials.

Passes the contract suite of ``ports.Ledger``; keeps nothing beyond its
process. ``MemoryTransaction`` stands in for a caller's database transaction;
handed any other connection, ``insert`` writes at once, since it cannot see
that connection roll back.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from hybrid_executor.ledger.rows import apply, folded, in_a_row
from hybrid_executor.model.attempt import BackendName, SubmissionId, TaskAddress
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.record import Change, Outcome, Stage, SubmissionRecord


class MemoryLedger:
    """``ports.Ledger`` over a dictionary. Set ``away`` to make every call raise."""

    def __init__(self) -> None:
        self.away = False
        #: How many calls have written something.
        self.writes = 0
        self._rows: dict[SubmissionId, SubmissionRecord] = {}

    @property
    def records(self) -> list[SubmissionRecord]:
        """Every row, in the order of the keys."""
        return [self._rows[key] for key in sorted(self._rows)]

    def begin(self) -> "MemoryTransaction":
        """Open a transaction, to be handed to ``insert`` as its connection."""
        return MemoryTransaction(self._rows)

    def insert(self, connection: Any, records: Sequence[SubmissionRecord]) -> None:
        """Write rows, all or none, visible to others when the transaction commits."""
        self._reach()
        if not records:
            return
        staged = connection.staged if isinstance(connection, MemoryTransaction) else self._rows
        ids = [record.id for record in records]
        if len(set(ids)) < len(ids) or any(key in staged or key in self._rows for key in ids):
            raise LedgerUnavailable("the ledger has one of the rows already")
        self.writes += 1
        staged.update(zip(ids, records, strict=True))

    def record(self, new: Sequence[SubmissionRecord], changes: Sequence[Change]) -> None:
        """Write new rows, then changes, all or none."""
        if not new and not changes:
            return
        self._reach()
        self.writes += 1
        for record in new:
            self._rows.setdefault(record.id, record)
        for change in folded(changes):
            if change.id in self._rows:
                self._rows[change.id] = apply(change, self._rows[change.id])

    def find(self, attempt_ids: Collection[str]) -> Mapping[str, SubmissionRecord]:
        """The newest submission of each attempt that is known."""
        self._reach()
        return {
            record.id.attempt_id: record for record in self.records if record.id.attempt_id in attempt_ids
        }

    def restarts(self, addresses: Collection[TaskAddress]) -> Mapping[TaskAddress, int]:
        """How many tries in a row, right before each address's own, ended as restarted."""
        self._reach()
        ended = [r.address for r in self.records if r.outcome is Outcome.RESTARTED and r.address]
        return {
            a: in_a_row(
                (e.try_number for e in ended if replace(e, try_number=a.try_number) == a), a.try_number
            )
            for a in addresses
        }

    def open_elsewhere(self, live_owners: Collection[str], limit: int) -> list[SubmissionRecord]:
        """Open rows whose ``scheduler_job`` is not among ``live_owners``, oldest first."""
        self._reach()
        return _oldest_first(
            record
            for record in self._rows.values()
            if record.ended_at is None and record.scheduler_job not in live_owners
        )[:limit]

    def open_of(self, owner: str, after: SubmissionRecord | None, limit: int) -> list[SubmissionRecord]:
        """Open rows of one scheduler, oldest first, from the one that follows ``after`` on."""
        self._reach()
        mine = [r for r in self._rows.values() if r.ended_at is None and r.scheduler_job == owner]
        return [r for r in _oldest_first(mine) if after is None or _age(r) > _age(after)][:limit]

    def stages_of(self, owner: str) -> Mapping[str, tuple[int, Stage]]:
        """Every attempt that is open with this scheduler: its newest open submission."""
        self._reach()
        return {
            record.id.attempt_id: (record.id.number, Stage(record.state))
            for record in self.records
            if record.ended_at is None and record.scheduler_job == owner
        }

    def celery_loads(self) -> Sequence[tuple[str, str | None, int]]:
        """Queue, worker (None: not started) and how many open Celery submissions."""
        self._reach()
        counted = Counter(
            (record.queue, record.where)
            for record in self._rows.values()
            if record.ended_at is None
            and record.backend is BackendName.CELERY
            and record.worker_leaves_at is None
        )
        return [(queue, worker, count) for (queue, worker), count in counted.items()]

    def _reach(self) -> None:
        if self.away:
            raise LedgerUnavailable("the ledger is away")


class MemoryTransaction:
    """Rows that nobody sees until ``commit``; ``rollback`` forgets them."""

    def __init__(self, rows: dict[SubmissionId, SubmissionRecord]) -> None:
        self.staged: dict[SubmissionId, SubmissionRecord] = {}
        self._rows = rows

    def commit(self) -> None:
        self._rows.update(self.staged)
        self.staged.clear()

    def rollback(self) -> None:
        self.staged.clear()


def _oldest_first(records: Iterable[SubmissionRecord]) -> list[SubmissionRecord]:
    return sorted(records, key=_age)


def _age(record: SubmissionRecord) -> tuple[datetime, SubmissionId]:
    return record.queued_at, record.id
