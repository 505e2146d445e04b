"""Keeps the node known: registers it, renews its Lease and repeats its readiness.

Called by ``agent``. Registers again when the object has vanished; an API that is away is tried
again at the next beat.
"""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime

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

LEASE_EVERY_S = 10.0
#: The status is repeated at each so many renewals.
STATUS_EVERY = 6


class Heartbeat:
    """One node's presence in the API."""

    def __init__(self, client: Client, node: NodeDescription, *, every_s: float = LEASE_EVERY_S) -> None:
        self._client, self._node, self._every_s = client, node, every_s
        self._path = f"/api/v1/nodes/{node.name}"
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases"
        self._since = datetime.now(UTC)

    async def begin(self) -> None:
        """Register, however long the API takes to answer."""
        backoff = Backoff()
        while True:
            try:
                await self._register()
                return
            except ApiUnavailable as error:
                log.warning("can't register yet: %s", error)
                await backoff.wait(error.retry_after_s)
            except ApiRefused as error:
                log.error("can't register: %s", error)  # noqa: TRY400
                await backoff.wait()

    async def run(self) -> None:
        """Beat for ever."""
        beats = 0
        while True:
            try:
                await self._renew()
                if beats % STATUS_EVERY == 0:
                    await self._repeat()
                beats += 1
            except ApiUnavailable as error:
                log.warning("heartbeat missed: %s", error)
            except ApiRefused as error:
                log.error("heartbeat refused: %s", error)  # noqa: TRY400
            await asyncio.sleep(self._every_s)

    async def end(self) -> None:
        """Say that the node is not ready any more, if the API hears it."""
        self._since = datetime.now(UTC)
        with contextlib.suppress(ApiUnavailable, ApiRefused):
            await self._say(ready=False)

    async def _register(self) -> None:
        try:
            await self._client.create("/api/v1/nodes", node_object(self._node))
        except Conflict:
            await self._client.patch(self._path, {"metadata": {"labels": dict(self._node.labels)}})
        await self._say(ready=True)

    async def _repeat(self) -> None:
        try:
            await self._say(ready=True)
        except NotFound:
            await self._register()

    async def _say(self, *, ready: bool) -> None:
        status = node_status(self._node, datetime.now(UTC), since=self._since, ready=ready)
        await self._client.patch(f"{self._path}/status", {"status": status})

    async def _renew(self) -> None:
        now = datetime.now(UTC)
        try:
            await self._client.patch(
                f"{self._leases}/{self._node.name}", {"spec": lease_spec(self._node.name, now)}
            )
        except NotFound:
            await self._create_lease(now)

    async def _create_lease(self, now: datetime) -> None:
        body = lease(self._node.name, now)
        try:
            await self._client.create(self._leases, body)
        except NotFound:
            # A control plane makes this namespace itself; the embedded API may not have.
            namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEASE_NAMESPACE}}
            with contextlib.suppress(Conflict):
                await self._client.create("/api/v1/namespaces", namespace)
            await self._client.create(self._leases, body)
