"""What a Kubernetes API promises to the backend, the runner and kubectl, asked over HTTP alone.

Nothing here knows what stands behind ``kube``: the same tests hold on a real
control plane without a scheduler.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.fixtures.kube import Kube

MERGE = {"Content-Type": "application/merge-patch+json"}
STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
PARTIAL = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"}
WAIT_S = 10.0

Body = dict[str, Any]


def pod(name: str = "", labels: Body | None = None, **spec: Any) -> Body:
    """A pod that every API server takes."""
    metadata: Body = {"labels": labels or {}} | ({"name": name} if name else {"generateName": "p-"})
    containers = [{"name": "base", "image": "busybox:1", "command": ["true"]}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"restartPolicy": "Never", "containers": containers, **spec},
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

    async def ended(self) -> bool:
        """Whether the server ends it within the deadline, whatever it still sends."""
        await asyncio.wait_for(self.response.content.read(), WAIT_S)
        return True


class Client:
    """Raw HTTP in a namespace of its own."""

    def __init__(self, kube: Kube, session: aiohttp.ClientSession, namespace: str) -> None:
        self._session = session
        self._url = kube.url
        self.namespace = namespace
        self.home = f"/api/v1/namespaces/{namespace}"
        self.pods = f"{self.home}/pods"

    async def call(
        self, method: str, path: str, body: Any = None, headers: Body | None = None, **query: Any
    ) -> tuple[int, Any]:
        """One request: the code and the body."""
        data = None if body is None else json.dumps(body)
        kinds = {"Content-Type": "application/json"} if body is not None else {}
        async with self._session.request(
            method, self._url + path, data=data, params=query, headers=kinds | (headers or {})
        ) as answer:
            text = await answer.text()
            is_json = answer.content_type == "application/json"
            return answer.status, json.loads(text) if is_json else text

    async def ok(
        self, method: str, path: str, body: Any = None, headers: Body | None = None, **query: Any
    ) -> Any:
        """One request that succeeds: the body."""
        status, answer = await self.call(method, path, body, headers, **query)
        assert status in {200, 201}, answer
        return answer

    async def create(self, name: str = "", labels: Body | None = None, **spec: Any) -> Body:
        """A new pod."""
        created: Body = await self.ok("POST", self.pods, pod(name, labels, **spec))
        return created

    async def bind(self, name: str, node: str = "n1") -> None:
        """Give the pod a node."""
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
        params = {"watch": "true", "timeoutSeconds": "60", **query}
        async with self._session.get(self._url + self.pods, params=params) as response:
            assert response.status == 200, await response.text()
            yield Watch(response)


@pytest.fixture
async def client(kube: Kube) -> AsyncIterator[Client]:
    """A client in a new namespace."""
    trust = ssl.create_default_context(cafile=kube.ca_file)
    headers = {"Authorization": f"Bearer {kube.token}"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), headers=headers) as session:
        namespace = f"t-{uuid4().hex[:8]}"
        made = Client(kube, session, namespace)
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        await made.ok("POST", "/api/v1/namespaces", space)
        yield made
        await made.call("DELETE", f"/api/v1/namespaces/{namespace}")


# Who may ask, and what there is


async def test_a_request_without_the_token_is_refused_with_401(client: Client) -> None:
    status, body = await client.call("GET", client.pods, headers={"Authorization": "Bearer wrong"})
    assert (status, body["kind"], body["reason"]) == (401, "Status", "Unauthorized")


async def test_discovery_names_the_kinds_with_their_verbs_and_subresources(client: Client) -> None:
    core = {item["name"]: item for item in (await client.ok("GET", "/api/v1"))["resources"]}
    wanted = {"pods", "pods/status", "pods/log", "pods/binding", "pods/eviction", "events", "namespaces"}
    assert wanted | {"nodes", "nodes/status", "configmaps", "secrets", "serviceaccounts"} <= core.keys()
    assert {"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"} <= set(
        core["pods"]["verbs"]
    )
    assert core["pods"]["shortNames"] == ["po"]
    groups = [group["name"] for group in (await client.ok("GET", "/apis"))["groups"]]
    assert "coordination.k8s.io" in groups
    assert (await client.ok("GET", "/version"))["major"] == "1"


async def test_what_is_not_served_is_404_with_a_status(client: Client) -> None:
    status, body = await client.call("GET", "/apis/nothing.example/v1/things")
    # A real one answers with plain text where no group of that name exists.
    assert status == 404
    assert isinstance(body, str) or body["reason"] == "NotFound"


async def test_one_may_do_what_one_may_do(client: Client) -> None:
    attributes = {"verb": "create", "resource": "pods", "namespace": client.namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await client.ok("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    assert answer["status"]["allowed"] is True


# Creating


async def test_a_created_pod_has_an_identity_defaults_and_a_pending_phase(client: Client) -> None:
    made = await client.create("one")
    assert made["metadata"]["uid"]
    assert made["metadata"]["resourceVersion"].isdigit()
    assert made["metadata"]["creationTimestamp"].endswith("Z")
    assert made["spec"]["terminationGracePeriodSeconds"] == 30
    assert made["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert await client.ok("GET", f"{client.pods}/one") == made


async def test_a_generated_name_begins_as_asked_and_is_new_each_time(client: Client) -> None:
    names = {(await client.create())["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("p-") for name in names)


async def test_a_second_pod_of_a_name_is_409_already_exists(client: Client) -> None:
    await client.create("one")
    status, body = await client.call("POST", client.pods, pod("one"))
    assert (status, body["reason"], body["message"]) == (409, "AlreadyExists", 'pods "one" already exists')
    assert body["details"] == {"name": "one", "kind": "pods"}


async def test_a_missing_object_is_404(client: Client) -> None:
    status, body = await client.call("GET", f"{client.pods}/none")
    assert (status, body["reason"], body["message"]) == (404, "NotFound", 'pods "none" not found')


async def test_a_pod_in_a_missing_namespace_is_404(client: Client) -> None:
    status, body = await client.call("POST", "/api/v1/namespaces/nowhere/pods", pod("one"))
    assert (status, body["message"]) == (404, 'namespaces "nowhere" not found')


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"metadata": {"name": "Not_A_Name"}}, "metadata.name"),
        ({"metadata": {"name": "x" * 254}}, "metadata.name"),
        ({"metadata": {"labels": {"a b": "1"}}}, "metadata.labels"),
        ({"metadata": {"labels": {"a": "not a value"}}}, "metadata.labels"),
        ({"metadata": {"labels": {"a": "x" * 64}}}, "metadata.labels"),
        ({"spec": {"containers": []}}, "spec.containers"),
        ({"spec": {"containers": [{"name": "base"}]}}, "spec.containers[0].image"),
        ({"spec": {"containers": [{"name": "A_B", "image": "i"}]}}, "spec.containers[0].name"),
        ({"spec": {"restartPolicy": "Sometimes"}}, "spec.restartPolicy"),
        (
            {"spec": {"containers": [{"name": "b", "image": "i"}, {"name": "b", "image": "i"}]}},
            "spec.containers[1].name",
        ),
        (
            {
                "spec": {
                    "containers": [
                        {"name": "b", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
                    ]
                }
            },
            "spec.containers[0].volumeMounts[0].name",
        ),
        (
            {
                "spec": {
                    "containers": [
                        {
                            "name": "b",
                            "image": "i",
                            "resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}},
                        }
                    ]
                }
            },
            "spec.containers[0].resources.requests",
        ),
    ],
)
async def test_an_invalid_pod_is_422_and_names_the_field(client: Client, change: Body, field: str) -> None:
    wrong = pod("good")
    for part, values in change.items():
        wrong[part] |= values
    status, body = await client.call("POST", client.pods, wrong)
    assert (status, body["reason"]) == (422, "Invalid")
    assert field in [cause["field"] for cause in body["details"]["causes"]]
    assert body["message"].startswith(f'Pod "{wrong["metadata"]["name"]}" is invalid: ')


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"name": "x", "labels": {"number": 1}}},
        {"spec": {"containers": {"name": "base"}}},
        {"spec": {"containers": [{"name": "b", "image": "i", "env": [{"name": "A", "value": 1}]}]}},
        {"kind": "ConfigMap"},
    ],
)
async def test_a_value_of_the_wrong_type_is_400(client: Client, change: Body) -> None:
    status, body = await client.call("POST", client.pods, pod("good") | change)
    assert (status, body["reason"]) == (400, "BadRequest")


async def test_a_body_of_an_unknown_format_is_415(client: Client) -> None:
    status, body = await client.call("POST", client.pods, pod("x"), {"Content-Type": "text/csv"})
    assert (status, body["reason"]) == (415, "UnsupportedMediaType")
    await client.create("y")
    status, body = await client.call("PATCH", f"{client.pods}/y", {}, {"Content-Type": "application/json"})
    assert (status, body["reason"]) == (415, "UnsupportedMediaType")


async def test_a_body_that_is_no_json_is_400(client: Client, kube: Kube) -> None:
    trust = ssl.create_default_context(cafile=kube.ca_file)
    headers = {"Authorization": f"Bearer {kube.token}", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session,
        session.post(kube.url + client.pods, data=b"{no", headers=headers) as answer,
    ):
        assert answer.status == 400


async def test_a_dry_run_creates_nothing(client: Client) -> None:
    await client.ok("POST", client.pods, pod("ghost"), dryRun="All")
    assert await client.names() == []


# Reading


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=a", ["a1", "a2"]),
        ("app==a,tier=front", ["a1"]),
        ("app!=a", ["b1", "bare"]),
        ("app in (a, b)", ["a1", "a2", "b1"]),
        ("app notin (a)", ["b1", "bare"]),
        ("tier", ["a1", "b1"]),
        ("!tier", ["a2", "bare"]),
        ("app in (a,b),tier notin (back),!zone", ["a1", "a2"]),
        ("app=", []),
        ("", ["a1", "a2", "b1", "bare"]),
    ],
)
async def test_a_label_selector_selects(client: Client, selector: str, names: list[str]) -> None:
    await client.create("a1", {"app": "a", "tier": "front"})
    await client.create("a2", {"app": "a"})
    await client.create("b1", {"app": "b", "tier": "back"})
    await client.create("bare")
    assert await client.names(labelSelector=selector) == names


async def test_a_field_selector_selects(client: Client) -> None:
    await client.create("one")
    await client.create("two")
    await client.bind("two", "n7")
    assert await client.names(fieldSelector="metadata.name=one") == ["one"]
    assert await client.names(fieldSelector="spec.nodeName=n7") == ["two"]
    assert await client.names(fieldSelector="spec.nodeName=") == ["one"]
    assert await client.names(fieldSelector="status.phase!=Pending") == []
    assert await client.names(fieldSelector="status.phase=Pending,metadata.name!=one") == ["two"]


@pytest.mark.parametrize(
    "query", [{"labelSelector": "a in b"}, {"fieldSelector": "spec.colour=red"}, {"limit": "x"}]
)
async def test_a_malformed_query_is_400(client: Client, query: Body) -> None:
    status, body = await client.call("GET", client.pods, **query)
    assert (status, body["reason"]) == (400, "BadRequest")


async def test_pages_of_a_list_show_one_moment_although_the_pods_change(client: Client) -> None:
    for number in range(5):
        await client.create(f"p{number}")
    first = await client.ok("GET", client.pods, limit="2")
    assert first["metadata"]["remainingItemCount"] == 3
    await client.ok("DELETE", f"{client.pods}/p3")
    await client.create("p25")
    await client.ok("PATCH", f"{client.pods}/p4", {"metadata": {"labels": {"new": "1"}}}, MERGE)
    rest = await client.ok("GET", client.pods, limit="9", **{"continue": first["metadata"]["continue"]})
    items = [*first["items"], *rest["items"]]
    assert [item["metadata"]["name"] for item in items] == ["p0", "p1", "p2", "p3", "p4"]
    assert items[4]["metadata"].get("labels") is None or "new" not in items[4]["metadata"]["labels"]
    assert rest["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in rest["metadata"]


async def test_an_unreadable_continue_token_is_400(client: Client) -> None:
    status, _ = await client.call("GET", client.pods, limit="1", **{"continue": "rubbish"})
    assert status == 400


async def test_a_list_of_a_future_revision_is_refused_as_too_large(client: Client) -> None:
    status, body = await client.call(
        "GET", client.pods, resourceVersion="999999999", resourceVersionMatch="NotOlderThan"
    )
    assert (status, body["reason"]) == (504, "Timeout")
    assert body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def test_a_table_and_the_metadata_alone_can_be_asked_for(client: Client) -> None:
    await client.create("one")
    table = await client.ok("GET", client.pods, headers=TABLE)
    assert table["kind"] == "Table"
    assert [column["name"] for column in table["columnDefinitions"]][:3] == ["Name", "Ready", "Status"]
    assert table["rows"][0]["cells"][:3] == ["one", "0/1", "Pending"]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    partial = await client.ok("GET", client.pods, headers=PARTIAL)
    assert partial["kind"] == "PartialObjectMetadataList"
    assert partial["items"][0].keys() <= {"kind", "apiVersion", "metadata"}


# Changing


async def test_a_replace_with_a_stale_revision_is_409_conflict(client: Client) -> None:
    path = f"{client.home}/configmaps/c"
    first = await client.ok(
        "POST", f"{client.home}/configmaps", {"metadata": {"name": "c"}, "data": {"a": "1"}}
    )
    await client.ok("PUT", path, first | {"data": {"a": "2"}})
    status, body = await client.call("PUT", path, first | {"data": {"a": "3"}})
    assert (status, body["reason"]) == (409, "Conflict")
    assert "the object has been modified" in body["message"]
    assert (await client.ok("GET", path))["data"] == {"a": "2"}


async def test_a_change_that_changes_nothing_keeps_the_revision(client: Client) -> None:
    made = await client.create("one", {"a": "1"})
    same = await client.ok("PATCH", f"{client.pods}/one", {"metadata": {"labels": {"a": "1"}}}, MERGE)
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_a_merge_patch_sets_and_removes(client: Client) -> None:
    await client.create("one", {"a": "1", "b": "2"})
    patch = {"metadata": {"labels": {"a": None, "c": "3"}}}
    patched = await client.ok("PATCH", f"{client.pods}/one", patch, MERGE)
    assert patched["metadata"]["labels"] == {"b": "2", "c": "3"}


async def test_a_json_patch_is_all_or_nothing(client: Client) -> None:
    await client.create("one", {"a": "1"})
    good = [
        {"op": "test", "path": "/metadata/labels/a", "value": "1"},
        {"op": "replace", "path": "/metadata/labels/a", "value": "2"},
        {"op": "add", "path": "/metadata/labels/x~1y", "value": "3"},
    ]
    patched = await client.ok("PATCH", f"{client.pods}/one", good, JSON_PATCH)
    assert patched["metadata"]["labels"] == {"a": "2", "x/y": "3"}
    status, _ = await client.call("PATCH", f"{client.pods}/one", good, JSON_PATCH)
    assert status == 422
    status, _ = await client.call("PATCH", f"{client.pods}/one", {"op": "add"}, JSON_PATCH)
    assert status == 400


async def test_a_strategic_patch_merges_conditions_by_type(client: Client) -> None:
    await client.create("one")
    status = f"{client.pods}/one/status"
    ready = {"type": "Ready", "status": "False"}
    started = {"type": "Initialized", "status": "True"}
    await client.ok("PATCH", status, {"status": {"conditions": [ready, started]}}, STRATEGIC)
    patched = await client.ok(
        "PATCH", status, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, STRATEGIC
    )
    assert {item["type"]: item["status"] for item in patched["status"]["conditions"]} == {
        "Ready": "True",
        "Initialized": "True",
    }


async def test_status_changes_through_its_subresource_alone(client: Client) -> None:
    await client.create("one")
    path = f"{client.pods}/one"
    await client.ok("PATCH", path, {"status": {"phase": "Running"}}, MERGE)
    assert (await client.ok("GET", path))["status"]["phase"] == "Pending"
    await client.ok("PATCH", f"{path}/status", {"status": {"phase": "Running"}}, MERGE)
    assert (await client.ok("GET", path))["status"]["phase"] == "Running"


async def test_a_pods_spec_may_not_change(client: Client) -> None:
    await client.create("one")
    status, body = await client.call(
        "PATCH", f"{client.pods}/one", {"spec": {"restartPolicy": "Always"}}, MERGE
    )
    assert (status, body["reason"]) == (422, "Invalid")
    assert "pod updates may not change fields" in body["message"]


# Binding and eviction


async def test_a_pod_is_bound_once(client: Client) -> None:
    await client.create("one")
    await client.bind("one", "n1")
    bound = await client.ok("GET", f"{client.pods}/one")
    assert bound["spec"]["nodeName"] == "n1"
    assert [(c["type"], c["status"]) for c in bound["status"]["conditions"]] == [("PodScheduled", "True")]
    again = {"metadata": {"name": "one"}, "target": {"kind": "Node", "name": "n2"}}
    status, body = await client.call("POST", f"{client.pods}/one/binding", again)
    assert (status, body["reason"]) == (409, "Conflict")
    assert 'already assigned to node "n1"' in body["message"]


async def test_an_evicted_pod_is_marked_and_deleted_with_grace(client: Client) -> None:
    await client.create("one")
    await client.bind("one")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "one"}}
    status, _ = await client.call("POST", f"{client.pods}/one/eviction", eviction)
    assert status == 201
    evicted = await client.ok("GET", f"{client.pods}/one")
    assert evicted["metadata"]["deletionTimestamp"]
    marks = {c["type"]: c.get("reason") for c in evicted["status"]["conditions"]}
    assert marks["DisruptionTarget"] == "EvictionByEvictionAPI"


# Deleting


async def test_an_unbound_pod_goes_at_once(client: Client) -> None:
    await client.create("one")
    gone = await client.ok("DELETE", f"{client.pods}/one")
    assert gone["kind"] == "Pod"
    assert (await client.call("GET", f"{client.pods}/one"))[0] == 404


async def test_a_bound_pod_stays_until_its_node_deletes_it_without_grace(client: Client) -> None:
    await client.create("one", terminationGracePeriodSeconds=7)
    await client.bind("one")
    going = await client.ok("DELETE", f"{client.pods}/one")
    assert going["metadata"]["deletionGracePeriodSeconds"] == 7
    assert going["metadata"]["deletionTimestamp"]
    shorter = await client.ok("DELETE", f"{client.pods}/one", gracePeriodSeconds="3")
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 3
    longer = await client.ok("DELETE", f"{client.pods}/one", gracePeriodSeconds="60")
    assert longer["metadata"]["deletionGracePeriodSeconds"] == 3
    await client.ok("DELETE", f"{client.pods}/one", {"gracePeriodSeconds": 0})
    assert (await client.call("GET", f"{client.pods}/one"))[0] == 404


async def test_an_ended_pod_goes_at_once(client: Client) -> None:
    await client.create("one")
    await client.bind("one")
    await client.ok("PATCH", f"{client.pods}/one/status", {"status": {"phase": "Succeeded"}}, MERGE)
    await client.ok("DELETE", f"{client.pods}/one")
    assert (await client.call("GET", f"{client.pods}/one"))[0] == 404


async def test_a_delete_meant_for_a_former_pod_of_that_name_is_409(client: Client) -> None:
    made = await client.create("one")
    options = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    status, body = await client.call("DELETE", f"{client.pods}/one", options)
    assert (status, body["reason"]) == (409, "Conflict")
    await client.ok("DELETE", f"{client.pods}/one", {"preconditions": {"uid": made["metadata"]["uid"]}})


async def test_a_finalizer_holds_an_object_until_it_is_taken_off(client: Client) -> None:
    path = f"{client.home}/configmaps"
    await client.ok("POST", path, {"metadata": {"name": "c", "finalizers": ["example.com/hold"]}})
    await client.ok("DELETE", f"{path}/c")
    assert (await client.ok("GET", f"{path}/c"))["metadata"]["deletionTimestamp"]
    await client.ok("PATCH", f"{path}/c", {"metadata": {"finalizers": None}}, MERGE)
    assert (await client.call("GET", f"{path}/c"))[0] == 404


async def test_a_collection_is_deleted_by_selector(client: Client) -> None:
    for name, app in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        await client.create(name, {"app": app})
    await client.ok("DELETE", client.pods, labelSelector="app=a")
    assert await client.names() == ["b1"]


async def test_a_deleted_config_map_is_answered_with_a_success_status(client: Client) -> None:
    await client.ok("POST", f"{client.home}/configmaps", {"metadata": {"name": "c"}})
    answer = await client.ok("DELETE", f"{client.home}/configmaps/c")
    assert (answer["kind"], answer["status"], answer["details"]["name"]) == ("Status", "Success", "c")


# Watching


async def test_a_watch_from_a_list_sees_every_later_change_in_order(client: Client) -> None:
    await client.create("before")
    revision = await client.revision()
    async with client.watch(resourceVersion=revision) as watch:
        await client.create("one")
        await client.ok("PATCH", f"{client.pods}/one", {"metadata": {"labels": {"a": "1"}}}, MERGE)
        await client.ok("DELETE", f"{client.pods}/one")
        events = [await watch.next() for _ in range(3)]
    assert [kind for kind, _ in events] == ["ADDED", "MODIFIED", "DELETED"]
    revisions = [int(body["metadata"]["resourceVersion"]) for _, body in events]
    assert revisions == sorted(set(revisions))
    assert revisions[0] > int(revision)


@pytest.mark.parametrize("spelling", ["1", "true", "True"])
async def test_a_watch_is_known_in_every_spelling(client: Client, spelling: str) -> None:
    await client.create("one")
    async with client.watch(watch=spelling) as watch:
        assert await watch.take(1) == [("ADDED", "one")]


@pytest.mark.parametrize("revision", ["", "0"])
async def test_a_watch_without_a_revision_begins_with_what_is_there(client: Client, revision: str) -> None:
    await client.create("one")
    await client.create("two")
    async with client.watch(resourceVersion=revision) as watch:
        assert sorted(await watch.take(2)) == [("ADDED", "one"), ("ADDED", "two")]
        await client.create("three")
        assert await watch.take(1) == [("ADDED", "three")]


async def test_a_resumed_watch_misses_nothing_and_repeats_nothing(client: Client) -> None:
    revision = await client.revision()
    for number in range(4):
        await client.create(f"p{number}")
    async with client.watch(resourceVersion=revision) as watch:
        events = [await watch.next() for _ in range(2)]
    resume = events[-1][1]["metadata"]["resourceVersion"]
    async with client.watch(resourceVersion=resume) as watch:
        assert await watch.take(2) == [("ADDED", "p2"), ("ADDED", "p3")]


async def test_an_object_that_leaves_the_selector_arrives_as_deleted(client: Client) -> None:
    await client.create("one", {"app": "a"})
    await client.create("other", {"app": "b"})
    revision = await client.revision()
    async with client.watch(resourceVersion=revision, labelSelector="app=a") as watch:
        await client.ok("PATCH", f"{client.pods}/one", {"metadata": {"labels": {"app": "b"}}}, MERGE)
        await client.ok("PATCH", f"{client.pods}/other", {"metadata": {"labels": {"app": "a"}}}, MERGE)
        kind, left = await watch.next()
        assert (kind, left["metadata"]["name"]) == ("DELETED", "one")
        assert int(left["metadata"]["resourceVersion"]) > int(revision)
        assert await watch.take(1) == [("ADDED", "other")]


async def test_a_watch_of_one_object_sees_only_that(client: Client) -> None:
    revision = await client.revision()
    query = {"resourceVersion": revision, "fieldSelector": "metadata.name=two"}
    async with client.watch(**query) as watch:
        await client.create("one")
        await client.create("two")
        assert await watch.take(1) == [("ADDED", "two")]


async def test_a_quiet_watch_answers_its_headers_at_once_and_ends_at_its_timeout(client: Client) -> None:
    revision = await client.revision()
    async with client.watch(resourceVersion=revision, timeoutSeconds="1") as watch:
        assert await watch.ended()


async def test_initial_events_end_with_an_annotated_bookmark(client: Client) -> None:
    await client.create("one")
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    async with client.watch(**query) as watch:
        assert (await watch.next(bookmarks=True))[0] == "ADDED"
        kind, mark = await watch.next(bookmarks=True)
        assert kind == "BOOKMARK"
        assert mark["kind"] == "Pod"
        assert mark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        resume = mark["metadata"]["resourceVersion"]
    await client.create("two")
    async with client.watch(resourceVersion=resume) as watch:
        assert await watch.take(1) == [("ADDED", "two")]


async def test_a_watch_from_a_forgotten_revision_is_told_410_in_the_stream(
    client: Client, kube: Kube
) -> None:
    old = await client.revision()
    await client.create("one")
    kube.compact()
    async with client.watch(resourceVersion=old) as watch:
        kind, status = await watch.next()
    assert (kind, status["kind"], status["code"]) == ("ERROR", "Status", 410)
    assert status["reason"] == "Expired"
    assert "too old resource version" in status["message"]
    async with client.watch(resourceVersion=await client.revision()) as watch:
        await client.create("two")
        assert await watch.take(1) == [("ADDED", "two")]


async def test_a_continue_token_of_a_forgotten_revision_is_410(client: Client, kube: Kube) -> None:
    await client.create("one")
    await client.create("two")
    first = await client.ok("GET", client.pods, limit="1")
    await client.create("three")
    kube.compact()
    status, body = await client.call(
        "GET", client.pods, limit="1", **{"continue": first["metadata"]["continue"]}
    )
    assert (status, body["reason"]) == (410, "Expired")


# Other kinds


async def test_a_lease_is_held_by_whoever_updates_it_with_the_newest_revision(client: Client) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{client.namespace}/leases"
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 15}
    lease = await client.ok(
        "POST",
        path,
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "l"},
            "spec": spec,
        },
    )
    taken = await client.ok("PUT", f"{path}/l", lease | {"spec": spec | {"holderIdentity": "b"}})
    assert taken["spec"]["holderIdentity"] == "b"
    status, _ = await client.call("PUT", f"{path}/l", lease)
    assert status == 409


async def test_a_secret_takes_plain_strings_and_keeps_them_encoded(client: Client) -> None:
    secret = {"metadata": {"name": "s"}, "stringData": {"user": "admin"}}
    made = await client.ok("POST", f"{client.home}/secrets", secret)
    assert made["data"] == {"user": "YWRtaW4="}
    assert made["type"] == "Opaque"
    assert "stringData" not in made


async def test_events_of_a_pod_are_found_by_what_they_are_about(client: Client) -> None:
    made = await client.create("one")
    involved = {"kind": "Pod", "namespace": client.namespace, "name": "one", "uid": made["metadata"]["uid"]}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "one."},
        "involvedObject": involved,
        "reason": "Pulled",
        "type": "Normal",
        "message": "there",
    }
    await client.ok("POST", f"{client.home}/events", event)
    found = await client.ok(
        "GET", f"{client.home}/events", fieldSelector="involvedObject.name=one,reason=Pulled"
    )
    assert [item["message"] for item in found["items"]] == ["there"]


async def test_a_node_keeps_its_status_apart(client: Client) -> None:
    name = f"n-{uuid4().hex[:6]}"
    await client.ok("POST", "/api/v1/nodes", {"metadata": {"name": name}})
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    try:
        node = await client.ok("PATCH", f"/api/v1/nodes/{name}/status", ready, MERGE)
        assert [c["type"] for c in node["status"]["conditions"]] == ["Ready"]
    finally:
        await client.ok("DELETE", f"/api/v1/nodes/{name}")


async def test_a_deleted_namespace_takes_everything_along(client: Client) -> None:
    name = f"{client.namespace}-x"
    await client.ok("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    await client.ok("POST", f"/api/v1/namespaces/{name}/pods", pod("one"))
    await client.ok("DELETE", f"/api/v1/namespaces/{name}")
    async with asyncio.timeout(WAIT_S):
        while (await client.call("GET", f"/api/v1/namespaces/{name}"))[0] != 404:
            await asyncio.sleep(0.05)
    assert (await client.call("GET", f"/api/v1/namespaces/{name}/pods/one"))[0] == 404


async def test_null_is_the_same_as_unset(client: Client) -> None:
    wrong = pod("one")
    wrong["metadata"] |= {"labels": None, "annotations": None, "finalizers": None}
    wrong["spec"] |= {"tolerations": None, "volumes": None, "nodeName": None}
    wrong["spec"]["containers"][0] |= {"resources": None, "env": None}
    wrong["status"] = None
    made = await client.ok("POST", client.pods, wrong)
    assert "nodeName" not in made["spec"]
    assert made["spec"]["containers"][0]["resources"] == {}
    await client.ok("DELETE", f"{client.pods}/one")
