"""How objects go: grace, finalizers, preconditions, namespaces that end, garbage of owners.

Decides over ``objects`` and does no other I/O. Called by ``registry`` for every
DELETE, eviction, and update that takes the last finalizer off. A pod that is
bound to a node stays until the node itself deletes it without grace.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hybrid_executor.standalone.api import problems
from hybrid_executor.standalone.api.kinds import KINDS, NAMESPACES, PODS, Kind
from hybrid_executor.standalone.api.objects import Objects, timestamp
from hybrid_executor.standalone.api.selectors import Selection
from hybrid_executor.standalone.api.store import Key, Stored

#: Made at the first start, and never deleted.
NAMESPACES_AT_START = ("default", "kube-system", "kube-public", "kube-node-lease")
_DONE = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a DELETE says besides the name."""

    grace_s: int | None = None
    uid: str | None = None
    revision: str | None = None
    orphan: bool = False


class Deletion:
    """Everything that ends objects."""

    def __init__(self, objects: Objects, now: Callable[[], datetime]) -> None:
        self._objects = objects
        self._now = now

    def delete(
        self, kind: Kind, key: Key, options: DeleteOptions, *, dry_run: bool = False
    ) -> tuple[Stored, bool]:
        """Delete, or begin to; answers the object's last state and whether it is gone."""
        before = self._objects.get(kind, key)
        self.check_preconditions(kind, before, options)
        if dry_run:
            return before, True
        if kind is NAMESPACES:
            return self._terminate_namespace(before)
        grace = self._grace_s(kind, before, options)
        stays = grace > 0 or bool(before.body["metadata"].get("finalizers"))
        if stays or kind is PODS:  # watchers see a pod marked even if it goes at once
            before = self._mark_deleted(kind, before, grace)
        if stays:
            return before, False
        return self.erase(kind, before, orphan=options.orphan), True

    @staticmethod
    def check_preconditions(kind: Kind, before: Stored, options: DeleteOptions) -> None:
        """Refuse to delete another object than the one that is meant."""
        metadata = before.body["metadata"]
        for label, wanted, actual in (
            ("UID", options.uid, metadata["uid"]),
            ("ResourceVersion", options.revision, metadata["resourceVersion"]),
        ):
            if wanted is not None and wanted != actual:
                text = f"{label} in precondition: {wanted}, {label} in object meta: {actual}"
                raise problems.conflict(kind, before.key[1], f"Precondition failed: {text}")

    @staticmethod
    def _grace_s(kind: Kind, before: Stored, options: DeleteOptions) -> int:
        if kind is not PODS:
            return 0
        spec, status = before.body["spec"], before.body.get("status") or {}
        if not spec.get("nodeName") or status.get("phase") in _DONE:
            return 0
        asked = options.grace_s
        already = before.body["metadata"].get("deletionGracePeriodSeconds")
        if already is not None:
            return int(already if asked is None else min(already, max(asked, 0)))
        grace = int(spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked)
        return 1 if grace < 0 else grace

    def _mark_deleted(self, kind: Kind, before: Stored, grace_s: int) -> Stored:
        metadata = before.body["metadata"]
        if metadata.get("deletionGracePeriodSeconds") == grace_s:
            return before
        after = before.draft()
        after["metadata"] |= {
            "deletionTimestamp": timestamp(self._now() + timedelta(seconds=grace_s)),
            "deletionGracePeriodSeconds": grace_s,
        }
        if "generation" in metadata:
            after["metadata"]["generation"] += 1
        return self._objects.keep(kind, before.key, after)

    def erase(self, kind: Kind, before: Stored, *, orphan: bool = False) -> Stored:
        """Delete at once, and then what follows from it; answers the last state."""
        gone = self._objects.remove(kind, before)
        self._collect(before.body["metadata"]["uid"], orphan=orphan)
        if kind.namespaced:
            self._finish_namespace(before.key[0])
        return gone

    def delete_all(self, kind: Kind, selection: Selection, options: DeleteOptions) -> list[Stored]:
        """Delete everything selected; answers each object's last state."""
        return [
            self.delete(kind, stored.key, options)[0]
            for stored in self._objects.store.select(kind, selection)
            # A former one's end may have taken this one along, as its owner.
            if self._objects.store.get(kind, stored.key) is not None
        ]

    # Namespaces

    def _terminate_namespace(self, before: Stored) -> tuple[Stored, bool]:
        name = before.key[1]
        if name in NAMESPACES_AT_START:
            raise problems.forbidden(NAMESPACES, name, "this namespace may not be deleted")
        if "deletionTimestamp" not in before.body["metadata"]:
            after = before.draft()
            after["metadata"] |= {"deletionTimestamp": timestamp(self._now())}
            after["status"] = {"phase": "Terminating"}
            before = self._objects.keep(NAMESPACES, before.key, after)
        for kind in KINDS:
            if kind.namespaced:
                self.delete_all(kind, Selection(namespace=name), DeleteOptions())
        self._finish_namespace(name)
        return before, False

    def _finish_namespace(self, name: str) -> None:
        space = self._objects.store.get(NAMESPACES, ("", name))
        if space is None or "deletionTimestamp" not in space.body["metadata"]:
            return
        if not any(self._objects.store.count(kind, name) for kind in KINDS if kind.namespaced):
            self._objects.remove(NAMESPACES, space)

    # Owners

    def collect_ownerless(self, kind: Kind, stored: Stored) -> None:
        """Delete an object that names owners of which none is there."""
        references = stored.body["metadata"].get("ownerReferences") or ()
        if references and not any(self._may_exist(stored.key[0], owner) for owner in references):
            self.delete(kind, stored.key, DeleteOptions())

    def _may_exist(self, namespace: str, owner: Mapping[str, Any]) -> bool:
        """Whether an owner is there, or of a kind that is not known here."""
        stated = (owner["apiVersion"], owner["kind"])
        kind = next((kind for kind in KINDS if (kind.api_version, kind.kind) == stated), None)
        if kind is None:
            return True
        found = self._objects.store.get(kind, (namespace if kind.namespaced else "", owner["name"]))
        return found is not None and found.body["metadata"]["uid"] == owner["uid"]

    def _collect(self, uid: str, *, orphan: bool) -> None:
        """Delete what has lost its last owner, or cut it loose if it is to be orphaned."""
        for plural, key in self._objects.owners.dependents(uid):
            kind = next(kind for kind in KINDS if kind.plural == plural)
            before = self._objects.store.get(kind, key)
            if before is None:
                continue
            after = before.draft()
            owners = after["metadata"]["ownerReferences"]
            after["metadata"]["ownerReferences"] = [owner for owner in owners if owner["uid"] != uid]
            if after["metadata"]["ownerReferences"] or orphan:
                self._objects.keep(kind, key, after)
            else:
                self.delete(kind, key, DeleteOptions())
