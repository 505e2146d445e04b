"""Choose TCP ports on 127.0.0.1 that a server may keep while it is killed and started again.

Ports are taken from below the kernel's ephemeral range: a client that retries
while its server restarts could otherwise be given the server's own port as
its source, and connect to itself.
"""

import random
import socket

LOOPBACK = "127.0.0.1"
#: Linux hands out 32768 and above to outgoing connections unless told otherwise.
CHOICES = range(20000, 32000)


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def choose_port(preferred: int | None = None, taken: frozenset[int] = frozenset()) -> int:
    """Return ``preferred`` if it is free and not in ``taken``, else a random free port."""
    if preferred is not None and preferred not in taken and is_free(preferred):
        return preferred
    for port in random.sample(CHOICES, k=200):
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port found on {LOOPBACK} in {CHOICES.start}-{CHOICES.stop - 1}")


def accepts(port: int) -> bool:
    """Whether something listens on ``port``."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
