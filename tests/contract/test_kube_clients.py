"""The clients that are really used, over the API: both Python ones, and a node that serves logs."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import kubernetes
import kubernetes_asyncio
import pytest
from aiohttp import web

from tests.contract.test_kube_api import Client, client, pod
from tests.fixtures.kube import Kube

__all__ = ["client"]

WAIT_S = 10.0


@pytest.fixture
def core(kube: Kube) -> Iterator[kubernetes.client.CoreV1Api]:
    """The synchronous client."""
    with kubernetes.config.new_client_from_config(config_file=kube.kubeconfig) as api:
        yield kubernetes.client.CoreV1Api(api)


@pytest.fixture
async def async_core(kube: Kube) -> AsyncIterator[kubernetes_asyncio.client.CoreV1Api]:
    """The asynchronous client."""
    configuration = kubernetes_asyncio.client.Configuration()
    await kubernetes_asyncio.config.load_kube_config(
        config_file=kube.kubeconfig, client_configuration=configuration
    )
    async with kubernetes_asyncio.client.ApiClient(configuration) as api:
        yield kubernetes_asyncio.client.CoreV1Api(api)


def test_the_python_client_creates_lists_patches_and_deletes(core: kubernetes.client.CoreV1Api) -> None:
    core.create_namespaced_pod("default", pod("one", {"app": "a"}))
    listed = core.list_namespaced_pod("default", label_selector="app=a")
    assert [item.metadata.name for item in listed.items] == ["one"]
    core.patch_namespaced_pod("one", "default", {"metadata": {"labels": {"app": "b"}}})
    assert core.list_namespaced_pod("default", label_selector="app=a").items == []
    core.delete_namespaced_pod("one", "default", body=kubernetes.client.V1DeleteOptions())
    with pytest.raises(kubernetes.client.ApiException) as gone:
        core.read_namespaced_pod("one", "default")
    assert gone.value.status == 404


def test_the_python_watch_sees_changes_while_they_happen(core: kubernetes.client.CoreV1Api) -> None:
    revision = core.list_namespaced_pod("default").metadata.resource_version
    later = threading.Timer(0.1, lambda: core.create_namespaced_pod("default", pod("one")))
    later.start()
    stream = kubernetes.watch.Watch().stream(
        core.list_namespaced_pod, "default", resource_version=revision, timeout_seconds=int(WAIT_S)
    )
    event = next(stream)
    later.join()
    assert (event["type"], event["object"].metadata.name) == ("ADDED", "one")


async def test_the_asynchronous_client_lists_and_watches(
    async_core: kubernetes_asyncio.client.CoreV1Api,
) -> None:
    listed = await async_core.list_namespaced_pod("default")
    async with kubernetes_asyncio.watch.Watch() as watch:
        stream = watch.stream(
            async_core.list_namespaced_pod,
            "default",
            resource_version=listed.metadata.resource_version,
            timeout_seconds=int(WAIT_S),
            allow_watch_bookmarks=True,
        )
        await async_core.create_namespaced_pod("default", pod("one"))
        event = await asyncio.wait_for(anext(stream), WAIT_S)
    assert (event["type"], event["object"].metadata.name) == ("ADDED", "one")


async def test_the_asynchronous_client_meets_410_as_its_exception(
    kube: Kube, async_core: kubernetes_asyncio.client.CoreV1Api
) -> None:
    listed = await async_core.list_namespaced_pod("default")
    await async_core.create_namespaced_pod("default", pod("one"))
    await asyncio.to_thread(kube.compact)
    async with kubernetes_asyncio.watch.Watch() as watch:
        stream = watch.stream(
            async_core.list_namespaced_pod,
            "default",
            resource_version=listed.metadata.resource_version,
            timeout_seconds=int(WAIT_S),
        )
        with pytest.raises(kubernetes_asyncio.client.ApiException) as gone:
            await asyncio.wait_for(anext(stream), WAIT_S)
    assert gone.value.status == 410


# Logs, from something that stands where a node would


class Node:
    """Serves ``/containerLogs`` as a node does, and remembers what it was asked."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.more = asyncio.Event()
        self.refusal: tuple[int, str] | None = None

    async def start(self) -> int:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._kube.folder / "node.crt", self._kube.folder / "node.key")
        self._runner = web.ServerRunner(
            web.Server(self._answer, handler_cancellation=True), shutdown_timeout=0.5
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append((request.path, dict(request.query), request.headers.get("Authorization", "")))
        if self.refusal is not None:
            return web.Response(status=self.refusal[0], text=self.refusal[1])
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        if "follow" in request.query:
            await self.more.wait()
            await response.write(b"second\n")
        return response


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


MERGE = {"Content-Type": "application/merge-patch+json"}


async def test_a_log_comes_from_the_pods_node(kube: Kube, client: Client, node: Node) -> None:
    await client.create("one")
    await client.bind("one")
    text = await client.ok("GET", f"{client.pods}/one/log", tailLines="5", timestamps="true")
    assert text == "first\n"
    path, query, token = node.asked[0]
    assert path == f"/containerLogs/{client.namespace}/one/base"
    assert query == {"tailLines": "5", "timestamps": "true"}
    assert token == f"Bearer {(kube.folder / 'node-token').read_text()}"


async def test_a_followed_log_arrives_as_it_is_written(
    client: Client, node: Node, async_core: kubernetes_asyncio.client.CoreV1Api
) -> None:
    await client.create("one")
    await client.bind("one")
    response = await async_core.read_namespaced_pod_log(
        "one", client.namespace, follow=True, _preload_content=False
    )
    assert await asyncio.wait_for(response.content.readline(), WAIT_S) == b"first\n"
    node.more.set()
    assert await asyncio.wait_for(response.content.readline(), WAIT_S) == b"second\n"
    response.close()


async def test_what_the_node_refuses_is_told_with_its_words(client: Client, node: Node) -> None:
    await client.create("one")
    await client.bind("one")
    node.refusal = (400, 'container "base" in pod "one" is waiting to start: ContainerCreating')
    status, body = await client.call("GET", f"{client.pods}/one/log")
    assert (status, body["reason"], body["message"]) == (400, "BadRequest", node.refusal[1])


async def test_the_log_of_an_unbound_pod_is_empty_and_of_an_unreachable_node_an_error(
    client: Client, node: Node
) -> None:
    await client.create("one")
    assert await client.call("GET", f"{client.pods}/one/log") == (204, "")
    await client.bind("one")
    await node.stop()
    status, body = await client.call("GET", f"{client.pods}/one/log")
    assert (status, body["reason"]) == (500, "InternalError")


async def test_a_log_request_names_a_container_where_there_are_several(client: Client) -> None:
    containers = [{"name": name, "image": "i"} for name in ("base", "side")]
    await client.create("two", containers=containers)
    status, body = await client.call("GET", f"{client.pods}/two/log")
    assert status == 400
    assert "a container name must be specified for pod two, choose one of: [base side]" in body["message"]
    status, body = await client.call("GET", f"{client.pods}/two/log", container="none")
    assert (status, body["message"]) == (400, "container none is not valid for pod two")
    status, _ = await client.call("GET", f"{client.pods}/two/log", container="base", tailLines="-1")
    assert status == 422


@pytest.mark.parametrize("what", ["exec", "attach", "portforward"])
async def test_exec_attach_and_port_forward_say_that_they_are_not_there(client: Client, what: str) -> None:
    await client.create("one")
    status, body = await client.call("POST", f"{client.pods}/one/{what}")
    assert (status, body["kind"], body["reason"]) == (501, "Status", "NotImplemented")
    assert f"pods/{what}" in body["message"]
