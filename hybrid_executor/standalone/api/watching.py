"""A watch: the changes of one kind since a revision, as a stream of lines.

Reads the store's history with a cursor of its own, so that a slow client costs
no memory and one that falls out of the history is told 410, in the stream, as
kube-apiserver does. Used by ``http`` alone; writes nothing to any socket.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from hybrid_executor.standalone.api import problems
from hybrid_executor.standalone.api.kinds import Kind
from hybrid_executor.standalone.api.selectors import Selection
from hybrid_executor.standalone.api.store import Body, Change, Compacted, Store, Stored, encode

#: Seconds between bookmarks on a quiet watch that allows them.
BOOKMARK_PERIOD_S = 10.0
INITIAL_EVENTS_END = "k8s.io/initial-events-end"

#: Turns an object into the JSON that the client asked for.
Render = Callable[[Stored], bytes]


@dataclass(frozen=True, slots=True)
class Ask:
    """One watch. ``revision`` is None to begin with everything that is there now."""

    kind: Kind
    selection: Selection
    revision: int | None
    timeout_s: float
    bookmarks: bool = False
    #: The client wants the end of the initial objects marked (WatchList).
    mark_initial: bool = False


class Watching:
    """Open watches over one store; ``close`` ends them all."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._closing = False
        store.on_change(self._ring)

    def _ring(self, plural: str) -> None:
        for bell in self._bells.get(plural, ()):
            bell.set()

    def close(self) -> None:
        """End every watch, and those to come."""
        self._closing = True
        for plural in self._bells:
            self._ring(plural)

    async def stream(self, ask: Ask, render: Render) -> AsyncIterator[bytes]:
        """Yield chunks of whole lines until the timeout, the server's end, or 410."""
        bell = asyncio.Event()
        bells = self._bells.setdefault(ask.kind.plural, set())
        bells.add(bell)
        try:
            cursor = self._store.revision if ask.revision is None else ask.revision
            yield self._initial(ask, render)
            async for chunk in self._changes(ask, render, bell, cursor):
                yield chunk
        except Compacted as gone:
            yield line("ERROR", encode(problems.expired(str(gone)).status()))
        finally:
            bells.discard(bell)

    def _initial(self, ask: Ask, render: Render) -> bytes:
        if ask.revision is not None:
            return b""
        present = self._store.select(ask.kind, ask.selection)
        lines = [line("ADDED", render(stored)) for stored in present]
        if ask.mark_initial:
            lines.append(self._bookmark(ask.kind, self._store.revision, {INITIAL_EVENTS_END: "true"}))
        return b"".join(lines)

    async def _changes(
        self, ask: Ask, render: Render, bell: asyncio.Event, cursor: int
    ) -> AsyncIterator[bytes]:
        deadline = time.monotonic() + ask.timeout_s
        while not self._closing:
            bell.clear()
            changes = self._store.changes_since(ask.kind, cursor)
            cursor = max(cursor, self._store.revision)
            if chunk := b"".join(event_lines(changes, ask.selection, render)):
                yield chunk
            rung = await _wait(bell, min(BOOKMARK_PERIOD_S, deadline - time.monotonic()))
            ending = time.monotonic() >= deadline
            # Data was set back, and that revision is still to come: nothing is said, as by kube-apiserver.
            is_to_come = cursor > self._store.revision
            if ask.bookmarks and not rung and not is_to_come and not self._behind(ask.kind, cursor):
                cursor = max(cursor, self._store.revision)
                yield self._bookmark(ask.kind, cursor)
            if ending and not self._behind(ask.kind, cursor):
                return

    def _behind(self, kind: Kind, cursor: int) -> bool:
        return bool(self._store.changes_since(kind, cursor))

    @staticmethod
    def _bookmark(kind: Kind, revision: int, annotations: dict[str, str] | None = None) -> bytes:
        metadata: Body = {"resourceVersion": str(revision), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        body = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}
        return line("BOOKMARK", encode(body))


async def _wait(bell: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await bell.wait()
    except TimeoutError:
        return False
    return True


def line(event: str, raw: bytes) -> bytes:
    """One event of a watch."""
    return b'{"type":"%s","object":%s}\n' % (event.encode(), raw)


def event_lines(changes: Sequence[Change], selection: Selection, render: Render) -> list[bytes]:
    """What a watcher with this selection sees of these changes."""
    lines = []
    for change in changes:
        seen = change.before is not None and selection.matches(change.before.body)
        sees = not change.gone and selection.matches(change.after.body)
        if seen and sees:
            lines.append(line("MODIFIED", render(change.after)))
        elif sees:
            lines.append(line("ADDED", render(change.after)))
        elif seen:
            lines.append(line("DELETED", render(_last_seen(change))))
    return lines


def _last_seen(change: Change) -> Stored:
    """The object as the watcher last knew it, at the revision at which it left."""
    if change.gone or change.before is None:
        return change.after
    body = change.before.draft()
    body["metadata"]["resourceVersion"] = str(change.revision)
    return Stored(change.after.key, change.revision, body, encode(body))
