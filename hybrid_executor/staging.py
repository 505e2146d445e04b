"""Holds attempts back until the scheduler's transaction has committed.

``queue_workload`` runs inside the scheduler's open transaction, and
``heartbeat`` runs after it whether it committed or not: the scheduler swallows
lock errors, rolls back and goes on. Only the session's own events tell:

- ``before_commit``: the ledger rows of all staged attempts in one INSERT, in
  the same transaction;
- ``after_commit``: the attempts are released to the controller;
- a rollback, or a close without either, discards them.

The scheduler forbids commits on its session in this phase; events cost no
query and are no commit. They also fire for savepoints, which are told apart by
the transaction that an attempt was staged in.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from hybrid_executor.inflight import Flight
from hybrid_executor.model.errors import LedgerUnavailable

log = logging.getLogger("hybrid_executor")


@dataclass(slots=True)
class _Staged:
    flight: Flight
    #: The innermost transaction that it was staged in; its end without a commit undoes it.
    transaction: SessionTransaction | None


class Staging:
    """Attempts between ``queue_workload`` and the commit of their QUEUED."""

    def __init__(
        self,
        *,
        insert: Callable[[Any, Sequence[Flight]], None],
        release: Callable[[Flight], None],
    ) -> None:
        """``insert`` writes ledger rows on a connection and raises ``LedgerUnavailable``."""
        self._insert = insert
        self._release = release
        self._staged: WeakKeyDictionary[Session, list[_Staged]] = WeakKeyDictionary()

    def stage(self, flight: Flight, session: Session) -> None:
        """Keep an attempt until this session's transaction ends."""
        if session not in self._staged:
            self._staged[session] = []
            event.listen(session, "before_commit", self._before_commit)
            event.listen(session, "after_commit", self._after_commit)
            event.listen(session, "after_soft_rollback", self._after_soft_rollback)
            event.listen(session, "after_transaction_end", self._after_transaction_end)
        transaction = session.get_nested_transaction() or session.get_transaction()
        self._staged[session].append(_Staged(flight, transaction))

    def holds(self, key: Any) -> bool:
        """Whether a workload with Airflow's ``key`` is staged."""
        return any(item.flight.key == key for staged in self._staged.values() for item in staged)

    def _before_commit(self, session: Session) -> None:
        staged = self._staged.get(session)
        if not staged or session.in_nested_transaction():
            return
        flights = [item.flight for item in staged if item.flight.routed]
        if not flights:
            return
        try:
            # The session's own pending changes go first, so that a failure of theirs is theirs.
            session.flush()
            self._insert(session.connection(), flights)
        except LedgerUnavailable as error:
            log.warning("%d attempts are recorded after their commit instead: %s", len(flights), error)
            return
        for flight in flights:
            flight.recorded = True

    def _after_commit(self, session: Session) -> None:
        if session.in_nested_transaction():
            return
        for item in self._take(session):
            self._release(item.flight)

    def _after_soft_rollback(self, session: Session, transaction: SessionTransaction) -> None:
        """Discard what was staged in a savepoint that is rolled back."""
        if transaction.nested:
            staged = self._staged.get(session, [])
            self._staged[session] = [item for item in staged if not _within(item.transaction, transaction)]
            _report(len(staged) - len(self._staged[session]))

    def _after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        """Discard what is still staged when the outermost transaction is over: it never committed."""
        if transaction.parent is None:
            _report(len(self._take(session)))

    def _take(self, session: Session) -> list[_Staged]:
        staged, self._staged[session] = self._staged.get(session, []), []
        return staged


def _within(transaction: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while transaction is not None and transaction is not outer:
        transaction = transaction.parent
    return transaction is outer


def _report(undone: int) -> None:
    if undone:
        log.info("%d attempts were rolled back with their transaction and are not sent", undone)
