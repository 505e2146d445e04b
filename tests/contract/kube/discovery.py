"""How clients find out what is served, and whether they may."""

from tests.contract.kube.cluster import Client


class TestDiscovery:
    async def test_discovery_names_the_kinds_with_their_verbs_and_subresources(self, client: Client) -> None:
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

    async def test_what_is_not_served_is_404_with_a_status(self, client: Client) -> None:
        status, body = await client.call("GET", "/apis/nothing.example/v1/things")
        # A real one answers with plain text where no group of that name exists.
        assert status == 404
        assert isinstance(body, str) or body["reason"] == "NotFound"

    async def test_one_may_do_what_one_may_do(self, client: Client) -> None:
        attributes = {"verb": "create", "resource": "pods", "namespace": client.namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await client.ok("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        assert answer["status"]["allowed"] is True
