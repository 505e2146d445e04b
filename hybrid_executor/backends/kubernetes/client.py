"""The few verbs on pods and their Secrets that this backend needs, over plain dictionaries.

``PodApi`` wraps kubernetes_asyncio's transport and authentication, and
nothing else of it: no models, so that a list of ten thousand pods costs what
its JSON costs. It translates at this border: an answer that is a no becomes
``Answer``, no answer at all becomes ``ApiUnavailable``. It never repeats a
request that may have been carried out. kubernetes_asyncio is imported on the
first request: it costs tens of MiB, which a process that only constructs the
backend is spared.
"""
# ruff: noqa: PLC0415 - the clients are costly to import and most processes never use them

import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hybrid_executor.backends.kubernetes.answer import Answer, read_answer
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.connection import Connection, token_of
from hybrid_executor.meter import API_CALLS, Meter
from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.naming import shown_cluster

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("hybrid_executor.kubernetes")

Pod = Mapping[str, Any]
#: A connection that isn't made within this is not going to be.
CONNECT_TIMEOUT_S = 10.0
MERGE_PATCH = "application/merge-patch+json"
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


#: Failures in a row that are more than one lost connection.
TROUBLE_LIMIT = 3


class Availability:
    """Remembers whether the API server answers. The breaker of the backend tells people."""

    def __init__(self) -> None:
        #: Why it does not; None while it does, and for the first failures. May be read by any thread.
        self.trouble: str | None = None
        self._failures = 0

    def lost(self, why: str) -> None:
        """No answer came, or a 5xx."""
        self._failures += 1
        log.debug("the Kubernetes API server did not answer: %s", why)
        if self._failures >= TROUBLE_LIMIT:
            self.trouble = why

    def found(self) -> None:
        """It answered, whatever it said."""
        self._failures, self.trouble = 0, None


