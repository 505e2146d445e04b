"""Kinds besides pods: leases, secrets, events, nodes."""

from uuid import uuid4

from tests.contract.kube.cluster import MERGE, Client


class TestOtherKinds:
    async def test_a_lease_is_held_by_whoever_updates_it_with_the_newest_revision(
        self, client: Client
    ) -> None:
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

    async def test_a_secret_takes_plain_strings_and_keeps_them_encoded(self, client: Client) -> None:
        secret = {"metadata": {"name": "s"}, "stringData": {"user": "admin"}}
        made = await client.ok("POST", f"{client.home}/secrets", secret)
        assert made["data"] == {"user": "YWRtaW4="}
        assert made["type"] == "Opaque"
        assert "stringData" not in made

    async def test_events_of_a_pod_are_found_by_what_they_are_about(self, client: Client) -> None:
        made = await client.create("one")
        involved = {
            "kind": "Pod",
            "namespace": client.namespace,
            "name": "one",
            "uid": made["metadata"]["uid"],
        }
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

    async def test_a_node_keeps_its_status_apart(self, client: Client) -> None:
        name = f"n-{uuid4().hex[:6]}"
        await client.ok("POST", "/api/v1/nodes", {"metadata": {"name": name}})
        ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        try:
            node = await client.ok("PATCH", f"/api/v1/nodes/{name}/status", ready, MERGE)
            assert [c["type"] for c in node["status"]["conditions"]] == ["Ready"]
        finally:
            await client.ok("DELETE", f"/api/v1/nodes/{name}")
