"""The Kubernetes API as the runner uses it: plain requests on plain dictionaries.

Translates at its border: what may pass is ``ApiUnavailable`` (try again), and
``ApiRefused`` (the server's own no, with its code and words). It keeps no state
and retries nothing itself.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import aiohttp

from hybrid_executor.model.errors import ApiUnavailable, HybridExecutorError
from hybrid_executor.model.reason import Reason
from hybrid_executor.standalone.runner.kubeconfig import Cluster

Object = dict[str, Any]

REQUEST_TIMEOUT_S = 20.0
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
#: A watch line may hold an object of any size that the API stores.
LINE_MAX = 8 * 2**20


class ApiRefused(HybridExecutorError):
    """The API server understood and said no."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class NotFound(ApiRefused):
    """404."""


class Conflict(ApiRefused):
    """409: it exists, its version moved on, or its UID is another's."""


class Gone(ApiRefused):
    """410: the resourceVersion is too old; list again."""


_KINDS = {404: NotFound, 409: Conflict, 410: Gone}


def refusal(code: int, status: Mapping[str, Any]) -> ApiRefused:
    """The exception that a ``Status`` object stands for."""
    kind = _KINDS.get(code, ApiRefused)
    return kind(code, str(status.get("reason") or ""), str(status.get("message") or f"HTTP {code}"))


class Client:
    """One session on one API server; use as an async context manager."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._cluster.tls or False, limit=64)
        self._session = aiohttp.ClientSession(connector=connector, read_bufsize=LINE_MAX)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def get(self, path: str, **parameters: str) -> Object:
        return await self._call("GET", path, parameters=parameters)

    async def create(self, path: str, body: Object) -> Object:
        return await self._call("POST", path, body)

    async def replace(self, path: str, body: Object) -> Object:
        return await self._call("PUT", path, body)

    async def patch(self, path: str, body: Object) -> Object:
        """A JSON merge patch."""
        return await self._call("PATCH", path, body, content_type=MERGE_PATCH)

    async def merge_lists(self, path: str, body: Object) -> Object:
        """A strategic merge patch: lists of things with names or types are merged, not replaced."""
        return await self._call("PATCH", path, body, content_type=STRATEGIC_PATCH)

    async def delete(self, path: str, options: Object) -> Object:
        return await self._call("DELETE", path, options)

    async def watch(self, path: str, *, timeout_s: int, **parameters: str) -> AsyncIterator[Object]:
        """The events of one watch, until the server ends it.

        Silence longer than ``timeout_s`` and a margin counts as a lost connection.
        """
        query = {**parameters, "watch": "true", "timeoutSeconds": str(timeout_s)}
        limits = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_TIMEOUT_S, sock_read=timeout_s + 15)
        try:
            async with self._open().get(
                self._cluster.server + path, params=query, headers=self._headers(), timeout=limits
            ) as response:
                if response.status != 200:
                    await _raise(response)
                async for line in response.content:
                    yield _event(json.loads(line))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiUnavailable(f"watch {path}: {error!r}") from error

    async def _call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        parameters: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers() | ({"Content-Type": content_type} if data else {})
        try:
            async with self._open().request(
                method,
                self._cluster.server + path,
                params=parameters,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
            ) as response:
                if response.status >= 400:
                    await _raise(response)
                answer: Object = await response.json(content_type=None)
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiUnavailable(f"{method} {path}: {error!r}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is not open")
        return self._session

    def _headers(self) -> dict[str, str]:
        token = self._cluster.bearer()
        return {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})


def _event(event: Object) -> Object:
    if event.get("type") == "ERROR":
        status = event.get("object") or {}
        code = int(status.get("code") or 500)
        if code >= 500 or code == 429:
            raise ApiUnavailable(str(status.get("message") or code))
        raise refusal(code, status)
    return event


async def _raise(response: aiohttp.ClientResponse) -> None:
    text = await response.text(errors="replace")
    try:
        status = json.loads(text)
    except ValueError:
        status = {}
    if not isinstance(status, dict) or not status.get("message"):
        status = {"message": f"HTTP {response.status}: {text[:500]}"}
    code = response.status
    if code == 429:
        retry_after = response.headers.get("Retry-After", "")
        seconds = float(retry_after) if retry_after.isdigit() else None
        raise ApiUnavailable(str(status["message"]), reason=Reason.THROTTLED, retry_after_s=seconds)
    if code >= 500 or code == 401:
        raise ApiUnavailable(str(status["message"]))
    raise refusal(code, status)


class Backoff:
    """Waits that double from ``first_s`` to ``most_s``; ``reset`` after a success."""

    def __init__(self, first_s: float = 0.2, most_s: float = 5.0) -> None:
        self._first_s, self._most_s, self._next_s = first_s, most_s, first_s

    def reset(self) -> None:
        self._next_s = self._first_s

    async def wait(self, at_least_s: float | None = None) -> None:
        await asyncio.sleep(max(self._next_s, at_least_s or 0))
        self._next_s = min(self._next_s * 2, self._most_s)
