"""The clusters that the contract of ``tests.contract.kube`` is held against, each as a ``Cluster``.

Whoever has a plane and a node, or a kubeconfig, gets what the suite takes.
Called by ``test_contract_*``; ``tests.fixtures.embedded`` makes the embedded one.
"""

import asyncio
import base64
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hybrid_executor.standalone import limits
from hybrid_executor.standalone.runner.node import CONTAINER_RUNTIME
from tests.cluster import build
from tests.cluster.kubelet.images import TINY
from tests.cluster.plane import ControlPlane
from tests.cluster.servers import answer
from tests.contract.kube.cluster import Cluster, Past, way_to

#: What a pod runs on a given cluster, unless CONTRACT_IMAGE says otherwise; it has a shell and ``httpd``.
PUBLIC_IMAGE = "busybox:1"
#: An API server lets etcd forget what is older than five minutes, every five minutes.
FORGETS_S = 720.0
#: Nodes of processes pass none of these on; pods on loopback are reached by no API server.
RUNNER_LIMITS = {limit.name: limit.words for limit in limits.OF_NODES.values()} | {
    "pods/proxy": "address not allowed",
    "nodes/proxy": "address not allowed",
}


@pytest.fixture(scope="session")
def kubectl_program() -> Sequence[str]:
    """kubectl, of the version of our planes."""
    return (str(build.kubernetes()), "kubectl")


def with_runner(plane: ControlPlane) -> Cluster:
    """A plane of ours whose node is the runner."""
    forget = partial(_compact, plane)
    return Cluster(kubeconfig=plane.admin, image=TINY, forget=forget, limits=RUNNER_LIMITS)


def with_kubelet(plane: ControlPlane) -> Cluster:
    """A plane of ours whose node is a kubelet."""
    return Cluster(kubeconfig=plane.admin, image=TINY, forget=partial(_compact, plane))


def _compact(plane: ControlPlane, past: Past) -> Past:
    """Let etcd forget its history, and the API server what it remembers of it."""
    etcd = f"https://127.0.0.1:{plane.ports.etcd}/v3/kv"
    now = _ask(plane, f"{etcd}/range", {"key": base64.b64encode(b"/").decode()})["header"]["revision"]
    _ask(plane, f"{etcd}/compaction", {"revision": now, "physical": True})
    plane.restart("apiserver")
    return past


def _ask(plane: ControlPlane, url: str, body: dict[str, Any]) -> dict[str, Any]:
    code, text = answer(url, plane.trust, "POST", json.dumps(body).encode())
    assert code == 200, text
    return dict(json.loads(text))


# --- a cluster that is not ours --------------------------------------------------------------


def given(kubeconfig: Path) -> Cluster:
    """Somebody's cluster. Its nodes say what they are."""
    nodes = asyncio.run(_get(kubeconfig, "/api/v1/nodes"))[1]["items"]
    runtimes = {node["status"]["nodeInfo"]["containerRuntimeVersion"] for node in nodes}
    return Cluster(
        kubeconfig=kubeconfig,
        image=os.environ.get("CONTRACT_IMAGE", PUBLIC_IMAGE),
        forget=lambda past: asyncio.run(_beginning(kubeconfig, past)),
        limits=RUNNER_LIMITS if runtimes == {CONTAINER_RUNTIME} else {},
    )


async def _beginning(kubeconfig: Path, past: Past) -> Past:
    """The cluster's very first revision, once that is forgotten: a young one still knows it."""
    token = json.loads(base64.urlsafe_b64decode(past[1] + "=="))
    oldest = base64.urlsafe_b64encode(json.dumps(token | {"rv": 1}).encode()).decode().rstrip("=")
    path = f"/api/v1/namespaces?limit=1&continue={oldest}"

    async def forgotten() -> bool:
        return (await _get(kubeconfig, path))[0] == 410

    await _until(forgotten, f"after {FORGETS_S:.0f} s it still knows its first revision")
    return "1", oldest


async def _until(condition: Callable[[], Awaitable[bool]], message: str) -> None:
    async with asyncio.timeout(FORGETS_S):
        while not await condition():
            await asyncio.sleep(1)


async def _get(kubeconfig: Path, path: str) -> tuple[int, Any]:
    way = way_to(kubeconfig)
    connector = aiohttp.TCPConnector(ssl=way.trust)
    async with (
        aiohttp.ClientSession(connector=connector, headers=way.headers) as session,
        session.get(way.url + path) as reply,
    ):
        return reply.status, await reply.json()