class PodApi:
    """Pods of one API server. Use from one event loop; ``close`` when done."""

    def __init__(self, config: KubernetesConfig, meter: Meter | None = None) -> None:
        self._config = config
        self._meter = meter or Meter()
        self._connection = Connection(config, self._lost)
        self.availability = Availability()

    async def create(self, namespace: str, pod: Pod) -> dict[str, Any]:
        return await self._json("POST", pods_path(namespace), body=pod)

    async def read(self, namespace: str, name: str) -> dict[str, Any]:
        return await self._json("GET", pods_path(namespace, name))

    async def delete(self, namespace: str, name: str, options: Mapping[str, Any]) -> None:
        """Ask for the deletion; the pod may go on for its grace period."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        await self._json("DELETE", pods_path(namespace, name), body=body)

    async def label(self, namespace: str, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
        """Set labels and return the whole pod as it is then."""
        body = {"metadata": {"labels": dict(labels)}}
        return await self._json("PATCH", pods_path(namespace, name), body=body, content_type=MERGE_PATCH)

    async def annotate(self, namespace: str, name: str, annotations: Mapping[str, str]) -> None:
        """Set annotations."""
        body = {"metadata": {"annotations": dict(annotations)}}
        await self._json("PATCH", pods_path(namespace, name), body=body, content_type=MERGE_PATCH)

    async def retire(self, namespace: str, name: str, labels: Mapping[str, str], *, stop: bool) -> None:
        """Set labels on a pod that is kept; ``stop`` lets its node end what still runs in it."""
        body: dict[str, Any] = {"metadata": {"labels": dict(labels)}}
        if stop:
            # Past by now: the one field that ends containers and keeps their pod.
            body["spec"] = {"activeDeadlineSeconds": 1}
        await self._json("PATCH", pods_path(namespace, name), body=body, content_type=MERGE_PATCH)

    async def create_secret(self, namespace: str, secret: Mapping[str, Any]) -> None:
        await self._json("POST", secrets_path(namespace), body=secret)

    async def replace_secret(self, namespace: str, secret: Mapping[str, Any]) -> None:
        """Whatever it was before: no resourceVersion is compared."""
        await self._json("PUT", secrets_path(namespace, secret["metadata"]["name"]), body=secret)

    def pages(
        self, namespace: str | None, selector: str, field_selector: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        """List page by page. All pages are of one resourceVersion; 410 says that it is gone."""
        return self._pages(pods_path(namespace), {"labelSelector": selector}, field_selector)

    async def listed(self, kind: str, field_selector: str = "") -> AsyncIterator[dict[str, Any]]:
        """Every object of a core kind in the whole cluster, e.g. ``nodes``."""
        async for page in self._pages(f"/api/v1/{kind}", {}, field_selector):
            for item in page["items"]:
                yield item

    async def _pages(
        self, path: str, query: Mapping[str, str], field_selector: str
    ) -> AsyncIterator[dict[str, Any]]:
        asked = {**query, "limit": str(self._config.page_size)}
        if field_selector:
            asked["fieldSelector"] = field_selector
        while True:
            page = await self._json("GET", path, query=asked)
            yield page
            token = page["metadata"].get("continue")
            if not token:
                return
            asked["continue"] = token

    @asynccontextmanager
    async def watch(
        self, namespace: str | None, query: Mapping[str, str], deadline_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a watch: its bytes as they come. ``TimeoutError`` at the deadline."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=deadline_s, connect=CONNECT_TIMEOUT_S)
        response = await self._send("GET", pods_path(namespace), query=query, timeout=timeout)
        try:
            if response.status != 200:
                raise await self._answer(response)
            self._keep_alive(response)
            yield self._chunks(response)
        finally:
            response.close()

    def _keep_alive(self, response: "aiohttp.ClientResponse") -> None:
        transport = response.connection.transport if response.connection else None
        connection = transport.get_extra_info("socket") if transport else None
        if self._config.tcp_keepalive and connection is not None:
            for level, option, value in keepalive_options(self._config):
                connection.setsockopt(level, option, value)

    async def close(self) -> None:
        await self._connection.close()

    async def _chunks(self, response: "aiohttp.ClientResponse") -> AsyncIterator[bytes]:
        import aiohttp

        try:
            async for chunk in response.content.iter_any():
                yield chunk
        except aiohttp.ClientError as error:
            raise ApiUnavailable(f"the watch was cut: {_words(error)}") from error

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        import aiohttp

        timeout = self._config.request_timeout_s
        response = await self._send(
            method, path, query=query or {}, body=body, content_type=content_type, timeout=timeout
        )
        try:
            if not 200 <= response.status < 300:
                raise await self._answer(response)
            answer: dict[str, Any] = await response.json(content_type=None)
            return answer
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._lost(error) from error
        finally:
            response.release()

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        timeout: Any,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> "aiohttp.ClientResponse":
        """Send it; once more, with a new token, where the token was refused: then nothing was done."""
        client = await self._connection.client()
        token = token_of(client)

        async def send() -> "aiohttp.ClientResponse":
            import aiohttp

            try:
                response: aiohttp.ClientResponse = await client.call_api(
                    path,
                    method,
                    query_params=list(query.items()),
                    header_params={"Content-Type": content_type, "Accept": "application/json"},
                    body=body,
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _request_timeout=timeout,
                )
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._count(method, path, query, "none")
                raise self._lost(error) from error
            self._count(method, path, query, str(response.status))
            if response.status < 500:
                self.availability.found()
            return response

        response = await send()
        if response.status == 401 and await self._connection.has_other_token(token):
            response.release()
            response = await send()
        return response

    def _count(self, method: str, path: str, query: Mapping[str, str], code: str) -> None:
        cluster = shown_cluster(self._config.cluster)
        self._meter.count(API_CALLS, cluster, *call_of(method, path, query), code)

    async def _answer(self, response: "aiohttp.ClientResponse") -> Answer:
        import aiohttp

        try:
            body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._lost(error) from error
        answer = read_answer(response.status, body, response.headers)
        if answer.code >= 500 and answer.is_back_pressure:
            self.availability.lost(str(answer))
        return answer

    def _lost(self, error: BaseException) -> ApiUnavailable:
        words = _words(error)
        self.availability.lost(words)
        return ApiUnavailable(f"no answer from {self._config.in_words}: {words}")


def keepalive_options(config: KubernetesConfig) -> list[tuple[int, int, int]]:
    """(level, option, value) for ``setsockopt``; where the platform lacks one it is left out."""
    wanted = {
        "TCP_KEEPIDLE": config.tcp_keepalive_idle_s,
        "TCP_KEEPINTVL": config.tcp_keepalive_interval_s,
        "TCP_KEEPCNT": config.tcp_keepalive_count,
    }
    known = [(socket.IPPROTO_TCP, getattr(socket, n), v) for n, v in wanted.items() if hasattr(socket, n)]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *known]


def pods_path(namespace: str | None, name: str | None = None) -> str:
    path = "/api/v1/pods" if namespace is None else f"/api/v1/namespaces/{quote(namespace, safe='')}/pods"
    return f"{path}/{quote(name, safe='')}" if name else path


def secrets_path(namespace: str, name: str | None = None) -> str:
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets"
    return f"{path}/{quote(name, safe='')}" if name else path


def call_of(method: str, path: str, query: Mapping[str, str]) -> tuple[str, str]:
    """Verb and resource of a request, as RBAC and audit logs have them."""
    steps = path.removeprefix("/apis/").split("/")[2:] if path.startswith("/apis/") else path.split("/")[3:]
    if steps[0] == "namespaces" and len(steps) > 2:
        steps = steps[2:]
    resource = f"{steps[0]}/{steps[2]}" if len(steps) > 2 else steps[0]
    if method != "GET":
        return _VERBS[method], resource
    if query.get("watch") == "true":
        return "watch", resource
    return "list" if len(steps) == 1 else "get", resource


def _words(error: BaseException) -> str:
    """Timeouts say nothing of themselves."""
    return str(error) or type(error).__name__
