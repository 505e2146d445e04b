"""``python -m hybrid_executor.worker.drain --timeout SECONDS``: let this machine's Celery workers run dry.

What a pod's preStop hook runs in the worker's own container, before the
SIGTERM: after that signal a worker answers nobody (0.7 s later it has said
good-bye to the broker while its tasks run on), and what outlives the grace is
killed. It asks each worker that it finds over a Unix socket, without the
broker: the worker takes nothing more, not even after a reconnect, and goes on
with what it has.

It ends with 0 as soon as nothing is at hand, or when the time is over: then
what still runs has the rest of the grace. It ends with 1 where no worker
answers, which the kubelet shows as a ``FailedPreStopHook`` event before it goes
on: the worker has to import ``hybrid_executor.worker.draining``
(``[celery] extra_celery_config = {"imports": [...]}``), the other end of this.

Kills nothing, takes no task from a worker, and imports the standard library alone.
"""

import argparse
import contextlib
import json
import os
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: A broker may hand over a message that it gave away before it heard of the end; a poll of Redis takes 1 s.
SETTLE_S = 2.0
ASK_EVERY_S = 0.5
#: How long a worker may take to answer; a thread of its own does.
ANSWER_S = 5.0
ANSWER_MAX = 4096


@dataclass(frozen=True, slots=True)
class Left:
    """What a worker that drains still has."""

    name: str
    #: Messages that it has and has not finished.
    at_hand: int


def folder() -> Path:
    """Where this user's workers listen; each process has its own socket in it."""
    return Path(tempfile.gettempdir()) / f"hybrid-executor-{os.getuid()}"


def own_folder() -> Path:
    """The folder, made if need be. Raises ``OSError`` where it is somebody else's or open to others."""
    found = folder()
    found.mkdir(mode=0o700, exist_ok=True)
    state = found.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise PermissionError(f"{found} is not a folder of this user alone")
    return found


def ask(path: Path) -> Left | None:
    """Tell the worker behind a socket to drain, again or for the first time; None where none answers."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(str(path))
            answer = json.loads(connection.recv(ANSWER_MAX))
        return Left(str(answer["name"]), int(answer["at_hand"]))
    except (OSError, ValueError, KeyError):
        return None


def drain(timeout_s: float, settle_s: float = SETTLE_S) -> Iterator[list[Left]]:
    """What the workers still have, look by look; over when that is nothing, or the time is."""
    began_s = time.monotonic()
    with contextlib.suppress(OSError):
        while left := [found for path in sorted(own_folder().glob("*.sock")) if (found := ask(path))]:
            yield left
            waited_s = time.monotonic() - began_s
            is_dry = not any(worker.at_hand for worker in left) and waited_s >= settle_s
            if is_dry or waited_s >= timeout_s:
                return
            time.sleep(min(ASK_EVERY_S, max(timeout_s - waited_s, 0.0)))


def main(argv: Sequence[str] | None = None) -> int:
    """Drain, and say in one line per change what is left."""
    summary, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser("hybrid_executor.worker.drain", description=summary)
    parser.add_argument(
        "--timeout", type=float, required=True, help="seconds; leave the grace period a margin for the rest"
    )
    looks: list[list[Left]] = []
    for left in drain(parser.parse_args(argv).timeout):
        if looks[-1:] != [left]:
            words = ", ".join(f"{worker.name} has {worker.at_hand} left" for worker in left)
            print(words, flush=True)
        looks.append(left)
    if not looks:
        print(
            f"no Celery worker answers in {folder()}: does it import hybrid_executor.worker.draining?",
            file=sys.stderr,
        )
    return 0 if looks else 1


if __name__ == "__main__":
    sys.exit(main())
