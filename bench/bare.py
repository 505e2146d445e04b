"""The Kubernetes API as a client has it that does nothing besides: aiohttp, and bytes that are there already.

The limits of figures are made of it, and the node without processes. Knows
what a kubeconfig says and no executor.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    # Every side knows every figure; one that measures memory must not have imported what executors import.
    import aiohttp

Item = TypeVar("Item")


class Refused(Exception):
    """The API server has said no; the message is its answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


#: Requests at a time.
CONNECTIONS = 16
MERGE = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of one namespace."""

    session: "aiohttp.ClientSession"
    url: str
    headers: dict[str, str]

    async def send(
        self, method: str, name: str = "", body: str = "", kind: str = "application/json"
    ) -> bytes:
        """One request; its answer, as it came. Raises ``Refused``."""
        url = f"{self.url}/{name}" if name else self.url
        headers = self.headers | {"Content-Type": kind}
        async with self.session.request(method, url, data=body or None, headers=headers) as answer:
            said = await answer.read()
            if answer.status >= 300:
                raise Refused(answer.status, said.decode(errors="replace"))
            return said

    async def events(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Kind and pod of what happens, those that are there first; ends when the server ends the watch."""
        import aiohttp

        listed = json.loads(await self.send("GET"))
        for pod in listed["items"]:
            yield "ADDED", pod
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        unending = aiohttp.ClientTimeout(total=None)
        async with self.session.get(self.url, params=query, headers=self.headers, timeout=unending) as answer:
            buffer = b""
            async for chunk in answer.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    yield event["type"], event["object"]


@asynccontextmanager
async def pods_of(kubeconfig: str, namespace: str) -> AsyncIterator[Pods]:
    """As a kubeconfig says: its server, its certificates or its token."""
    from kubernetes_asyncio import client, config

    kubernetes = client.Configuration()
    await config.load_kube_config(kubeconfig, client_configuration=kubernetes)
    async with client.ApiClient(kubernetes) as api:
        token = await kubernetes.get_api_key_with_prefix("BearerToken")
        headers = {"Authorization": token} if token else {}
        url = f"{kubernetes.host}/api/v1/namespaces/{namespace}/pods"
        yield Pods(api.rest_client.pool_manager, url, headers)


async def each(items: Iterable[Item], do: Callable[[Item], Awaitable[Any]]) -> None:
    """All of them, so many at a time."""
    left = iter(items)

    async def some() -> None:
        for item in left:
            await do(item)

    await asyncio.gather(*(some() for _ in range(CONNECTIONS)))
