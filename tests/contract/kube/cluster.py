"""What a test of the contract gets: a cluster, raw HTTP in a namespace of its own, and pods to make there.

Knows no cluster by name. ``Cluster`` is made by the modules that bind the suite.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import kubernetes
import pytest

MERGE = {"Content-Type": "application/merge-patch+json"}
STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
#: Of pods that are to stay as the test made them: a name that no scheduler has.
BY_HAND = "by-hand"
WAIT_S = 30.0
POLL_S = 0.05

Body = dict[str, Any]
#: A revision, and a continue token of that time.
Past = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster, and an administrator's way in."""

    kubeconfig: Path
    #: Nodes have it or can pull it, and it has a shell.
    image: str
    #: Make it forget what is older than now; answers a past that it has forgotten. Blocks.
    forget: Callable[[Past], Past]
    #: Called before a node is needed; returns when there is one that takes pods.
    need_node: Callable[[], None] = lambda: None
    #: What it refuses of ``hybrid_executor.standalone.limits``, by name, and in which words.
    limits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """Where an API server is, and what shows it who asks."""

    url: str
    trust: ssl.SSLContext
    headers: dict[str, str]


def way_to(kubeconfig: Path) -> Way:
    """What the kubeconfig's current context says."""
    configuration = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    trust = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        trust.load_cert_chain(configuration.cert_file, configuration.key_file)
    headers = {item["key"]: item["value"] for item in configuration.auth_settings().values()}
    return Way(configuration.host, trust, headers)


def pod(name: str = "", labels: Body | None = None, **spec: Any) -> Body:
    """A pod that every API server takes, and that nobody schedules."""
    metadata: Body = {"labels": labels or {}} | ({"name": name} if name else {"generateName": "p-"})
    containers = [{"name": "base", "image": "busybox:1", "command": ["true"]}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"restartPolicy": "Never", "schedulerName": BY_HAND, "containers": containers, **spec},
    }


class Watch:
    """An open watch, read with a deadline."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self, *, bookmarks: bool = False) -> tuple[str, Body]:
        """The next event; bookmarks are left out unless asked for."""
        while True:
            line = await asyncio.wait_for(self.response.content.readline(), WAIT_S)
            assert line, "the watch ended"
            event = json.loads(line)
            if bookmarks or event["type"] != "BOOKMARK":
                return event["type"], event["object"]

    async def take(self, count: int) -> list[tuple[str, str]]:
        """The next events' types and names."""
        events = [await self.next() for _ in range(count)]
        return [(kind, body["metadata"]["name"]) for kind, body in events]

    async def rest(self) -> list[tuple[str, Body]]:
        """All events until the server ends the watch, bookmarks too."""
        text = await asyncio.wait_for(self.response.content.read(), WAIT_S)
        events = [json.loads(line) for line in text.splitlines()]
        return [(event["type"], event["object"]) for event in events]


