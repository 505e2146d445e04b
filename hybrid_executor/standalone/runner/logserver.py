"""``/containerLogs/<namespace>/<pod>/<container>`` over TLS, as a kubelet serves it.

Answers only who shows the cluster's node token, or a client certificate of the
given CA whose bearer ``logaccess`` lets in; without either configured, nobody.
Read by ``pods/log`` of the API.
"""

import hmac
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from hybrid_executor.standalone import limits
from hybrid_executor.standalone.runner import loglines
from hybrid_executor.standalone.runner.logaccess import LogAccess, Reader, reader
from hybrid_executor.standalone.runner.logstore import LogStore

log = logging.getLogger(__name__)

#: Finds a pod of this node by namespace and name.
FindPod = Callable[[str, str], Mapping[str, Any] | None]


@dataclass(frozen=True)
class LogServerFiles:
    """Where the identity and the trust of the endpoint lie."""

    certificate: Path
    key: Path
    token: Path | None = None
    client_ca: Path | None = None

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        if self.client_ca:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


class LogServer:
    """Serves until ``stop``. Binds the loopback address it is given, on a port of its own."""

    def __init__(self, files: LogServerFiles, logs: LogStore, find: FindPod, access: LogAccess) -> None:
        self._files, self._logs, self._find, self._access = files, logs, find, access
        self._runner: web.AppRunner | None = None

    async def start(self, address: str, port: int = 0) -> int:
        """The port that it listens on."""
        app = web.Application(middlewares=[self._authenticated])
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._serve)
        app.router.add_get("/healthz", self._health)
        app.router.add_route("*", "/{what:exec|attach|portForward}/{pod:.*}", self._refuse)
        # Followers never end of themselves; without a short timeout a stop would wait for them.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, address, port, ssl_context=self._files.tls())
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    @web.middleware
    async def _authenticated(
        self, request: web.Request, handler: Callable[[web.Request], Any]
    ) -> web.StreamResponse:
        if not self._knows_token(request):
            await self._review(request)
        response: web.StreamResponse = await handler(request)
        return response

    async def _review(self, request: web.Request) -> None:
        """Raise unless the bearer of a client certificate may read logs here."""
        who = self._bearer(request)
        if who is None:
            raise web.HTTPUnauthorized(text="Unauthorized")
        if not await self._access.allows(who):
            raise web.HTTPForbidden(text=f"{who.user} may not read logs of this node")

    def _bearer(self, request: web.Request) -> Reader | None:
        """A certificate that reached us was verified against the CA by the handshake."""
        shown = request.transport and request.transport.get_extra_info("peercert")
        return reader(shown) if self._files.client_ca and shown else None

    def _knows_token(self, request: web.Request) -> bool:
        if self._files.token is None:
            return False
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        wanted = self._files.token.read_text().strip()
        return kind == "Bearer" and bool(wanted) and hmac.compare_digest(given.encode(), wanted.encode())

    @staticmethod
    async def _health(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    @staticmethod
    async def _refuse(request: web.Request) -> web.Response:
        limit = limits.OF_NODES[request.match_info["what"].lower()]
        return web.Response(status=limit.code, text=limit.words)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = loglines.query(request.query, datetime.now(UTC))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        path = self._locate(request, previous=asked.previous)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        left = asked.limit_bytes
        async for text in self._logs.read(path, asked):
            await response.write(text if left is None else text[:left])
            if left is not None and (left := left - len(text)) <= 0:
                break
        return response

    def _locate(self, request: web.Request, *, previous: bool) -> Path:
        namespace, name, container = (request.match_info[key] for key in ("namespace", "pod", "container"))
        pod = self._find(namespace, name)
        if pod is None:
            raise web.HTTPNotFound(text=f'pod "{name}" does not exist')
        names = [c["name"] for kind in ("initContainers", "containers") for c in pod["spec"].get(kind) or []]
        if container not in names:
            raise web.HTTPNotFound(text=f'container "{container}" not found in pod "{name}"')
        uid = pod["metadata"]["uid"]
        runs = self._logs.runs(uid, container)
        if previous:
            if len(runs) < 2:
                words = f'previous terminated container "{container}" in pod "{name}" not found'
                raise web.HTTPBadRequest(text=words)
            return self._logs.path(uid, container, runs[-2])
        if not runs:
            words = f'container "{container}" in pod "{name}" is waiting to start: {_reason(pod, container)}'
            raise web.HTTPBadRequest(text=words)
        return self._logs.path(uid, container, runs[-1])


def _reason(pod: Mapping[str, Any], container: str) -> str:
    status = pod.get("status") or {}
    for entry in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        if entry["name"] == container:
            return str((entry.get("state", {}).get("waiting") or {}).get("reason", "ContainerCreating"))
    return "ContainerCreating"
