"""Wakes a thread that waits for a socket as well as for orders.

Rung by any thread, heard by one; holds two descriptors until it is closed.
"""

import select
import socket
from contextlib import suppress
from typing import Any


class Bell:
    """Ringing never blocks and never raises, and is heard although nobody waits yet."""

    def __init__(self) -> None:
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)

    def ring(self) -> None:
        """End the wait that goes on, or the next one."""
        with suppress(OSError):  # full, so that it is heard in any case; or closed
            self._outside.send(b"!")

    def wait(self, pause_s: float | None, also: Any | None = None) -> None:
        """Until it rings, the socket ``also`` is readable, or the time is over; None sets no limit."""
        poll = select.poll()
        for file in (self._inside, also):
            if file is not None:
                poll.register(file, select.POLLIN)
        poll.poll(None if pause_s is None else max(pause_s, 0.0) * 1000)
        with suppress(BlockingIOError):
            self._inside.recv(4096)

    def close(self) -> None:
        """Ringing does no harm afterwards; waiting does."""
        self._inside.close()
        self._outside.close()
