"""Writes Kubernetes events about pods, off the path of the work.

Best effort, as a kubelet's: a full queue or a refusing server costs the event,
never the pod. A repeated event raises the count of the first.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.standalone.runner.client import ApiRefused, Backoff, Client, NotFound
from hybrid_executor.standalone.runner.podstate import instant

log = logging.getLogger(__name__)

QUEUE_MAX = 1000
REMEMBERED_MAX = 2000

Kind = Literal["Normal", "Warning"]


class EventWriter:
    """Queues events and sends them in order; ``silent`` drops them all."""

    def __init__(self, client: Client, component: str, host: str, *, silent: bool = False) -> None:
        self._client, self._component, self._host, self._silent = client, component, host, silent
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(QUEUE_MAX)
        self._sent: OrderedDict[tuple[str, ...], dict[str, Any]] = OrderedDict()

    def tell(
        self, pod: Mapping[str, Any], kind: Kind, reason: str, message: str, container: str = ""
    ) -> None:
        """Queue one event about ``pod``, or about one of its containers."""
        if self._silent:
            return
        try:
            self._queue.put_nowait(self._event(pod, kind, reason, message, container))
        except asyncio.QueueFull:
            log.warning("event dropped, too many are waiting: %s %s", reason, message)

    def _event(
        self, pod: Mapping[str, Any], kind: Kind, reason: str, message: str, container: str
    ) -> dict[str, Any]:
        meta = pod["metadata"]
        now = instant(datetime.now(UTC))
        about = {"apiVersion": "v1", "kind": "Pod", "resourceVersion": meta.get("resourceVersion", "")}
        about |= {key: meta[key] for key in ("name", "namespace", "uid")}
        if container:
            about["fieldPath"] = f"spec.containers{{{container}}}"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{uuid4().hex[:16]}", "namespace": meta["namespace"]},
            "involvedObject": about,
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": self._component, "host": self._host},
            "reportingComponent": self._component,
            "reportingInstance": self._host,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }

    async def run(self) -> None:
        """Send what is queued, for ever."""
        backoff = Backoff()
        while True:
            event = await self._queue.get()
            while True:
                try:
                    await self._send(event)
                    backoff.reset()
                    break
                except ApiUnavailable as error:
                    await backoff.wait(error.retry_after_s)
                except ApiRefused as error:
                    log.debug("event refused: %s", error)
                    break

    async def _send(self, event: dict[str, Any]) -> None:
        about = event["involvedObject"]
        key = (about["uid"], about.get("fieldPath", ""), event["reason"], event["message"])
        path = f"/api/v1/namespaces/{about['namespace']}/events"
        if (earlier := self._sent.get(key)) and await self._repeat(path, earlier, event):
            return
        await self._client.create(path, event)
        self._sent[key] = event
        if len(self._sent) > REMEMBERED_MAX:
            self._sent.popitem(last=False)

    async def _repeat(self, path: str, earlier: dict[str, Any], event: dict[str, Any]) -> bool:
        """Count an earlier event once more; False if the server has forgotten it by now."""
        repeat = {"count": earlier["count"] + 1, "lastTimestamp": event["lastTimestamp"]}
        try:
            await self._client.patch(f"{path}/{earlier['metadata']['name']}", repeat)
        except NotFound:
            return False
        earlier |= repeat
        return True

    async def drain(self, deadline_s: float) -> None:
        """Wait until what is queued has been taken up, at most ``deadline_s``."""
        end = asyncio.get_running_loop().time() + deadline_s
        while not self._queue.empty() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)
