"""The thread ``hybrid-celery-workers``: notices workers that are connected but take nothing (celery#8030).

A look is cheap while all is well: what is next in the queues where something
of ours waits, one round trip. Only where the next message of a queue has
stayed the same since the last look are workers asked what they serve and have
at hand; one that has nothing at hand and took nothing between two looks,
although a queue that it says it serves stood still, is idle. It is told to
reconnect, by ``worker.reconnect`` where the worker has this package; whether
or not it has, it is reported if the next look finds it idle still.

Never cancels a consumer: ``cancel_consumer`` and ``add_consumer`` seem to do
the same without our package, but a worker so told forgets the queue for good
at its next reconnect (Celery 5.6 leaves it deselected). Kills nothing. Only
Redis brokers can be looked into; on others no worker is called idle.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from celery.exceptions import CeleryError
from kombu.exceptions import KombuError

from hybrid_executor.backends.celery.broker import broker_errors, open_broker
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.outage import Outage
from hybrid_executor.backends.celery.queues import QueueReader
from hybrid_executor.backends.celery.redaction import error_text
from hybrid_executor.meter import MISMATCHES, Meter, Tags
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.errors import BrokerUnavailable
from hybrid_executor.model.mismatch import Mismatch

log = logging.getLogger(__name__)

#: The control command of ``hybrid_executor.worker.reconnect``.
RECONNECT = "hybrid_reconnect"
#: How long workers may take to answer; they do so from their event loop.
ANSWER_S = 1.0
#: Between two looks of one who asks once, at queues whose next message may be about to be taken.
LOOK_AGAIN_S = 1.5


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker says of itself."""

    serves: frozenset[str]
    #: Messages that it has and has not finished.
    at_hand: int
    #: Tasks that it has begun since its start.
    begun: int


@dataclass(frozen=True, slots=True)
class Look:
    """How things stood at one moment; workers were asked only where there was reason to."""

    #: The message that is taken next, for each queue that is not empty.
    following: Mapping[str, bytes] = field(default_factory=dict)
    workers: Mapping[str, Worker] = field(default_factory=dict)


def still(before: Look, now: Mapping[str, bytes]) -> frozenset[str]:
    """Queues from which nobody has taken anything since."""
    return frozenset(queue for queue, entry in now.items() if before.following.get(queue) == entry)


def idle(before: Look, now: Look) -> dict[str, frozenset[str]]:
    """Workers that took nothing in between and had nothing to do, with their queues that stood still."""
    stood = still(before, now.following)
    found = {}
    for name, worker in now.workers.items():
        earlier = before.workers.get(name)
        if earlier and earlier == worker and not worker.at_hand and (queues := worker.serves & stood):
            found[name] = queues
    return found


