"""The thread ``hybrid-flower``: has Flower show pods beside Celery tasks.

One process at a time tells of all pods of this Airflow, whichever scheduler
answers for them: the holder of a lease in the metadata database. What there is
to tell is what the ledger knows and its register of what was told does not, so

* a takeover goes on where the last holder stopped, and closes what that left open;
* nothing is buffered: while the broker is away, the ledger waits;
* the worst that a kill can do is that one batch is told twice, which Flower's tasks don't show.

Never runs in the heartbeat, never touches a task, never raises. That Flower is
away is not noticed here: whoever does not listen misses what is told. What
began and ended longer ago than ``LOOK_BACK_S`` before it could be told is not
told at all. ``executor`` makes and stops it.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4

from sqlalchemy import Engine

from hybrid_executor.backends.celery.app import provider_app
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.events import EventSender
from hybrid_executor.backends.celery.outage import Outage
from hybrid_executor.backends.celery.podevents import Event, Told, events_of, reached, worker_name, worker_of
from hybrid_executor.ledger.flower import FlowerRegister
from hybrid_executor.ledger.lease import Lease
from hybrid_executor.meter import FLOWER_AWAY, FLOWER_EVENTS, FLOWER_LAG, Meter
from hybrid_executor.model.errors import BrokerUnavailable, ConfigError, Unavailable
from hybrid_executor.version import __version__

log = logging.getLogger("hybrid_executor")

LEASE = "flower"
#: After its death, so long until another may tell. Flower calls a worker offline after twice ``FREQUENCY_S``
#: without a word, which is longer.
LEASE_S = 20.0
#: Between two looks of who tells, and between two tries of who would.
LOOK_S, TRY_S = 2.0, 5.0
#: Between two heartbeats of each worker; what Flower is told that it is.
BEAT_S, FREQUENCY_S = 10.0, 20.0
#: How far back a look goes for what ended and was never told of: as a rule, and from time to time, for what
#: was written late.
LOOK_BACK_SHORT_S, LOOK_BACK_S, LOOK_BACK_EVERY_S = 60.0, 3600.0, 60.0
#: What was told to its end is remembered longer than any look goes back.
FORGET_S, FORGET_EVERY_S = 2 * LOOK_BACK_S, 600.0
#: Submissions in one look.
AT_ONCE = 500
#: Longest pause while something is away.
PAUSE_MAX_S = 10.0
#: After an outage of the broker nothing is told for as long as that lasted, within these bounds: Flower tries
#: again after growing pauses (2 s, 4 s, 6 s, …), and what is told before it is back nobody hears.
PATIENCE_MIN_S, PATIENCE_MAX_S = 10.0, 60.0


class Sender(Protocol):
    """See ``EventSender``."""

    def send(self, events: list[Event]) -> None: ...
    def close(self) -> None: ...


class FlowerTeller:
    """One scheduler's side. ``start`` starts the thread; ``turn`` is what it does again and again."""

    def __init__(
        self,
        *,
        register: FlowerRegister,
        lease: Lease,
        open_sender: Callable[[], Sender],
        namespaces: Mapping[str, str],
        meter: Meter,
    ) -> None:
        """``namespaces`` by cluster; "" is the one of ``[kubernetes_executor]``."""
        self._register = register
        self._lease = lease
        self._open_sender = open_sender
        self._namespaces = namespaces
        self._meter = meter
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._outage = Outage("telling Flower of pods", PAUSE_MAX_S)
        #: When a look found nothing left to tell, or another holder of the lease.
        self._all_told_s = time.monotonic()
        # --- of the thread alone ---
        self._sender: Sender | None = None
        self._is_telling = False
        self._look_back_at_s = self._forget_at_s = self._beat_at_s = 0.0
        #: Since when the broker takes nothing, and until when listeners are waited for.
        self._away_since_s: float | None = None
        self._quiet_until_s = 0.0
        #: Workers that Flower was told of, with how many tasks each has had from this process.
        self._workers: Counter[str] = Counter()

    def start(self) -> None:
        """Start the thread; returns at once, whatever is away."""
        self._meter.read(FLOWER_AWAY, lambda: {(): float(self._outage.trouble is not None)})
        self._meter.read(FLOWER_LAG, lambda: {(): self.lag_s})
        self._thread = threading.Thread(target=self._run, name="hybrid-flower", daemon=True)
        self._thread.start()

    @property
    def lag_s(self) -> float:
        """Since when not all is told; any thread may ask, and sees one that hangs or has died."""
        return time.monotonic() - self._all_told_s

    def stop(self, deadline_s: float) -> None:
        """Tell what is left, if that goes at once, and leave the rest to whoever comes next."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(deadline_s)

    # --- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self._guarded(self.turn))
        self._guarded(self._leave)
        if self._sender:
            self._sender.close()

    def _guarded(self, work: Callable[[], float]) -> float:
        """For how long to wait after it."""
        try:
            wait_s = work()
        except (Unavailable, ConfigError) as error:
            self._look_back_at_s = 0.0
            return self._outage.failed(str(error))
        except Exception as error:
            # A client library may raise anything, and without this thread Flower would stand still.
            log.exception("telling Flower of pods failed; trying again")
            self._look_back_at_s = 0.0
            return self._outage.failed(type(error).__name__)
        self._outage.over()
        return wait_s

    def turn(self) -> float:
        """One look; returns for how many seconds to wait for the next. Raises ``Unavailable``."""
        now = datetime.now(UTC)
        if not self._lease.hold(now):
            self._give_up()
            self._all_told_s = time.monotonic()
            return TRY_S
        if not self._is_telling:
            log.info("this scheduler tells Flower of pods")
            self._is_telling = True
        self._beat(now)
        is_quiet = time.monotonic() < self._quiet_until_s
        is_all = is_quiet or self._tell(now)
        if is_all and not is_quiet:
            self._all_told_s = time.monotonic()
        if time.monotonic() >= self._forget_at_s:
            self._register.forget(now - timedelta(seconds=FORGET_S))
            self._forget_at_s = time.monotonic() + FORGET_EVERY_S
        return LOOK_S if is_all else 0.0

    def _tell(self, now: datetime) -> bool:
        """Tell what is due; whether that was all."""
        looks_back = time.monotonic() >= self._look_back_at_s
        back_s = LOOK_BACK_S if looks_back else LOOK_BACK_SHORT_S
        due = self._register.due(now - timedelta(seconds=back_s), AT_ONCE)
        if due:
            workers = {record.id: worker_of(record, self._namespaces) for record, _ in due}
            self._greet(workers.values(), now)
            events = [
                event
                for record, told in due
                for event in events_of(record, Told(told) if told else None, workers[record.id])
            ]
            self._send(events)
            if not self._register.note([(record.id, reached(record)) for record, _ in due], now):
                self._give_up()
                return True
            self._meter.count(FLOWER_EVENTS, by=len(events))
            self._workers.update(event.hostname for event in events if event.type == "task-received")
        is_all = len(due) < AT_ONCE
        if looks_back and is_all:
            self._look_back_at_s = time.monotonic() + LOOK_BACK_EVERY_S
        return is_all

    def _greet(self, names: Iterable[str], now: datetime) -> None:
        """Say that these workers are there, where that was not said yet."""
        new = sorted(set(names) - self._workers.keys())
        if new:
            self._send([_of_worker("worker-online", name, now) for name in new])
            self._workers.update(dict.fromkeys(new, 0))

    def _beat(self, now: datetime) -> None:
        if time.monotonic() < self._beat_at_s:
            return
        running = Counter(
            worker_name((name or "").partition("/")[0], cluster)
            for cluster, name in self._register.running()
            if name
        )
        always = (worker_name(namespace, cluster) for cluster, namespace in self._namespaces.items())
        self._greet([*running, *always], now)
        self._send(
            [
                _of_worker("worker-heartbeat", name, now, active=running[name], processed=count)
                for name, count in self._workers.items()
            ]
        )
        self._beat_at_s = time.monotonic() + BEAT_S

    def _leave(self) -> float:
        """The last turn: tell what has ended, and let the next one begin at once."""
        if self._is_telling:
            now = datetime.now(UTC)
            self._tell(now)
            self._send([_of_worker("worker-offline", name, now) for name in self._workers])
            self._lease.release()
        return 0.0

    def _give_up(self) -> None:
        if self._is_telling:
            log.info("another scheduler tells Flower of pods")
        self._is_telling = False
        self._workers.clear()
        self._look_back_at_s = self._beat_at_s = 0.0

    def _send(self, events: list[Event]) -> None:
        if self._sender is None:
            self._sender = self._open_sender()
        try:
            self._sender.send(events)
        except BrokerUnavailable:
            self._away_since_s = self._away_since_s or time.monotonic()
            # A heartbeat is what shows that it is back.
            self._beat_at_s = 0.0
            raise
        if self._away_since_s:
            now_s = time.monotonic()
            lasted_s = now_s - self._away_since_s
            self._quiet_until_s = now_s + min(max(lasted_s, PATIENCE_MIN_S), PATIENCE_MAX_S)
            self._away_since_s = None


def _of_worker(kind: str, name: str, now: datetime, **more: int) -> Event:
    about = {
        "freq": FREQUENCY_S,
        "sw_ident": "hybrid-executor",
        "sw_ver": __version__,
        "sw_sys": "Kubernetes",
    }
    return Event(type=kind, hostname=name, at=now, fields={**about, **more})


def open_teller(
    engine: Engine,
    *,
    owner: str,
    namespaces: Mapping[str, str],
    celery: CeleryConfig,
    meter: Meter,
    make_app: Callable[[], Any] = provider_app,
) -> FlowerTeller:
    """A teller whose thread runs."""
    lease = Lease(engine, name=LEASE, holder=f"{owner} {uuid4().hex}", life_s=LEASE_S)
    teller = FlowerTeller(
        register=FlowerRegister(engine, lease),
        lease=lease,
        open_sender=lambda: EventSender(make_app(), celery),
        namespaces=namespaces,
        meter=meter,
    )
    teller.start()
    return teller
