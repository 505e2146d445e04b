"""Start services in the order of their needs, all at once where none needs another; restart what dies.

Knows services only as commands with a readiness check, and prints nothing: it
tells a listener what happened. One ``tick`` is one look at every service; the
caller ticks, from one thread, for as long as the stack is to be kept up.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from hybrid_executor.standalone.stack.process import (
    POLL_S,
    Command,
    Process,
    descendants,
    kill_all,
    wait_gone,
)

#: A service that stayed up this long is taken as sound again.
SETTLED_S = 30.0
#: From the first signal to the last SIGKILL.
STOP_S = 7.0
#: A service that dies this often before everything is up makes the start fail.
FIRST_STARTS = 3


class Event(StrEnum):
    """What a listener is told."""

    READY = "ready"
    DIED = "died"
    RESTARTED = "restarted"
    #: It is up, but may not do what is wanted of it.
    DOUBTED = "doubted"


@dataclass(frozen=True, kw_only=True)
class Service:
    """One thing to keep up; ``once`` means that it is done when it ends well."""

    name: str
    command: Callable[[], Command]
    #: Whether the process, started at this time (``time.time()``), is ready; quick, and never raises.
    ready: Callable[[float], bool] = lambda _: True
    after: tuple[str, ...] = ()
    once: bool = False
    #: Called when a service that runs once has ended well.
    done: Callable[[], None] = lambda: None
    ready_s: float = 120.0
    #: Stopped in ascending order, those of one number together.
    stop_rank: int = 0


Listener = Callable[[Event, str, str], None]


def backoff_s(deaths: int) -> float:
    """How long a service that died rests before its next start: 0.5 s, doubling up to 15 s."""
    return float(min(15.0, 0.5 * 2 ** (deaths - 1)))


@dataclass
class _Life:
    service: Service
    process: Process | None = None
    started_at: float = 0.0
    began: float = 0.0
    is_ready: bool = False
    deaths: int = 0
    rests_until: float = 0.0
    #: Ended, and to be started again unless it is held.
    is_down: bool = False
    held: bool = False


@dataclass
class Supervisor:
    """The services with their processes."""

    services: Iterable[Service]
    listener: Listener = lambda _event, _name, _note: None
    restarts: bool = True
    _lives: dict[str, _Life] = field(init=False)
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock)
    _stopping: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._lives = {service.name: _Life(service) for service in self.services}

    def start(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Bring everything up; raises :class:`.process.ProcessFailed` if something does not come."""
        while not self.is_ready() and not should_stop():
            self.tick()
            for life in self._lives.values():
                self._check_first_start(life)
            time.sleep(POLL_S)

    def tick(self) -> None:
        """Look at each service once: start what may start, note what is ready, restart what died."""
        with self._lock:
            if not self._stopping:
                for life in self._lives.values():
                    self._look_at(life)

    def is_ready(self) -> bool:
        """Whether every service is up, or done if it runs once."""
        return all(life.is_ready for life in self._lives.values())

    def not_ready(self) -> list[str]:
        """The services that are not up."""
        return [name for name, life in self._lives.items() if not life.is_ready]

    def kill(self, name: str, *, hold: bool = False) -> None:
        """SIGKILL a service with all that descends from it; ``hold`` keeps it down until :meth:`restart`."""
        with self._lock:
            life = self._lives[name]
            life.held = life.held or hold or not self.restarts
            life.is_ready, life.is_down = False, life.held
            if life.process:
                life.process.kill()

    def restart(self, name: str) -> None:
        """Start a service that was held, or is down, at the next tick."""
        with self._lock:
            life = self._lives[name]
            life.held, life.rests_until = False, 0.0

    def pid(self, name: str) -> int | None:
        """The id of a service's process while it runs."""
        process = self._lives[name].process
        return process.pid if process else None

    def stop(self, deadline_s: float = STOP_S) -> None:
        """Stop all in order of ``stop_rank``; what remains at the deadline is killed. Safe to repeat."""
        with self._lock:
            self._stopping = True
            running = [life for life in self._lives.values() if life.process and life.process.pid]
            family = {pid for life in running for pid in _family(life)}
            ranks = sorted({life.service.stop_rank for life in running})
            deadline = time.monotonic() + deadline_s
            for rank in ranks:
                later = sum(1.0 for other in ranks if other > rank)
                within_s = deadline - time.monotonic() - later
                family |= _stop_together([one for one in running if one.service.stop_rank == rank], within_s)
            kill_all(family)
            wait_gone(family, 2)

    def _look_at(self, life: _Life) -> None:
        if life.process is None or life.is_down:
            if self._may_start(life):
                self._start(life)
        elif life.process.exit_code is not None:
            self._note_end(life, life.process.exit_code)
        elif not life.is_ready and not life.service.once and life.service.ready(life.started_at):
            self._note_ready(life)

    def _may_start(self, life: _Life) -> bool:
        if life.held or time.monotonic() < life.rests_until or (life.service.once and life.is_ready):
            return False
        return all(self._lives[name].is_ready for name in life.service.after)

    def _start(self, life: _Life) -> None:
        life.process = Process(life.service.command())
        life.is_down = False
        life.started_at, life.began = time.time(), time.monotonic()
        life.process.start()

    def _note_ready(self, life: _Life) -> None:
        life.is_ready = True
        event = Event.RESTARTED if life.deaths else Event.READY
        self.listener(event, life.service.name, f"{time.monotonic() - life.began:.1f} s")

    def _note_end(self, life: _Life, exit_code: int) -> None:
        if life.service.once and exit_code == 0:
            life.service.done()
            self._note_ready(life)
            life.is_down = True
            return
        if time.monotonic() - life.began > SETTLED_S:
            life.deaths = 0
        life.deaths += 1
        life.is_ready, life.is_down, life.held = False, True, not self.restarts
        rest_s = backoff_s(life.deaths)
        life.rests_until = time.monotonic() + rest_s
        how = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
        after = f"; again in {rest_s:g} s" if self.restarts else ""
        self.listener(Event.DIED, life.service.name, how + after)

    def _check_first_start(self, life: _Life) -> None:
        process = life.process
        if process is None or life.is_ready:
            return
        if life.deaths >= (1 if life.service.once else FIRST_STARTS):
            raise process.failure(f"ended with exit code {process.exit_code}")
        if not life.is_down and time.monotonic() - life.began > life.service.ready_s:
            raise process.failure(f"is not ready after {life.service.ready_s:g} s")


def _family(life: _Life) -> set[int]:
    pid = life.process.pid if life.process else None
    return {pid, *descendants(pid)} if pid else set()


def _stop_together(lives: list[_Life], within_s: float) -> set[int]:
    """Ask all to end, wait for all; returns whatever was seen to descend from them."""
    family = {pid for life in lives for pid in _family(life)}
    for life in lives:
        if life.process:
            life.process.ask_to_stop()
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline and any(life.process and life.process.pid for life in lives):
        time.sleep(POLL_S)
    for life in lives:
        family |= _family(life)
        if life.process:
            life.process.kill()
    return family
