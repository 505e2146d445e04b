"""Changing: replaces, the three formats of a patch, and the status apart from the rest."""

from tests.contract.kube.cluster import JSON_PATCH, MERGE, STRATEGIC, Client


class TestChanging:
    async def test_a_replace_with_a_stale_revision_is_409_conflict(self, client: Client) -> None:
        path = f"{client.home}/configmaps/c"
        first = await client.ok(
            "POST", f"{client.home}/configmaps", {"metadata": {"name": "c"}, "data": {"a": "1"}}
        )
        await client.ok("PUT", path, first | {"data": {"a": "2"}})
        status, body = await client.call("PUT", path, first | {"data": {"a": "3"}})
        assert (status, body["reason"]) == (409, "Conflict")
        assert "the object has been modified" in body["message"]
        assert (await client.ok("GET", path))["data"] == {"a": "2"}

    async def test_a_change_that_changes_nothing_keeps_the_revision(self, client: Client) -> None:
        made = await client.create("one", {"a": "1"})
        same = await client.ok("PATCH", f"{client.pods}/one", {"metadata": {"labels": {"a": "1"}}}, MERGE)
        assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]

    async def test_a_merge_patch_sets_and_removes(self, client: Client) -> None:
        await client.create("one", {"a": "1", "b": "2"})
        patch = {"metadata": {"labels": {"a": None, "c": "3"}}}
        patched = await client.ok("PATCH", f"{client.pods}/one", patch, MERGE)
        assert patched["metadata"]["labels"] == {"b": "2", "c": "3"}

    async def test_a_json_patch_is_all_or_nothing(self, client: Client) -> None:
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

    async def test_a_strategic_patch_merges_conditions_by_type(self, client: Client) -> None:
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

    async def test_status_changes_through_its_subresource_alone(self, client: Client) -> None:
        await client.create("one")
        path = f"{client.pods}/one"
        await client.ok("PATCH", path, {"status": {"phase": "Running"}}, MERGE)
        assert (await client.ok("GET", path))["status"]["phase"] == "Pending"
        await client.ok("PATCH", f"{path}/status", {"status": {"phase": "Running"}}, MERGE)
        assert (await client.ok("GET", path))["status"]["phase"] == "Running"

    async def test_a_pods_spec_may_not_change(self, client: Client) -> None:
        await client.create("one")
        status, body = await client.call(
            "PATCH", f"{client.pods}/one", {"spec": {"restartPolicy": "Always"}}, MERGE
        )
        assert (status, body["reason"]) == (422, "Invalid")
        assert "pod updates may not change fields" in body["message"]
