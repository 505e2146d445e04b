"""Creating: what the server adds, and what it refuses in which words."""

import pytest

from tests.contract.kube.cluster import Body, Client, pod


class TestCreating:
    async def test_a_created_pod_has_an_identity_defaults_and_a_pending_phase(self, client: Client) -> None:
        made = await client.create("one")
        assert made["metadata"]["uid"]
        assert made["metadata"]["resourceVersion"].isdigit()
        assert made["metadata"]["creationTimestamp"].endswith("Z")
        assert made["spec"]["terminationGracePeriodSeconds"] == 30
        assert made["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
        assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
        assert await client.ok("GET", f"{client.pods}/one") == made

    async def test_a_generated_name_begins_as_asked_and_is_new_each_time(self, client: Client) -> None:
        names = {(await client.create())["metadata"]["name"] for _ in range(5)}
        assert len(names) == 5
        assert all(name.startswith("p-") for name in names)

    async def test_a_second_pod_of_a_name_is_409_already_exists(self, client: Client) -> None:
        await client.create("one")
        status, body = await client.call("POST", client.pods, pod("one"))
        assert (status, body["reason"], body["message"]) == (
            409,
            "AlreadyExists",
            'pods "one" already exists',
        )
        assert body["details"] == {"name": "one", "kind": "pods"}

    async def test_a_missing_object_is_404(self, client: Client) -> None:
        status, body = await client.call("GET", f"{client.pods}/none")
        assert (status, body["reason"], body["message"]) == (404, "NotFound", 'pods "none" not found')

    async def test_a_pod_in_a_missing_namespace_is_404(self, client: Client) -> None:
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
    async def test_an_invalid_pod_is_422_and_names_the_field(
        self, client: Client, change: Body, field: str
    ) -> None:
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
    async def test_a_value_of_the_wrong_type_is_400(self, client: Client, change: Body) -> None:
        status, body = await client.call("POST", client.pods, pod("good") | change)
        assert (status, body["reason"]) == (400, "BadRequest")

    async def test_a_body_of_an_unknown_format_is_415(self, client: Client) -> None:
        status, body = await client.call("POST", client.pods, pod("x"), {"Content-Type": "text/csv"})
        assert (status, body["reason"]) == (415, "UnsupportedMediaType")
        await client.create("y")
        status, body = await client.call(
            "PATCH", f"{client.pods}/y", {}, {"Content-Type": "application/json"}
        )
        assert (status, body["reason"]) == (415, "UnsupportedMediaType")

    async def test_a_body_that_is_no_json_is_400(self, client: Client) -> None:
        status, body = await client.call("POST", client.pods, b"{no")
        assert (status, body["reason"]) == (400, "BadRequest")

    async def test_a_dry_run_creates_nothing(self, client: Client) -> None:
        await client.ok("POST", client.pods, pod("ghost"), dryRun="All")
        assert await client.names() == []

    async def test_null_is_the_same_as_unset(self, client: Client) -> None:
        wrong = pod("one")
        wrong["metadata"] |= {"labels": None, "annotations": None, "finalizers": None}
        wrong["spec"] |= {"tolerations": None, "volumes": None, "nodeName": None}
        wrong["spec"]["containers"][0] |= {"resources": None, "env": None}
        wrong["status"] = None
        made = await client.ok("POST", client.pods, wrong)
        assert "nodeName" not in made["spec"]
        assert made["spec"]["containers"][0]["resources"] == {}
        await client.ok("DELETE", f"{client.pods}/one")
