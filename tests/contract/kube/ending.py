"""How objects go: eviction, grace, preconditions, finalizers, collections, owners, namespaces."""

from tests.contract.kube.cluster import MERGE, Body, Client, pod


class TestBindingAndEviction:
    async def test_a_pod_is_bound_once(self, client: Client) -> None:
        await client.create("one")
        await client.bind("one", "n1")
        bound = await client.ok("GET", f"{client.pods}/one")
        assert bound["spec"]["nodeName"] == "n1"
        assert [(c["type"], c["status"]) for c in bound["status"]["conditions"]] == [("PodScheduled", "True")]
        again = {"metadata": {"name": "one"}, "target": {"kind": "Node", "name": "n2"}}
        status, body = await client.call("POST", f"{client.pods}/one/binding", again)
        assert (status, body["reason"]) == (409, "Conflict")
        assert 'already assigned to node "n1"' in body["message"]

    async def test_an_evicted_pod_is_marked_and_deleted_with_grace(self, client: Client) -> None:
        await client.create("one")
        await client.bind("one")
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "one"}}
        status, _ = await client.call("POST", f"{client.pods}/one/eviction", eviction)
        assert status == 201
        evicted = await client.ok("GET", f"{client.pods}/one")
        assert evicted["metadata"]["deletionTimestamp"]
        marks = {c["type"]: c.get("reason") for c in evicted["status"]["conditions"]}
        assert marks["DisruptionTarget"] == "EvictionByEvictionAPI"


class TestDeleting:
    async def test_an_unbound_pod_goes_at_once(self, client: Client) -> None:
        await client.create("one")
        gone = await client.ok("DELETE", f"{client.pods}/one")
        assert gone["kind"] == "Pod"
        assert (await client.call("GET", f"{client.pods}/one"))[0] == 404

    async def test_a_bound_pod_stays_until_its_node_deletes_it_without_grace(self, client: Client) -> None:
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

    async def test_an_ended_pod_goes_at_once(self, client: Client) -> None:
        await client.create("one")
        await client.bind("one")
        await client.ok("PATCH", f"{client.pods}/one/status", {"status": {"phase": "Succeeded"}}, MERGE)
        await client.ok("DELETE", f"{client.pods}/one")
        assert (await client.call("GET", f"{client.pods}/one"))[0] == 404

    async def test_a_delete_meant_for_a_former_pod_of_that_name_is_409(self, client: Client) -> None:
        made = await client.create("one")
        options = {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
        status, body = await client.call("DELETE", f"{client.pods}/one", options)
        assert (status, body["reason"]) == (409, "Conflict")
        await client.ok("DELETE", f"{client.pods}/one", {"preconditions": {"uid": made["metadata"]["uid"]}})

    async def test_a_finalizer_holds_an_object_until_it_is_taken_off(self, client: Client) -> None:
        path = f"{client.home}/configmaps"
        await client.ok("POST", path, {"metadata": {"name": "c", "finalizers": ["example.com/hold"]}})
        await client.ok("DELETE", f"{path}/c")
        assert (await client.ok("GET", f"{path}/c"))["metadata"]["deletionTimestamp"]
        await client.ok("PATCH", f"{path}/c", {"metadata": {"finalizers": None}}, MERGE)
        assert (await client.call("GET", f"{path}/c"))[0] == 404

    async def test_a_collection_is_deleted_by_selector(self, client: Client) -> None:
        for name, app in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            await client.create(name, {"app": app})
        await client.ok("DELETE", client.pods, labelSelector="app=a")
        assert await client.names() == ["b1"]

    async def test_a_deleted_config_map_is_answered_with_a_success_status(self, client: Client) -> None:
        await client.ok("POST", f"{client.home}/configmaps", {"metadata": {"name": "c"}})
        answer = await client.ok("DELETE", f"{client.home}/configmaps/c")
        assert (answer["kind"], answer["status"], answer["details"]["name"]) == ("Status", "Success", "c")


class TestOwners:
    async def test_what_has_lost_its_last_owner_goes(self, client: Client) -> None:
        first, second = await client.make("configmaps", "first"), await client.make("configmaps", "second")
        await client.make("secrets", "of-one", metadata=owned_by(first))
        await client.make("secrets", "of-both", metadata=owned_by(first, second))
        await client.ok("DELETE", f"{client.home}/configmaps/first")
        await client.gone(f"{client.home}/secrets/of-one")
        await client.ok("GET", f"{client.home}/secrets/of-both")
        await client.ok("DELETE", f"{client.home}/configmaps/second")
        await client.gone(f"{client.home}/secrets/of-both")

    async def test_a_whole_line_of_descendants_goes(self, client: Client) -> None:
        owner = await client.make("configmaps", "grandparent")
        parent = await client.make("configmaps", "parent", metadata=owned_by(owner))
        await client.ok(
            "POST", client.pods, pod("child") | {"metadata": {"name": "child"} | owned_by(parent)}
        )
        await client.ok("DELETE", f"{client.home}/configmaps/grandparent")
        await client.gone(f"{client.pods}/child")

    async def test_orphans_stay_and_forget_their_owner(self, client: Client) -> None:
        owner = await client.make("configmaps", "owner")
        await client.make("secrets", "orphan", metadata=owned_by(owner))
        await client.ok("DELETE", f"{client.home}/configmaps/owner", {"propagationPolicy": "Orphan"})
        await client.gone(f"{client.home}/configmaps/owner")
        left = await client.ok("GET", f"{client.home}/secrets/orphan")
        assert not left["metadata"].get("ownerReferences")

    async def test_what_names_an_owner_that_is_not_there_goes(self, client: Client) -> None:
        owner = await client.make("configmaps", "owner")
        await client.ok("DELETE", f"{client.home}/configmaps/owner")
        await client.make("secrets", "late", metadata=owned_by(owner))
        await client.gone(f"{client.home}/secrets/late")


def owned_by(*owners: Body) -> Body:
    """Metadata that names these config maps as owners."""
    references = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }
        for owner in owners
    ]
    return {"ownerReferences": references}


class TestNamespaces:
    async def test_a_deleted_namespace_takes_everything_along(self, client: Client) -> None:
        name = f"{client.namespace}-x"
        await client.ok("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        home = f"/api/v1/namespaces/{name}"
        await client.until(f"{home}/serviceaccounts", lambda listed: listed["items"])
        await client.ok("POST", f"{home}/pods", pod("one"))
        await client.ok("DELETE", home)
        await client.gone(home)
        assert (await client.call("GET", f"{home}/pods/one"))[0] == 404

    async def test_a_namespace_that_ends_takes_nothing_new(self, client: Client) -> None:
        held = {"finalizers": ["example.com/hold"]}
        await client.make("configmaps", "c", metadata=held)
        await client.ok("DELETE", client.home)
        status, body = await client.call("POST", client.pods, pod("late"))
        assert (status, body["reason"]) == (403, "Forbidden")
        assert f"unable to create new content in namespace {client.namespace}" in body["message"]
        assert [cause["reason"] for cause in body["details"]["causes"]] == ["NamespaceTerminating"]
        await client.ok("PATCH", f"{client.home}/configmaps/c", {"metadata": {"finalizers": None}}, MERGE)
        await client.gone(client.home)
