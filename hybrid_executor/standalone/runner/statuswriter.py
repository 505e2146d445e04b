"""Tells the API what became of one pod, for as long as it takes.

Only the newest status is sent; what happened while a request was under way or
the API was away is told in one piece. Used by ``podworker``.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.standalone.runner.client import ApiRefused, Backoff, Client
from hybrid_executor.standalone.runner.podstate import PodState
from hybrid_executor.standalone.runner.podstatus import status

log = logging.getLogger(__name__)

#: What is said is wrong; saying it again helps nobody.
_INVALID = frozenset({400, 413, 415, 422})


def pod_path(pod: Mapping[str, Any]) -> str:
    meta = pod["metadata"]
    return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"


async def exists(client: Client, pod: Mapping[str, Any]) -> bool:
    """Whether this very pod, not a namesake, is still there; True where the API does not say.

    Asked by a list: to a node that gets a pod which is gone, a control plane
    says 403, as it does while it has not yet seen that the pod is the node's.
    """
    meta = pod["metadata"]
    node = pod["spec"].get("nodeName") or ""
    selector = f"spec.nodeName={node},metadata.name={meta['name']}"
    try:
        path = f"/api/v1/namespaces/{meta['namespace']}/pods"
        found = await client.get(path, fieldSelector=selector)
    except (ApiUnavailable, ApiRefused):
        return True
    return any(item["metadata"]["uid"] == meta["uid"] for item in found.get("items") or [])


class StatusWriter:
    """Patches ``pods/status`` whenever told, one request at a time."""

    def __init__(self, client: Client, pod: Callable[[], Mapping[str, Any]]) -> None:
        self._client, self._pod = client, pod
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._latest: tuple[PodState, Mapping[str, str]] | None = None
        self._task = asyncio.create_task(self._run())

    def publish(self, state: PodState, annotations: Mapping[str, str]) -> None:
        """Send this status next; it never blocks."""
        self._latest = (state, annotations)
        self._idle.clear()
        self._news.set()

    async def flushed(self) -> None:
        """Until the API has the newest status, or the pod is gone from it."""
        await self._idle.wait()

    def close(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._send()
                backoff.reset()
            except ApiUnavailable as error:
                log.warning("status of %s waits: %s", self._pod()["metadata"]["name"], error)
                self._news.set()
                await backoff.wait(error.retry_after_s)
                continue
            except ApiRefused as error:
                if await self._is_to_be_repeated(error):
                    self._news.set()
                    await backoff.wait()
                    continue
            if not self._news.is_set():
                self._idle.set()

    async def _is_to_be_repeated(self, error: ApiRefused) -> bool:
        """Whether a refusal may pass: the pod is still ours, and the words of the status are not to blame."""
        name = self._pod()["metadata"]["name"]
        if error.code in _INVALID:
            log.error("status of %s refused: %s", name, error)
            return False
        if not await exists(self._client, self._pod()):
            log.info("status of %s is nobody's any more: %s", name, error)
            return False
        log.warning("status of %s refused, to be repeated: %s", name, error)
        return True

    async def _send(self) -> None:
        if self._latest is None:
            return
        state, annotations = self._latest
        pod = self._pod()
        # The UID is a precondition: a namesake made meanwhile answers Conflict.
        metadata: dict[str, Any] = {"uid": pod["metadata"]["uid"]}
        if annotations:
            metadata["annotations"] = dict(annotations)
        body = {"metadata": metadata, "status": status(pod, state, datetime.now(UTC))}
        await self._client.merge_lists(f"{pod_path(pod)}/status", body)
