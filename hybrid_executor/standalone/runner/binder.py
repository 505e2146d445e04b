"""Binds pods to this node, in the place of a scheduler; embedded mode only (``--bind``).

Called by ``agent``, which tells it of the pods already here. What fits is ``fit``'s to say. A pod that does
not fit stays Pending with the condition and event of kube-scheduler, and is
looked at again whenever room is made.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.standalone.runner import fit
from hybrid_executor.standalone.runner.client import ApiRefused, Backoff, Client, Conflict, NotFound
from hybrid_executor.standalone.runner.events import EventWriter
from hybrid_executor.standalone.runner.node import NodeDescription
from hybrid_executor.standalone.runner.podstate import instant
from hybrid_executor.standalone.runner.reflector import Reflector
from hybrid_executor.standalone.runner.statuswriter import pod_path

log = logging.getLogger(__name__)

Manifest = Mapping[str, Any]


class Binder:
    """Watches unbound pods and binds those that fit."""

    def __init__(
        self,
        client: Client,
        events: EventWriter,
        node: NodeDescription,
        bound: Callable[[], Mapping[str, Manifest]],
    ) -> None:
        self._client, self._events, self._node, self._bound = client, events, node, bound
        self._waiting = Reflector(client, "/api/v1/pods", "spec.nodeName=")
        self._offered = fit.capacity(node.allocatable)
        #: Bound by us, and not yet seen as bound.
        self._assumed: dict[str, Manifest] = {}
        self._told: dict[str, str] = {}
        self._look = asyncio.Event()

    def room_changed(self) -> None:
        """A pod came to this node, ended or went: look again."""
        self._look.set()

    async def run(self) -> None:
        """Bind for ever."""
        await asyncio.gather(self._follow(), self._bind_all())

    async def _follow(self) -> None:
        async for change in self._waiting.changes():
            if change.object and change.gone:
                self._told.pop(change.object["metadata"]["uid"], None)
            self._look.set()

    async def _bind_all(self) -> None:
        backoff = Backoff()
        while True:
            await self._look.wait()
            self._look.clear()
            try:
                await self._round()
                backoff.reset()
            except ApiUnavailable as error:
                log.warning("binding waits: %s", error)
                self._look.set()
                await backoff.wait(error.retry_after_s)

    async def _round(self) -> None:
        """One pass over what waits, the most important first."""
        used = self._used()
        for pod in fit.order(filter(fit.wants_binding, list(self._waiting.objects.values()))):
            if pod["metadata"]["uid"] in self._assumed:
                continue
            found = fit.obstacles(pod, self._offered, used, self._node.labels)
            if found:
                await self._say(pod, fit.unschedulable_message(found))
            elif await self._bind(pod):
                used += fit.requests(pod)

    def _used(self) -> fit.Capacity:
        bound = self._bound()
        # Seen as bound, or no longer waiting: nothing to assume any more.
        self._assumed = {
            uid: pod
            for uid, pod in self._assumed.items()
            if uid not in bound and uid in self._waiting.objects
        }
        living = [pod for pod in bound.values() if not fit.is_terminal(pod)]
        total = fit.Capacity()
        for pod in (*living, *self._assumed.values()):
            total += fit.requests(pod)
        return total

    async def _bind(self, pod: Manifest) -> bool:
        meta = pod["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self._node.name},
        }
        try:
            await self._client.create(f"{pod_path(pod)}/binding", binding)
        except (Conflict, NotFound):
            return False
        except ApiRefused as error:
            log.error("binding %s refused: %s", meta["name"], error)  # noqa: TRY400
            return False
        self._assumed[meta["uid"]] = pod
        self._told.pop(meta["uid"], None)
        message = f"Successfully assigned {meta['namespace']}/{meta['name']} to {self._node.name}"
        self._events.tell(pod, "Normal", "Scheduled", message)
        return True

    async def _say(self, pod: Manifest, message: str) -> None:
        """Condition and event, once for each different message."""
        meta = pod["metadata"]
        if self._told.get(meta["uid"]) == message:
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": None,
            "lastTransitionTime": instant(datetime.now(UTC)),
        }
        body = {"metadata": {"uid": meta["uid"]}, "status": {"conditions": [condition]}}
        try:
            await self._client.merge_lists(f"{pod_path(pod)}/status", body)
        except ApiRefused as error:
            log.info("%s is not told that it can't be scheduled: %s", meta["name"], error)
            return
        self._told[meta["uid"]] = message
        self._events.tell(pod, "Warning", "FailedScheduling", message)
