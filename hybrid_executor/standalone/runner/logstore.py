"""The log files of containers: written here, read here, capped here.

    <state>/pods/<pod uid>/logs/<container>/<restart>.log     and .log.1, the older half

One process writes and serves them, so a follower is told of a new line instead
of polling for it. Used by ``container`` (writes), ``logserver`` (reads) and
``agent`` (removes).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

from hybrid_executor.standalone.runner.loglines import LogQuery, chosen, is_since, line, shown, split

#: A container's log holds at most twice this; the older half goes first.
HALF_MAX = 5 * 2**20
READ_SIZE = 64 * 1024


class LogFile:
    """One run of one container. Followers wait on ``_news``."""

    def __init__(self, path: Path, *, half_max: int = HALF_MAX) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._half_max = path, half_max
        self._file: IO[bytes] = path.open("ab")
        self._size = self._file.tell()
        self._followers: set[asyncio.Queue[bytes | None]] = set()
        self.closed = False

    def append(self, stream: str, text: bytes, *, complete: bool) -> None:
        """Write one line or part, with the time of now."""
        raw = line(time.time_ns(), stream, text, complete=complete)
        if self._size + len(raw) > self._half_max and self._size:
            self._rotate()
        self._file.write(raw)
        self._size += len(raw)
        for follower in self._followers:
            follower.put_nowait(raw)

    def flush(self) -> None:
        self._file.flush()

    def _rotate(self) -> None:
        self._file.close()
        self.path.replace(older(self.path))
        self._file, self._size = self.path.open("ab"), 0

    def close(self) -> None:
        """No more will be written: followers come to their end."""
        self._file.close()
        self.closed = True
        for follower in self._followers:
            follower.put_nowait(None)

    async def copy(self, stream: str, source: asyncio.StreamReader) -> None:
        """Write everything from ``source`` until it ends."""
        pending = b""
        while chunk := await source.read(READ_SIZE):
            pieces, pending = split(pending, chunk)
            for text, complete in pieces:
                self.append(stream, text, complete=complete)
            self.flush()
        if pending:
            self.append(stream, pending, complete=False)
            self.flush()

    def subscribe(self) -> "asyncio.Queue[bytes | None]":
        """A queue of raw lines from now on; None ends it."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        if self.closed:
            queue.put_nowait(None)
        self._followers.add(queue)
        return queue

    def unsubscribe(self, queue: "asyncio.Queue[bytes | None]") -> None:
        self._followers.discard(queue)


def older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def stored(path: Path) -> Iterator[bytes]:
    """All lines of one run that are kept, the oldest first."""
    for file in (older(path), path):
        try:
            with file.open("rb") as lines:
                yield from lines
        except FileNotFoundError:
            continue


class LogStore:
    """Where the log of each run lies, and which are being written now."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._open: dict[Path, LogFile] = {}

    def path(self, uid: str, container: str, restart: int) -> Path:
        return self._state / "pods" / uid / "logs" / container / f"{restart}.log"

    def open(self, uid: str, container: str, restart: int) -> LogFile:
        file = LogFile(self.path(uid, container, restart))
        self._open[file.path] = file
        return file

    def close(self, file: LogFile) -> None:
        file.close()
        self._open.pop(file.path, None)

    def runs(self, uid: str, container: str) -> list[int]:
        """The numbers of the runs of a container that have a log, in order."""
        folder = self.path(uid, container, 0).parent
        return sorted(int(file.stem) for file in folder.glob("*.log"))

    async def read(self, path: Path, asked: LogQuery) -> AsyncIterator[bytes]:
        """What ``asked`` wants of one run; with ``follow`` until that run ends."""
        file = self._open.get(path) if asked.follow else None
        # Subscribed before the file is read, in one step of the loop: nothing is missed or doubled.
        queue = file.subscribe() if file else None
        try:
            for text in [*chosen(stored(path), asked)]:
                yield text
            while queue and (raw := await queue.get()) is not None:
                if is_since(raw, asked.since):
                    yield shown(raw, timestamps=asked.timestamps)
        finally:
            if file and queue:
                file.unsubscribe(queue)
