"""Keeps the live half up to date: one thread, ``hybrid-live``, fed by the heartbeat.

``tell`` takes what has just become durable and returns at once; the thread
writes all of it in one round trip, and none where nothing has changed. Every
few seconds it compares what is there with the database. Whatever it finds
missing, it takes from there:

* batches are numbered and each names the one before, so that a server that was
  emptied, or set back to an older snapshot, is noticed with the next batch or
  the next comparison; then everything of this scheduler is written anew;
* a difference that two comparisons in a row have seen is repaired by itself: one
  alone may be a change that is still on its way.

While the server is away nothing waits for it, and one line says so at the
beginning and at the end. Never raises, never touches a task. ``executor`` makes
and stops it; it is ``ports.Live``.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar
from uuid import uuid4

from hybrid_executor.ledger.live import schema
from hybrid_executor.ledger.live.backlog import Backlog
from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.ledger.live.store import Item, LiveStore, Survey, item_drop, item_set
from hybrid_executor.meter import LIVE_AWAY, LIVE_BACKLOG, LIVE_REBUILDS, LIVE_REPAIRS, Meter
from hybrid_executor.model.errors import LedgerUnavailable, LiveUnavailable
from hybrid_executor.model.record import Change, SubmissionRecord
from hybrid_executor.ports import Ledger

log = logging.getLogger("hybrid_executor")

#: Between two tries while the server is away; each may block as long as the timeout of the connection.
PAUSE_S = 2.0
#: Longest time between two comparisons: what differs is repaired after two, and that within a minute.
CHECK_MAX_S = 20.0

_T = TypeVar("_T")


class LiveWriter:
    """Writes what one scheduler does."""

    def __init__(
        self, store: LiveStore, *, ledger: Ledger, owner: str, meter: Meter, interval_s: float
    ) -> None:
        """``interval_s`` is the time between two comparisons."""
        self._store = store
        self._ledger = ledger
        self._owner = owner
        self._meter = meter
        self._interval_s = min(interval_s, CHECK_MAX_S)
        self._backlog = Backlog()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        # --- of the thread alone ---
        self._session = uuid4().hex
        self._number = 0
        #: The batch that the server has; None where that is not known.
        self._after: str | None = None
        #: Taken from the backlog and not yet known to be written, with its number once it was sent.
        self._sending: tuple[str | None, list[Item]] | None = None
        self._check_at_s = 0.0
        self._suspects: dict[str, tuple[str | None, str | None]] = {}
        self._away: str | None = None
        self._has_written = False

    # --- what the scheduler's thread calls ------------------------------------------------

    def start(self) -> None:
        """Start the thread; returns at once, whether the server answers or not."""
        self._meter.read(LIVE_AWAY, lambda: {(): float(self._away is not None)})
        self._meter.read(LIVE_BACKLOG, lambda: {(): float(len(self._backlog))})
        self._thread = threading.Thread(target=self._run, name="hybrid-live", daemon=True)
        self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """Write what is left, if the server takes it at once, and end the thread."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(deadline_s)

    def tell(self, new: Sequence[SubmissionRecord], changes: Sequence[Change]) -> None:
        """See ``ports.Live``."""
        self._backlog.add(new, changes)
        self._wake.set()

    # --- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            stopping = self._stopping.is_set()
            self._wake.clear()
            try:
                self._turn()
                wait_s = self._check_at_s - time.monotonic()
            except LiveUnavailable as error:
                self._failed(str(error))
                wait_s = PAUSE_S
            except LedgerUnavailable as error:
                # The heartbeat says so.
                log.debug("live ledger: not compared, the metadata database is away: %s", error)
                wait_s = PAUSE_S
            except Exception:
                # A client library may raise anything, and without this thread all would grow old.
                log.exception("live ledger: could not be written; trying again")
                self._after = None
                wait_s = PAUSE_S
            if stopping:
                break
            if self._away:
                # What is told meanwhile does not make the server come back any sooner.
                self._stopping.wait(wait_s)
            else:
                self._wake.wait(max(0.0, wait_s))
        self._store.close()

    def _turn(self) -> None:
        if self._backlog.overflowed():
            self._after = None
        if self._after is None:
            self._rebuild()
        self._flush()
        if not self._stopping.is_set() and time.monotonic() >= self._check_at_s:
            self._check()
        if self._away:
            self._away = None
            log.info("live ledger: is back and as the database says")

    def _failed(self, why: str) -> None:
        if self._away is None:
            log.warning("live ledger: is away, the database alone is read meanwhile: %s", why)
        self._away = why
        # A comparison is what shows that it is back.
        self._check_at_s = 0.0
        self._store.close()

    def _flush(self) -> None:
        while batch := self._next():
            unknown = self._send(*batch)
            if unknown is None:
                self._rebuild()
                continue
            self._sending = None
            self._set(unknown)

    def _next(self) -> tuple[str, list[Item]] | None:
        """A batch keeps its number until it is known to be written: to repeat it is harmless."""
        number, items = self._sending or (None, self._backlog.take(schema.BATCH_ITEMS))
        if not items:
            return None
        number = number or self._count()
        self._sending = (number, items)
        return number, items

    def _count(self) -> str:
        self._number += 1
        return f"{self._session}:{self._number}"

    def _send(self, number: str, items: Sequence[Item], *, anew: bool = False) -> Sequence[str] | None:
        unknown = self._store.write(number, self._after, items, anew=anew)
        self._after = None if unknown is None else number
        return unknown

    # --- repairing ------------------------------------------------------------------------

    def _rebuild(self) -> None:
        """Write all that the database has open for this scheduler, and drop the rest."""
        self._after = None
        if self._sending:
            # Its number would be that of an earlier batch by now.
            self._sending = (None, self._sending[1])
        survey = self._store.survey()
        standing = self._ledger.stages_of(self._owner)
        items = [item_drop(attempt) for attempt in sorted(survey.index.keys() - standing.keys())]
        items += self._items_of(standing)
        first, *rest = list(_batches(items)) or [[]]
        self._send(self._count(), first, anew=True)
        for batch in rest:
            if self._send(self._count(), batch) is None:
                # Lost again: the next turn begins anew.
                raise LiveUnavailable("the server was emptied while it was written")
        self._suspects.clear()
        self._check_at_s = time.monotonic() + self._interval_s
        if self._has_written:
            self._meter.count(LIVE_REBUILDS)
            log.warning("live ledger: had lost batches; %d attempts were written anew", len(standing))
        self._has_written = True

    def _items_of(self, attempts: Iterable[str]) -> list[Item]:
        """As the database has them, of those that are open."""
        records = self._ledger.find(list(attempts))
        return [item_set(record) for record in records.values() if record.ended_at is None]

    def _set(self, attempts: Sequence[str]) -> None:
        """Attempts that the live half does not know: adopted ones, mostly."""
        if attempts and (items := self._items_of(attempts)):
            for batch in _batches(items):
                self._send_or_rebuild(batch)

    def _send_or_rebuild(self, items: Sequence[Item]) -> None:
        if self._send(self._count(), items) is None:
            self._rebuild()

    def _check(self) -> None:
        """Compare with the database, renew what is ours; bounded work, and repairs 1,000 at a time."""
        self._check_at_s = time.monotonic() + self._interval_s
        survey = self._store.survey()
        if survey.written != self._after:
            self._rebuild()
            return
        moved, missing = self._store.vouch(survey)
        self._count_repairs("set", moved)
        self._count_repairs("missing", len(missing))
        standing = self._ledger.stages_of(self._owner)
        wrong = self._confirmed(survey, {a: f"{n} {stage}" for a, (n, stage) in standing.items()})
        gone = [attempt for attempt in wrong if attempt not in standing]
        due = [attempt for attempt in {*missing, *wrong} if attempt in standing]
        self._count_repairs("ended", len(gone))
        self._count_repairs("stale", len(set(wrong) - set(gone) - set(missing)))
        items = [item_drop(attempt) for attempt in gone] + self._items_of(due)
        if items:
            self._send_or_rebuild(items[: schema.BATCH_ITEMS])

    def _confirmed(self, survey: Survey, standing: Mapping[str, str]) -> list[str]:
        """Attempts that differ now as they did the last time."""
        differ = {
            attempt: (survey.index.get(attempt), standing.get(attempt))
            for attempt in survey.index.keys() | standing.keys()
            if survey.index.get(attempt) != standing.get(attempt)
        }
        confirmed = [attempt for attempt, how in differ.items() if self._suspects.get(attempt) == how]
        self._suspects = {attempt: how for attempt, how in differ.items() if attempt not in confirmed}
        return confirmed

    def _count_repairs(self, kind: str, count: int) -> None:
        if count:
            log.info("live ledger: %d repaired that were %s", count, _KINDS[kind])
        for _ in range(count):
            self._meter.count(LIVE_REPAIRS, kind)


def open_writer(
    config: LiveConfig, *, ledger: Ledger, owner: str, meter: Meter, interval_s: float
) -> LiveWriter:
    """A writer whose thread runs."""
    store = LiveStore(config, owner)
    writer = LiveWriter(store, ledger=ledger, owner=owner, meter=meter, interval_s=interval_s)
    writer.start()
    return writer


_KINDS = {
    "set": "missing in a set of what is in flight, or one too many there",
    "missing": "gone",
    "stale": "other than the database says",
    "ended": "no longer open",
}


def _batches(items: list[_T]) -> Iterable[list[_T]]:
    for start in range(0, len(items), schema.BATCH_ITEMS):
        yield items[start : start + schema.BATCH_ITEMS]
