"""What each verb does to an object: create, update, bind, evict; ``deletion`` does the rest.

Decides over the store and does no other I/O. Called by ``http`` for every
request that changes something; answers with the object as kept, or raises
``Problem``. Single-threaded like the store: each method is one transaction.
"""

import base64
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from hybrid_executor.standalone.api import defaults, podrules, problems, shapes, validation
from hybrid_executor.standalone.api.deletion import NAMESPACES_AT_START, DeleteOptions, Deletion
from hybrid_executor.standalone.api.kinds import EVENTS, NAMESPACES, PODS, SERVICEACCOUNTS, Kind
from hybrid_executor.standalone.api.objects import Objects, timestamp
from hybrid_executor.standalone.api.selectors import Selection
from hybrid_executor.standalone.api.store import Body, Key, Store, Stored

Edit = Callable[[Body], Body]

#: What events live for, as in kube-apiserver.
EVENT_LIFE = timedelta(hours=1)
_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_GENERATED_BASE_MAX = 58
#: Metadata that only the server writes.
_OWNED = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
)
_SPEC_OWNERS = frozenset({"pods"})


class Registry:
    """The verbs. ``now`` is the clock that timestamps are taken from."""

    def __init__(self, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.store = store
        self._now = now
        self._objects = Objects(store)
        self._deletion = Deletion(self._objects, now)
        for name in NAMESPACES_AT_START:
            if store.get(NAMESPACES, ("", name)) is None:
                self.create(NAMESPACES, "", {"metadata": {"name": name}})

    # Reading and deleting

    def get(self, kind: Kind, key: Key) -> Stored:
        """The object, or 404."""
        return self._objects.get(kind, key)

    def delete(
        self, kind: Kind, key: Key, options: DeleteOptions, *, dry_run: bool = False
    ) -> tuple[Stored, bool]:
        """Delete, or begin to; answers the object's last state and whether it is gone."""
        return self._deletion.delete(kind, key, options, dry_run=dry_run)

    def delete_all(self, kind: Kind, selection: Selection, options: DeleteOptions) -> list[Stored]:
        """Delete everything selected; answers each object's last state."""
        return self._deletion.delete_all(kind, selection, options)

    # Creating

    def create(self, kind: Kind, namespace: str, body: Body, *, dry_run: bool = False) -> Stored:
        """Keep a new object; the body becomes the store's."""
        metadata = self._admit(kind, namespace, body)
        key = (namespace, self._choose_name(kind, namespace, metadata))
        self._check_namespace(kind, key)
        if metadata.pop("resourceVersion", "") not in {"", "0"}:
            raise problems.Problem(
                500, "InternalError", "resourceVersion should not be set on objects to be created"
            )
        for name in _OWNED:
            metadata.pop(name, None)
        metadata |= {"uid": str(uuid4()), "creationTimestamp": timestamp(self._now())}
        defaults.fill(kind, body)
        self._begin_status(kind, body)
        self._refuse_invalid(kind, key, body)
        if self.store.get(kind, key) is not None:
            raise problems.already_exists(kind, key[1])
        if kind is EVENTS:
            self._drop_old_events()
        kept = self._objects.keep(kind, key, body, dry_run=dry_run)
        if not dry_run:
            self._follow_up(kind, kept)
        return kept

    def _follow_up(self, kind: Kind, made: Stored) -> None:
        """What controllers do about a new object."""
        if kind is NAMESPACES:
            self._give_service_account(made.key[1])
        self._deletion.collect_ownerless(kind, made)

    def _admit(self, kind: Kind, namespace: str, body: Body) -> Body:
        wrong = shapes.shape(kind, body)
        if wrong is not None:
            raise problems.bad_request(wrong)
        for name in [name for name, value in body.items() if value is None]:
            del body[name]
        metadata: Body = {k: v for k, v in body.get("metadata", {}).items() if v is not None}
        body["metadata"] = metadata
        self._match_type(kind, body)
        stated = metadata.get("namespace") or ""
        if stated not in {"", namespace}:
            raise problems.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        if kind.namespaced:
            metadata["namespace"] = namespace
        else:
            metadata.pop("namespace", None)
        return metadata

    @staticmethod
    def _match_type(kind: Kind, body: Body) -> None:
        stated = (body.get("apiVersion") or kind.api_version, body.get("kind") or kind.kind)
        if stated != (kind.api_version, kind.kind):
            raise problems.bad_request(
                f"{stated[1]} in version {stated[0]} can't be sent to {kind.qualified}, "
                f"which holds {kind.kind} of {kind.api_version}"
            )

    def _choose_name(self, kind: Kind, namespace: str, metadata: Body) -> str:
        base = metadata.get("generateName") or ""
        while base and not metadata.get("name"):
            tail = "".join(secrets.choice(_NAME_ALPHABET) for _ in range(5))
            if self.store.get(kind, (namespace, base[:_GENERATED_BASE_MAX] + tail)) is None:
                metadata["name"] = base[:_GENERATED_BASE_MAX] + tail
        return metadata.get("name") or ""

    def _check_namespace(self, kind: Kind, key: Key) -> None:
        if not kind.namespaced:
            return
        space = self.store.get(NAMESPACES, ("", key[0]))
        if space is None:
            raise problems.not_found(NAMESPACES, key[0])
        if "deletionTimestamp" in space.body["metadata"]:
            raise problems.namespace_terminating(kind, key[1], key[0])

    def _begin_status(self, kind: Kind, body: Body) -> None:
        if kind is PODS:
            body["metadata"]["generation"] = 1
            quality = defaults.quality_of_service(body["spec"])
            body["status"] = {"phase": "Pending", "qosClass": quality}
            if body["spec"].get("nodeName"):
                body["status"]["conditions"] = [self._condition("PodScheduled", "True")]
        elif kind is NAMESPACES:
            body["status"] = {"phase": "Active"}
        elif kind.plural == "secrets":
            for name, text in (body.pop("stringData", None) or {}).items():
                body.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()

    def _condition(self, name: str, status: str, **more: str) -> Body:
        moment = timestamp(self._now())
        return {"type": name, "status": status, "lastProbeTime": None, "lastTransitionTime": moment, **more}

    @staticmethod
    def _refuse_invalid(kind: Kind, key: Key, body: Body) -> None:
        causes = validation.problems(kind, body)
        if causes:
            raise problems.unprocessable(kind, key[1], causes)

    def _give_service_account(self, namespace: str) -> None:
        if self.store.get(SERVICEACCOUNTS, (namespace, "default")) is None:
            self.create(SERVICEACCOUNTS, namespace, {"metadata": {"name": "default"}})

    def _drop_old_events(self) -> None:
        oldest = timestamp(self._now() - EVENT_LIFE)
        for stored in self.store.oldest(EVENTS):
            if stored.body["metadata"]["creationTimestamp"] > oldest:
                return
            self._deletion.erase(EVENTS, stored)

    # Changing

    def update(self, kind: Kind, key: Key, edit: Edit, *, part: str = "", dry_run: bool = False) -> Stored:
        """Replace an object by what ``edit`` makes of a copy of it. ``part`` is "" or "status"."""
        before = self.get(kind, key)
        after = edit(before.draft())
        if not isinstance(after.get("metadata"), dict):
            after["metadata"] = {}
        self._same_object(kind, before, after)
        metadata = self._admit(kind, key[0], after)
        for name in _OWNED:
            metadata.pop(name, None)
            if name in before.body["metadata"]:
                metadata[name] = before.body["metadata"][name]
        self._keep_other_part(kind, before, after, part)
        defaults.fill(kind, after)
        self._refuse_invalid(kind, key, after)
        self._refuse_changed_spec(kind, before, after)
        if self._may_go(kind, after):
            return self._deletion.erase(kind, before) if not dry_run else before
        metadata["resourceVersion"] = before.body["metadata"]["resourceVersion"]
        if after == before.body:
            return before
        return self._objects.keep(kind, key, after, dry_run=dry_run)

    @staticmethod
    def _same_object(kind: Kind, before: Stored, after: Body) -> None:
        metadata, current = after["metadata"], before.body["metadata"]
        name = before.key[1]
        if metadata.setdefault("name", name) != name:
            raise problems.bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            )
        if (metadata.get("uid") or current["uid"]) != current["uid"]:
            text = f"UID in precondition: {metadata['uid']}, UID in object meta: {current['uid']}"
            raise problems.conflict(kind, name, f"Precondition failed: {text}")
        if (metadata.get("resourceVersion") or current["resourceVersion"]) != current["resourceVersion"]:
            why = (
                "the object has been modified; please apply your changes to the latest version and try again"
            )
            raise problems.conflict(kind, name, why)

    @staticmethod
    def _keep_other_part(kind: Kind, before: Stored, after: Body, part: str) -> None:
        if not any(name == "status" for name, _ in kind.subresources):
            return
        kept = "spec" if part == "status" else "status"
        after.pop(kept, None)
        if kept in before.body:
            after[kept] = before.draft()[kept]

    @staticmethod
    def _refuse_changed_spec(kind: Kind, before: Stored, after: Body) -> None:
        if kind.plural not in _SPEC_OWNERS or before.body["spec"] == after["spec"]:
            return
        causes = podrules.immutable_problems(before.body["spec"], after["spec"])
        if causes:
            raise problems.unprocessable(kind, before.key[1], causes)
        after["metadata"]["generation"] = after["metadata"].get("generation", 1) + 1

    @staticmethod
    def _may_go(kind: Kind, body: Body) -> bool:
        metadata = body["metadata"]
        waiting = "deletionTimestamp" in metadata and not metadata.get("finalizers")
        return waiting and not metadata.get("deletionGracePeriodSeconds") and kind is not NAMESPACES

    # Binding and eviction

    def bind(self, key: Key, body: Mapping[str, Any], *, dry_run: bool = False) -> None:
        """Give a pod its node, once."""
        node = (body.get("target") or {}).get("name") or ""
        if not node:
            causes = [problems.required("target.name")]
            raise problems.unprocessable(PODS, key[1], causes)
        before = self.get(PODS, key)
        after = before.draft()
        if "deletionTimestamp" in after["metadata"]:
            why = f"pod {key[1]} is being deleted, cannot be assigned to a host"
            raise problems.conflict(PODS, key[1], why)
        if after["spec"].get("nodeName"):
            why = f'pod {key[1]} is already assigned to node "{after["spec"]["nodeName"]}"'
            raise problems.conflict(PODS, key[1], why)
        after["spec"]["nodeName"] = node
        self._set_condition(after, self._condition("PodScheduled", "True"))
        self._objects.keep(PODS, key, after, dry_run=dry_run)

    @staticmethod
    def _set_condition(body: Body, condition: Body) -> None:
        status = body.setdefault("status", {})
        conditions = status.get("conditions") or []
        others = [item for item in conditions if item.get("type") != condition["type"]]
        status["conditions"] = [*others, condition]

    def evict(self, key: Key, options: DeleteOptions, *, dry_run: bool = False) -> None:
        """Delete a pod through the eviction API, marking it as disrupted first."""
        before = self.get(PODS, key)
        self._deletion.check_preconditions(PODS, before, options)
        if dry_run:
            return
        after = before.draft()
        self._set_condition(
            after,
            self._condition(
                "DisruptionTarget",
                "True",
                reason="EvictionByEvictionAPI",
                message="Eviction API: evicting",
            ),
        )
        self._objects.keep(PODS, key, after)
        self.delete(PODS, key, DeleteOptions(grace_s=options.grace_s))
