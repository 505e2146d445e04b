"""Which objects name which owner, so that an owner's end costs its dependents and not a scan. Pure."""

from hybrid_executor.standalone.api.store import Key, Stored

#: A kind's plural and an object's key.
Dependent = tuple[str, Key]


class Owners:
    """An index from an owner's uid to the objects that name it."""

    def __init__(self) -> None:
        self._dependents: dict[str, set[Dependent]] = {}

    def note(self, plural: str, stored: Stored) -> None:
        """Remember the owners of an object that is now kept."""
        for owner in stored.body["metadata"].get("ownerReferences") or ():
            self._dependents.setdefault(owner["uid"], set()).add((plural, stored.key))

    def forget(self, plural: str, stored: Stored) -> None:
        """Forget the owners of an object that is replaced or gone."""
        for owner in stored.body["metadata"].get("ownerReferences") or ():
            dependents = self._dependents.get(owner["uid"], set())
            dependents.discard((plural, stored.key))
            if not dependents:
                self._dependents.pop(owner["uid"], None)

    def dependents(self, uid: str) -> list[Dependent]:
        """Every object that names this owner."""
        return sorted(self._dependents.get(uid, ()))
