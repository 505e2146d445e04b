"""When a pod must end: who asked, and by when what still runs of it is killed.

One per pod, shared by ``podworker`` and its ``containerlife``. Knows containers
only as things that can be killed.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from hybrid_executor.standalone.runner.container import Started
from hybrid_executor.standalone.runner.podstate import Verdict

T = TypeVar("T")


@dataclass(frozen=True)
class Order:
    """The pod must end within ``grace_s``; ``verdict`` says why if the node is the cause."""

    grace_s: float
    verdict: Verdict | None = None


class Ending:
    """Whether the pod must end, why, and what runs that will be killed if it does not."""

    def __init__(self) -> None:
        #: Containers are asked to end; once set it stays.
        self.stop = asyncio.Event()
        self.verdict: Verdict | None = None
        self._killed = False
        self._timer: asyncio.TimerHandle | None = None
        self._live: set[Started] = set()

    def order(self, order: Order) -> None:
        """A later order may only shorten the grace. The first verdict stays."""
        if not self.stop.is_set():
            self.verdict = order.verdict
        self.stop.set()
        self.kill_within(order.grace_s)

    def kill_within(self, seconds: float) -> None:
        """Kill everything then, unless that is to happen sooner."""
        loop = asyncio.get_running_loop()
        if self._timer and self._timer.when() <= loop.time() + seconds:
            return
        self._cancel_timer()
        self._timer = loop.call_later(seconds, self._kill_all)

    def take(self, started: Started) -> None:
        """This container runs; it is killed at once if its time has passed."""
        self._live.add(started)
        if self._killed:
            started.kill()

    def leave(self, started: Started) -> None:
        """This container has ended."""
        self._live.discard(started)

    def close(self) -> None:
        """Kill what is left, now and whatever may still start."""
        self._cancel_timer()
        self._kill_all()

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _kill_all(self) -> None:
        self._killed = True
        for started in self._live:
            started.kill()


async def either(work: Awaitable[T], stop: asyncio.Event) -> None:
    """Until ``work`` is done or ``stop`` is set; the other is given up."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
