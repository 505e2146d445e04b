"""One object at a time, kept or removed together with what is known of its owners.

The step between ``store``, which knows revisions, and the rules of ``registry``
and ``deletion``, which share it. Decides only that a missing object is 404.
"""

from datetime import UTC, datetime

from hybrid_executor.standalone.api import problems
from hybrid_executor.standalone.api.kinds import Kind
from hybrid_executor.standalone.api.owners import Owners
from hybrid_executor.standalone.api.store import Body, Key, Store, Stored


def timestamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Objects:
    """The store, and the index of owners beside it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.owners = Owners()
        for plural, stored in store.everything():
            self.owners.note(plural, stored)

    def get(self, kind: Kind, key: Key) -> Stored:
        """The object, or 404."""
        found = self.store.get(kind, key)
        if found is None:
            raise problems.not_found(kind, key[1])
        return found

    def keep(self, kind: Kind, key: Key, body: Body, *, dry_run: bool = False) -> Stored:
        """Create or replace; the body becomes the store's."""
        if dry_run:
            return Stored(key, 0, body, b"")
        before = self.store.get(kind, key)
        if before is not None:
            self.owners.forget(kind.plural, before)
        stored = self.store.put(kind, key, body)
        self.owners.note(kind.plural, stored)
        return stored

    def remove(self, kind: Kind, before: Stored) -> Stored:
        """Delete at once; answers the last state."""
        self.owners.forget(kind.plural, before)
        return self.store.remove(kind, before.key, before.draft())