class Client:
    """Raw HTTP in a namespace of its own."""

    def __init__(self, cluster: Cluster, url: str, session: aiohttp.ClientSession, namespace: str) -> None:
        self.cluster, self.url, self.session, self.namespace = cluster, url, session, namespace
        self.home = f"/api/v1/namespaces/{namespace}"
        self.pods = f"{self.home}/pods"

    async def call(
        self, method: str, path: str, body: Any = None, headers: Body | None = None, **query: Any
    ) -> tuple[int, Any]:
        """One request: the code and the body. Bytes are sent as they are, all else as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        kinds = {"Content-Type": "application/json"} if body is not None else {}
        async with self.session.request(
            method, self.url + path, data=data, params=query, headers=kinds | (headers or {})
        ) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return answer.status, json.loads(text) if is_json else text

    async def ok(
        self, method: str, path: str, body: Any = None, headers: Body | None = None, **query: Any
    ) -> Any:
        """One request that succeeds: the body."""
        status, answer = await self.call(method, path, body, headers, **query)
        assert status in {200, 201, 202}, answer
        return answer

    async def create(self, name: str = "", labels: Body | None = None, **spec: Any) -> Body:
        """A new pod that stays as it is."""
        created: Body = await self.ok("POST", self.pods, pod(name, labels, **spec))
        return created

    async def make(self, plural: str, name: str, **more: Any) -> Body:
        """A new object of another core kind; ``metadata`` among ``more`` is added to."""
        metadata = {"name": name} | more.pop("metadata", {})
        made: Body = await self.ok("POST", f"{self.home}/{plural}", {"metadata": metadata, **more})
        return made

    async def bind(self, name: str, node: str = "n1") -> None:
        """Give the pod a node, which need not be there."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": self.namespace},
            "target": target,
        }
        await self.ok("POST", f"{self.pods}/{name}/binding", binding)

    async def names(self, **query: Any) -> list[str]:
        """Names of the pods selected."""
        listed = await self.ok("GET", self.pods, **query)
        return [item["metadata"]["name"] for item in listed["items"]]

    async def revision(self) -> str:
        """The revision of a list of pods, now."""
        listed = await self.ok("GET", self.pods)
        return str(listed["metadata"]["resourceVersion"])

    @asynccontextmanager
    async def watch(self, **query: Any) -> AsyncIterator[Watch]:
        """Watch pods."""
        params = {"watch": "true", "timeoutSeconds": "120", **query}
        async with self.session.get(self.url + self.pods, params=params) as response:
            assert response.status == 200, await response.text()
            yield Watch(response)

    # Pods that run

    async def run(self, name: str, script: str, **spec: Any) -> Body:
        """A new pod that the cluster's own scheduler binds; its container runs a shell script."""
        self.cluster.need_node()
        mounts = spec.pop("volumeMounts", [])
        base = {"name": "base", "command": ["sh", "-c", script], "volumeMounts": mounts}
        containers = [base, *spec.pop("more_containers", [])]
        for container in containers:
            container |= {"image": self.cluster.image}
        wanted = pod(name, containers=containers, schedulerName="default-scheduler", **spec)
        created: Body = await self.ok("POST", self.pods, wanted)
        return created

    async def until(self, path: str, condition: Callable[[Body], Any]) -> Body:
        """An object, once the condition holds of it."""
        deadline = time.monotonic() + 2 * WAIT_S
        while True:
            seen = await self.ok("GET", path)
            if condition(seen):
                return dict(seen)
            assert time.monotonic() < deadline, json.dumps(seen, indent=1)
            await asyncio.sleep(POLL_S)

    async def gone(self, path: str) -> None:
        """Wait until nothing is at that path."""
        deadline = time.monotonic() + 2 * WAIT_S
        while (answer := await self.call("GET", path))[0] != 404:
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(POLL_S)

    async def phase(self, name: str, *phases: str) -> Body:
        """The pod, once it is in one of these phases."""
        return await self.until(f"{self.pods}/{name}", lambda body: body["status"].get("phase") in phases)

    async def ended(self, name: str) -> Body:
        return await self.phase(name, "Succeeded", "Failed")

    async def log(self, name: str, **query: Any) -> str:
        """The pod's log; a node says in a 5xx that it does not know the pod yet."""
        return str(await self.ok("GET", f"{self.pods}/{name}/log", **query))


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """A client in a new namespace."""
    way = way_to(cluster.kubeconfig)
    connector = aiohttp.TCPConnector(ssl=way.trust)
    async with aiohttp.ClientSession(connector=connector, headers=way.headers) as session:
        made = Client(cluster, way.url, session, f"t-{uuid4().hex[:10]}")
        await made.ok("POST", "/api/v1/namespaces", {"metadata": {"name": made.namespace}})
        # Without its ServiceAccount a namespace takes no pods.
        await made.until(f"{made.home}/serviceaccounts", lambda listed: listed["items"])
        yield made
        # No node would end those that were bound to one that is not there.
        await made.call("DELETE", made.pods, {"gracePeriodSeconds": 0})
        await made.call("DELETE", made.home)
