"""Both official Python clients, as the provider and the backend use them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import kubernetes
import kubernetes_asyncio
import pytest

from tests.contract.kube.cluster import WAIT_S, Client, Cluster, pod
from tests.contract.kube.watching import forgotten


@pytest.fixture
def core(cluster: Cluster) -> Iterator[kubernetes.client.CoreV1Api]:
    """The synchronous client."""
    with kubernetes.config.new_client_from_config(config_file=str(cluster.kubeconfig)) as api:
        yield kubernetes.client.CoreV1Api(api)


@pytest.fixture
async def async_core(cluster: Cluster) -> AsyncIterator[kubernetes_asyncio.client.CoreV1Api]:
    """The asynchronous client."""
    configuration = kubernetes_asyncio.client.Configuration()
    await kubernetes_asyncio.config.load_kube_config(
        config_file=str(cluster.kubeconfig), client_configuration=configuration
    )
    async with kubernetes_asyncio.client.ApiClient(configuration) as api:
        yield kubernetes_asyncio.client.CoreV1Api(api)


class TestPythonClient:
    async def test_it_creates_lists_patches_and_deletes(
        self, client: Client, core: kubernetes.client.CoreV1Api
    ) -> None:
        await asyncio.to_thread(_through_a_life, core, client.namespace)

    async def test_its_watch_sees_changes_while_they_happen(
        self, client: Client, core: kubernetes.client.CoreV1Api
    ) -> None:
        event = await asyncio.to_thread(_watch_one, core, client.namespace)
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "one")

    async def test_it_reads_logs_and_events(self, client: Client, core: kubernetes.client.CoreV1Api) -> None:
        await client.run("talks", "echo word; echo last")
        await client.ended("talks")
        query = {"container": "base", "tail_lines": 1, "_preload_content": False}
        told = await asyncio.to_thread(core.read_namespaced_pod_log, "talks", client.namespace, **query)
        assert told.data == b"last\n"

        def listed() -> list[str]:
            about = "involvedObject.name=talks,involvedObject.kind=Pod"
            found = core.list_namespaced_event(client.namespace, field_selector=about).items
            return [event.reason for event in found]

        async with asyncio.timeout(WAIT_S):
            while "Started" not in await asyncio.to_thread(listed):
                await asyncio.sleep(0.1)


def _through_a_life(core: kubernetes.client.CoreV1Api, namespace: str) -> None:
    core.create_namespaced_pod(namespace, pod("one", {"app": "a"}))
    listed = core.list_namespaced_pod(namespace, label_selector="app=a")
    assert [item.metadata.name for item in listed.items] == ["one"]
    core.patch_namespaced_pod("one", namespace, {"metadata": {"labels": {"app": "b"}}})
    assert core.list_namespaced_pod(namespace, label_selector="app=a").items == []
    core.delete_namespaced_pod("one", namespace, body=kubernetes.client.V1DeleteOptions())
    with pytest.raises(kubernetes.client.ApiException) as gone:
        core.read_namespaced_pod("one", namespace)
    assert gone.value.status == 404


def _watch_one(core: kubernetes.client.CoreV1Api, namespace: str) -> dict[str, object]:
    revision = core.list_namespaced_pod(namespace).metadata.resource_version
    later = threading.Timer(0.1, lambda: core.create_namespaced_pod(namespace, pod("one")))
    later.start()
    stream = kubernetes.watch.Watch().stream(
        core.list_namespaced_pod, namespace, resource_version=revision, timeout_seconds=int(WAIT_S)
    )
    event: dict[str, object] = next(stream)
    later.join()
    return event


class TestAsynchronousPythonClient:
    async def test_it_creates_lists_patches_and_deletes(
        self, client: Client, async_core: kubernetes_asyncio.client.CoreV1Api
    ) -> None:
        space = client.namespace
        made = await async_core.create_namespaced_pod(space, pod("one", {"app": "a"}))
        listed = await async_core.list_namespaced_pod(space, label_selector="app=a")
        assert [item.metadata.name for item in listed.items] == ["one"]
        patch = [{"op": "replace", "path": "/metadata/labels/app", "value": "b"}]
        await async_core.patch_namespaced_pod("one", space, patch)
        assert (await async_core.list_namespaced_pod(space, label_selector="app=a")).items == []
        wanted = kubernetes_asyncio.client.V1Preconditions(uid=made.metadata.uid)
        options = kubernetes_asyncio.client.V1DeleteOptions(preconditions=wanted, grace_period_seconds=0)
        await async_core.delete_namespaced_pod("one", space, body=options)
        with pytest.raises(kubernetes_asyncio.client.ApiException) as gone:
            await async_core.read_namespaced_pod("one", space)
        assert gone.value.status == 404

    async def test_it_lists_and_watches(
        self, client: Client, async_core: kubernetes_asyncio.client.CoreV1Api
    ) -> None:
        listed = await async_core.list_namespaced_pod(client.namespace)
        async with kubernetes_asyncio.watch.Watch() as watch:
            stream = watch.stream(
                async_core.list_namespaced_pod,
                client.namespace,
                resource_version=listed.metadata.resource_version,
                timeout_seconds=int(WAIT_S),
                allow_watch_bookmarks=True,
            )
            await async_core.create_namespaced_pod(client.namespace, pod("one"))
            event = await asyncio.wait_for(anext(stream), WAIT_S)
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "one")

    async def test_it_meets_410_as_its_exception(
        self, client: Client, async_core: kubernetes_asyncio.client.CoreV1Api
    ) -> None:
        revision, _ = await forgotten(client)
        async with kubernetes_asyncio.watch.Watch() as watch:
            stream = watch.stream(
                async_core.list_namespaced_pod,
                client.namespace,
                resource_version=revision,
                timeout_seconds=int(WAIT_S),
            )
            with pytest.raises(kubernetes_asyncio.client.ApiException) as gone:
                await asyncio.wait_for(anext(stream), WAIT_S)
        assert gone.value.status == 410

    async def test_it_follows_a_log(
        self, client: Client, async_core: kubernetes_asyncio.client.CoreV1Api
    ) -> None:
        await client.run("follow", "echo first; sleep 1; echo second")
        await client.phase("follow", "Running", "Succeeded")
        response = await async_core.read_namespaced_pod_log(
            "follow", client.namespace, follow=True, _preload_content=False
        )
        async with asyncio.timeout(WAIT_S):
            assert await response.content.readline() == b"first\n"
            assert await response.content.readline() == b"second\n"
        response.close()