class WorkerWatch:
    """Constructing starts nothing; ``start`` starts the thread."""

    def __init__(
        self,
        app: Any,
        config: CeleryConfig,
        waiting_queues: Callable[[], Collection[str]],
        meter: Meter,
    ) -> None:
        """``waiting_queues`` names the queues where something of ours waits; asked from this thread."""
        self._app = app
        self._config = config
        self._waiting_queues = waiting_queues
        self._meter = meter
        self._queues = QueueReader(app, config)
        self._connection = open_broker(app, config.read_timeout_s)
        self._outage = Outage("the Celery broker (workers)", config.outage_pause_max_s, level=logging.DEBUG)
        self._last = Look()
        #: Idle workers that were told to reconnect, or could not be; and whether that was reported.
        self._idle: dict[str, bool] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hybrid-celery-workers", daemon=True)

    def idle_count(self) -> Mapping[Tags, float]:
        """How many workers are idle and should not be, as a gauge; may be asked by any thread."""
        return {(): len(self._idle)}

    def start(self) -> None:
        if self._queues.can_look:
            self._thread.start()

    def stop(self, deadline_s: float) -> None:
        """End the thread; one that waits for an answer is left to die with the process."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(max(deadline_s, 0.0))

    def _run(self) -> None:
        while not self._stopping.wait(self._config.workers_interval_s):
            try:
                self._step()
                self._outage.over()
            except BrokerUnavailable as error:
                self._last = Look()
                self._stopping.wait(self._outage.failed(str(error)))
            except Exception:
                # A broker's client may raise anything, and one odd answer must not end all looks.
                log.exception("looking for idle Celery workers failed; trying again")
                self._last = Look()
        self._queues.close()
        self._connection.release()

    def _step(self) -> None:
        now = self.look(self._waiting_queues(), self._last)
        found = idle(self._last, now)
        self._last = now
        for name in [name for name in self._idle if name not in found]:
            del self._idle[name]
            log.info("Celery worker %s is no longer idle, or no longer there", name)
        for name, queues in found.items():
            self._treat(name, ", ".join(sorted(queues)))

    def find(self, pause_s: float = LOOK_AGAIN_S) -> Mapping[str, Collection[str]]:
        """Idle workers and their queues, whoever sent what waits there: three looks, if there is reason to.

        For one who asks once, instead of ``start``. Raises ``BrokerUnavailable``.
        """
        look = Look()
        try:
            queues = self._queues.bound() if self._queues.can_look else ()
            for _ in range(2):
                look = self.look(queues, look)
                if not look.following:
                    return {}
                self._stopping.wait(pause_s)
            return idle(look, self.look(queues, look))
        finally:
            self._queues.close()
            self._connection.release()

    def look(self, queues: Collection[str], before: Look) -> Look:
        """These queues, and the workers if one of them stands still. Raises ``BrokerUnavailable``."""
        following = self._queues.following(queues) if queues else {}
        stood = still(before, following)
        return Look(following, self._ask(stood) if stood else {})

    def _treat(self, name: str, queues: str) -> None:
        if name not in self._idle:
            told = "told to reconnect" if self._tell(name) else "it knows no command to reconnect"
            log.warning(
                "Celery worker %s is connected and takes nothing, although messages wait in %s: %s",
                name,
                queues,
                told,
            )
            self._idle[name] = False
            self._meter.count(MISMATCHES, BackendName.CELERY, Mismatch.WORKER_IDLE)
        elif not self._idle[name]:
            log.error(
                "Celery worker %s still takes nothing although messages wait in %s: restart it (celery#8030)",
                name,
                queues,
            )
            self._idle[name] = True

    def _tell(self, name: str) -> bool:
        with self._errors():
            answers = self._app.control.broadcast(
                RECONNECT,
                destination=[name],
                reply=True,
                timeout=ANSWER_S,
                limit=1,
                connection=self._connection,
            )
        return any("ok" in answer for reply in answers or () for answer in reply.values())

    def _ask(self, stood: Collection[str]) -> dict[str, Worker]:
        """The workers that serve one of these queues."""
        with self._errors():
            served = self._inspect().active_queues() or {}
            serves = {name: frozenset(queue["name"] for queue in queues) for name, queues in served.items()}
            names = sorted(name for name, queues in serves.items() if queues & frozenset(stood))
            if not names:
                return {}
            asked = self._inspect(destination=names, limit=len(names))
            active, reserved, stats = (a or {} for a in (asked.active(), asked.reserved(), asked.stats()))
        return {
            name: Worker(
                serves=serves[name],
                at_hand=len(active[name]) + len(reserved[name]),
                begun=sum(stats[name].get("total", {}).values()),
            )
            for name in names
            if name in active and name in reserved and name in stats
        }

    def _inspect(self, **limits: Any) -> Any:
        return self._app.control.inspect(timeout=ANSWER_S, connection=self._connection, **limits)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with broker_errors(self._connection):
                yield
        except (BrokerUnavailable, KombuError, CeleryError) as error:
            self._connection.release()
            raise BrokerUnavailable(error_text(error)) from error
