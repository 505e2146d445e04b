"""One named daemon thread that runs an asyncio loop.

``LoopThread`` starts it, hands calls over to it and stops it within a
deadline. It knows nothing of Kubernetes; ``backend`` is its only user.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("hybrid_executor.kubernetes")


class LoopThread:
    """Runs one coroutine, and what it starts, in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    def start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``main`` until it is cancelled; returns once calls can be handed over."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(main, ready), name=self._name, daemon=True)
        self._thread.start()
        ready.wait()

    def hand_over(self, call: Callable[[], object]) -> bool:
        """Have the loop make this call soon, in order; False if it does not run. Never blocks."""
        with self._lock:
            if self._loop is None:
                return False
            self._loop.call_soon_threadsafe(call)
            return True

    def stop(self, deadline_s: float) -> bool:
        """Cancel ``main`` and wait for the thread; False if it is still busy at the deadline."""
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self.hand_over(self._cancel)
        thread.join(deadline_s)
        return not thread.is_alive()

    def _cancel(self) -> None:
        if self._main:
            self._main.cancel()

    def _run(self, main: Callable[[], Coroutine[Any, Any, None]], ready: threading.Event) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve(main, ready))

    async def _serve(self, main: Callable[[], Coroutine[Any, Any, None]], ready: threading.Event) -> None:
        self._main = asyncio.create_task(main(), name=self._name)
        with self._lock:
            self._loop = asyncio.get_running_loop()
        ready.set()
        try:
            await self._main
        except asyncio.CancelledError:
            log.debug("%s was told to stop", self._name)
        finally:
            with self._lock:
                self._loop = None
