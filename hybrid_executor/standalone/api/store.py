"""Objects, their revisions, and the stretch of history that watches read.

Decides nothing about what an object may contain (``registry`` does) and does no
I/O: each change is handed to a ``Journal`` before it is visible, so that what
was acknowledged survives a kill. Objects here are never changed in place; a
caller that wants to change one works on a ``draft``.

One revision counter for everything, as in etcd. History is kept per kind, the
newest ``window`` changes of it; whoever asks for older ones gets ``Compacted``.
A restart forgets history, and then a revision at or after a kind's last change
is still good while an older one is compacted.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hybrid_executor.standalone.api.kinds import Kind
from hybrid_executor.standalone.api.selectors import Selection

Body = dict[str, Any]
#: Namespace (empty for cluster-wide kinds) and name: the order of a list.
Key = tuple[str, str]

WINDOW = 20_000


class Compacted(Exception):
    """The history asked for is gone; ``oldest`` is the first revision that still can be asked for."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {asked} ({oldest})")
        self.oldest = oldest


@dataclass(frozen=True, slots=True)
class Stored:
    """One object at one revision. ``raw`` is ``body`` as JSON."""

    key: Key
    revision: int
    body: Body
    raw: bytes

    def draft(self) -> Body:
        """A copy to change."""
        draft: Body = json.loads(self.raw)
        return draft


@dataclass(frozen=True, slots=True)
class Change:
    """``before`` is None for a creation; ``gone`` says that ``after`` is the object's last state."""

    revision: int
    before: Stored | None
    after: Stored
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """What a journal brings back: the counter, each kind's last change, and every object."""

    revision: int
    last_change: dict[str, int]
    objects: list[tuple[str, Stored]]


class Journal(Protocol):
    """Keeps objects over a restart. Both writes are durable, against a kill, when they return."""

    def write(self, plural: str, stored: Stored) -> None:
        """Keep this state of an object."""

    def erase(self, plural: str, key: Key, revision: int) -> None:
        """Forget an object, at that revision."""

    def load(self) -> Saved:
        """Everything that was kept."""


