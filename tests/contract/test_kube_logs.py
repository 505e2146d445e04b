"""What the embedded API asks of a node for ``pods/log``, and what it makes of the answer."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.contract.kube.cluster import MERGE, Client, Cluster, client
from tests.fixtures.kube import Kube

__all__ = ["client"]


class Node:
    """Serves ``/containerLogs`` as a node does, and remembers what it was asked."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.refusal: tuple[int, str] | None = None

    async def start(self) -> int:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._kube.folder / "node.crt", self._kube.folder / "node.key")
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append((request.path, dict(request.query), request.headers.get("Authorization", "")))
        if self.refusal is not None:
            return web.Response(status=self.refusal[0], text=self.refusal[1])
        return web.Response(text="first\n")


@pytest.fixture
def cluster(kube: Kube) -> Cluster:
    """The embedded API without the runner."""
    return Cluster(kubeconfig=Path(kube.kubeconfig), image="none", forget=lambda past: past)


@pytest.fixture
async def node(kube: Kube, client: Client) -> AsyncIterator[Node]:
    """A node ``n1`` that serves logs."""
    served = Node(kube)
    port = await served.start()
    await client.ok("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}})
    status: dict[str, Any] = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    await client.ok("PATCH", "/api/v1/nodes/n1/status", {"status": status}, MERGE)
    yield served
    await served.stop()


async def test_a_log_comes_from_the_pods_node_which_sees_the_token_and_the_options(
    kube: Kube, client: Client, node: Node
) -> None:
    await client.create("one")
    await client.bind("one")
    assert await client.log("one", tailLines="5", timestamps="true") == "first\n"
    path, query, token = node.asked[0]
    assert path == f"/containerLogs/{client.namespace}/one/base"
    assert query == {"tailLines": "5", "timestamps": "true"}
    assert token == f"Bearer {(kube.folder / 'node-token').read_text()}"


async def test_what_the_node_refuses_is_told_with_its_words(client: Client, node: Node) -> None:
    await client.create("one")
    await client.bind("one")
    node.refusal = (400, 'container "base" in pod "one" is waiting to start: ContainerCreating')
    status, body = await client.call("GET", f"{client.pods}/one/log")
    assert (status, body["reason"], body["message"]) == (400, "BadRequest", node.refusal[1])


async def test_the_log_on_an_unreachable_node_is_an_error(client: Client, node: Node) -> None:
    await client.create("one")
    await client.bind("one")
    await node.stop()
    status, body = await client.call("GET", f"{client.pods}/one/log")
    assert (status, body["reason"]) == (500, "InternalError")
