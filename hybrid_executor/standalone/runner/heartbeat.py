"""Keeps the node known: registers it, renews its Lease and sees to its readiness.

Called by ``agent``. Registers again when the object has vanished, and says
Ready again when somebody else has said otherwise; an API that is away is tried
again at the next beat.
"""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from typing import Any

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.standalone.runner.client import ApiRefused, Backoff, Client, Conflict, NotFound
from hybrid_executor.standalone.runner.node import (
    LEASE_NAMESPACE,
    NodeDescription,
    lease,
    lease_spec,
    node_object,
    node_status,
)

log = logging.getLogger(__name__)

#: Beats in the life of a Lease.
BEATS = 4
#: The whole status is repeated at least this often.
STATUS_EVERY_S = 60.0


class Heartbeat:
    """One node's presence in the API."""

    def __init__(self, client: Client, node: NodeDescription) -> None:
        self._client, self._node = client, node
        self._path = f"/api/v1/nodes/{node.name}"
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases"
        self._said_at = 0.0

    async def begin(self) -> None:
        """Register, however long the API takes to answer."""
        backoff = Backoff()
        while True:
            try:
                await self._register()
                await self._renew(await self._client.get(self._path))
                return
            except ApiUnavailable as error:
                log.warning("can't register yet: %s", error)
                await backoff.wait(error.retry_after_s)
            except ApiRefused as error:
                log.error("can't register: %s", error)  # noqa: TRY400
                await backoff.wait()

    async def run(self) -> None:
        """Beat for ever."""
        while True:
            await asyncio.sleep(self._node.lease_s / BEATS)
            try:
                await self._beat()
            except ApiUnavailable as error:
                log.warning("heartbeat missed: %s", error)
            except ApiRefused as error:
                log.error("heartbeat refused: %s", error)  # noqa: TRY400

    async def end(self) -> None:
        """Say that the node is not ready any more, if the API hears it."""
        with contextlib.suppress(ApiUnavailable, ApiRefused):
            await self._say(await self._client.get(self._path), ready=False)

    async def _beat(self) -> None:
        try:
            found = await self._client.get(self._path)
        except NotFound:
            await self._register()
            found = await self._client.get(self._path)
        await self._renew(found)
        since_s = asyncio.get_running_loop().time() - self._said_at
        if not _is_ready(found) or since_s > STATUS_EVERY_S:
            await self._say(found, ready=True)

    async def _register(self) -> None:
        try:
            found = await self._client.create("/api/v1/nodes", node_object(self._node))
        except Conflict:
            found = await self._client.patch(self._path, {"metadata": {"labels": dict(self._node.labels)}})
        await self._say(found, ready=True)

    async def _say(self, found: dict[str, Any], *, ready: bool) -> None:
        before = (found.get("status") or {}).get("conditions") or []
        status = node_status(self._node, datetime.now(UTC), before=before, ready=ready)
        await self._client.merge_lists(f"{self._path}/status", {"status": status})
        self._said_at = asyncio.get_running_loop().time()

    async def _renew(self, found: dict[str, Any]) -> None:
        name, now = self._node.name, datetime.now(UTC)
        try:
            spec = lease_spec(name, now, self._node.lease_s)
            await self._client.patch(f"{self._leases}/{name}", {"spec": spec})
        except NotFound:
            body = lease(name, found["metadata"]["uid"], now, self._node.lease_s)
            await self._client.create(self._leases, body)


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