def encode(body: Body) -> bytes:
    """JSON without blanks."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(slots=True)
class _Shelf:
    """All objects of one kind, its indexes and its history."""

    objects: dict[Key, Stored] = field(default_factory=dict)
    namespaces: dict[str, dict[Key, None]] = field(default_factory=dict)
    labels: dict[tuple[str, str], dict[Key, None]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    #: Revisions below this one can't be resumed from.
    oldest: int = 0

    def put(self, stored: Stored) -> None:
        before = self.objects.get(stored.key)
        if before is not None:
            self._unindex(before)
        self.objects[stored.key] = stored
        self.namespaces.setdefault(stored.key[0], {})[stored.key] = None
        for label in _labels(stored):
            self.labels.setdefault(label, {})[stored.key] = None

    def drop(self, key: Key) -> None:
        before = self.objects.pop(key)
        self._unindex(before)
        self._forget(self.namespaces, key[0], key)

    def _unindex(self, stored: Stored) -> None:
        for label in _labels(stored):
            self._forget(self.labels, label, stored.key)

    @staticmethod
    def _forget(index: dict[Any, dict[Key, None]], entry: Any, key: Key) -> None:
        keys = index[entry]
        del keys[key]
        if not keys:
            del index[entry]

    def candidates(self, selection: Selection) -> Iterable[Stored]:
        """A superset of what is selected, as small as the indexes make it."""
        name = selection.fields.equal.get("metadata.name")
        if name is not None and selection.namespace:
            found = self.objects.get((selection.namespace, name))
            return [found] if found else []
        sets = [self.labels.get(pin, {}) for pin in selection.labels.pinned]
        if selection.namespace:
            sets.append(self.namespaces.get(selection.namespace, {}))
        if not sets:
            return self.objects.values()
        return [self.objects[key] for key in min(sets, key=len)]

    def record(self, change: Change, window: int) -> None:
        self.changes.append(change)
        if len(self.changes) > 2 * window:
            self.oldest = self.changes[-window - 1].revision
            del self.changes[:-window]


def _labels(stored: Stored) -> Iterable[tuple[str, str]]:
    return (stored.body["metadata"].get("labels") or {}).items()


class Store:
    """Every object of the cluster. Not thread-safe: one loop owns it."""

    def __init__(self, kinds: Iterable[Kind], journal: Journal, window: int = WINDOW) -> None:
        self._journal = journal
        self._window = window
        self._shelves = {kind.plural: _Shelf() for kind in kinds}
        self._listeners: list[Callable[[str], None]] = []
        saved = journal.load()
        self.revision = max(saved.revision, 1)
        for plural, stored in saved.objects:
            self._shelves[plural].put(stored)
        for plural, revision in saved.last_change.items():
            self._shelves[plural].oldest = revision

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call ``listener`` with the kind's plural after each change."""
        self._listeners.append(listener)

    def get(self, kind: Kind, key: Key) -> Stored | None:
        """The object, if it is there."""
        return self._shelves[kind.plural].objects.get(key)

    def count(self, kind: Kind, namespace: str) -> int:
        """How many objects of a kind a namespace holds."""
        return len(self._shelves[kind.plural].namespaces.get(namespace, ()))

    def oldest(self, kind: Kind) -> list[Stored]:
        """The kind's objects in the order in which they were created."""
        return list(self._shelves[kind.plural].objects.values())

    def select(self, kind: Kind, selection: Selection) -> list[Stored]:
        """What is selected now, in the order of namespace and name."""
        shelf = self._shelves[kind.plural]
        return sorted(
            (stored for stored in shelf.candidates(selection) if selection.matches(stored.body)),
            key=lambda stored: stored.key,
        )

    def select_at(self, kind: Kind, selection: Selection, revision: int) -> list[Stored]:
        """What was selected at ``revision``; raises Compacted where that is no longer known."""
        past: dict[Key, Stored] = {stored.key: stored for stored in self.select(kind, selection)}
        for change in reversed(self.changes_since(kind, revision)):
            past.pop(change.after.key, None)
            if change.before is not None and selection.matches(change.before.body):
                past[change.before.key] = change.before
        return [past[key] for key in sorted(past)]

    def put(self, kind: Kind, key: Key, body: Body) -> Stored:
        """Create or replace; writes the new resourceVersion into ``body``, which it keeps."""
        revision = self.revision + 1
        body["metadata"]["resourceVersion"] = str(revision)
        stored = Stored(key, revision, body, encode(body))
        self._journal.write(kind.plural, stored)
        shelf = self._shelves[kind.plural]
        change = Change(revision, shelf.objects.get(key), stored)
        shelf.put(stored)
        self._commit(kind, shelf, change)
        return stored

    def remove(self, kind: Kind, key: Key, last: Body) -> Stored:
        """Delete; ``last`` becomes the object's last state, at the revision of its deletion."""
        revision = self.revision + 1
        self._journal.erase(kind.plural, key, revision)
        last["metadata"]["resourceVersion"] = str(revision)
        stored = Stored(key, revision, last, encode(last))
        shelf = self._shelves[kind.plural]
        change = Change(revision, shelf.objects[key], stored, gone=True)
        shelf.drop(key)
        self._commit(kind, shelf, change)
        return stored

    def _commit(self, kind: Kind, shelf: _Shelf, change: Change) -> None:
        self.revision = change.revision
        shelf.record(change, self._window)
        for listener in self._listeners:
            listener(kind.plural)

    def changes_since(self, kind: Kind, revision: int) -> Sequence[Change]:
        """Changes after ``revision``, oldest first; raises Compacted where some are forgotten."""
        shelf = self._shelves[kind.plural]
        if revision < shelf.oldest:
            raise Compacted(revision, shelf.oldest)
        start = bisect_right(shelf.changes, revision, key=lambda change: change.revision)
        return shelf.changes[start:]

    def compact(self) -> None:
        """Forget all history: whoever asks for a revision before now has to list again."""
        for shelf in self._shelves.values():
            shelf.changes.clear()
            shelf.oldest = self.revision

    def everything(self) -> Iterator[tuple[str, Stored]]:
        """Each object with its kind's plural, in the order in which they were put."""
        for plural, shelf in self._shelves.items():
            for stored in list(shelf.objects.values()):
                yield plural, stored
