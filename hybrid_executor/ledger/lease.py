"""A lease: one process of several does something, and another takes over when it has not been heard of.

A row of the metadata database, so it needs nothing that the ledger does not
need and holds with any broker. Times are those of the schedulers' clocks, as
Airflow's own heartbeats are; where they differ, the lease is held the longer or
the shorter, by one all the same. Raises ``LedgerUnavailable`` only.
``hybrid_executor.flower`` holds one.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from hybrid_executor.ledger.database import translated
from hybrid_executor.ledger.tables import lease

_c = lease.c


class Lease:
    """One process's side of a lease. It lives ``life_s`` after it was last taken or renewed."""

    def __init__(self, engine: Engine, *, name: str, holder: str, life_s: float) -> None:
        self._engine = engine
        self._name = name
        self._holder = holder
        self._life = timedelta(seconds=life_s)
        self._until: datetime | None = None

    def hold(self, now: datetime) -> bool:
        """Take or renew it; whether it is held. One statement, and none in the first half of its life."""
        if self._until and self._until - now > self._life / 2:
            return True
        with translated(), self._engine.begin() as connection:
            held = self._take(connection, now)
        self._until = now + self._life if held else None
        return held

    def guard(self, connection: Connection, now: datetime) -> bool:
        """Whether it is held; nobody takes it before the end of this transaction."""
        mine = (_c.name == self._name, _c.holder == self._holder, _c.held_until > now)
        if connection.execute(select(_c.name).where(*mine).with_for_update()).first() is None:
            self._until = None
        return self._until is not None

    def release(self) -> None:
        """Let it go at once."""
        self._until = None
        with translated(), self._engine.begin() as connection:
            connection.execute(delete(lease).where(_c.name == self._name, _c.holder == self._holder))

    def _take(self, connection: Connection, now: datetime) -> bool:
        values = {"holder": self._holder, "held_until": now + self._life}
        free = or_(_c.holder == self._holder, _c.held_until <= now)
        taken = connection.execute(update(lease).where(_c.name == self._name, free).values(**values))
        if taken.rowcount == 1:
            return True
        if connection.execute(select(_c.name).where(_c.name == self._name)).first():
            return False
        try:
            with connection.begin_nested():
                connection.execute(insert(lease).values(name=self._name, **values))
        except IntegrityError:
            return False
        return True
