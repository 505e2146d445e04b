"""Reading: selectors, pages of one moment, and the forms in which a list can be asked for."""

import pytest

from tests.contract.kube.cluster import MERGE, Body, Client

TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
PARTIAL = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"}


class TestReading:
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
    async def test_a_label_selector_selects(self, client: Client, selector: str, names: list[str]) -> None:
        await client.create("a1", {"app": "a", "tier": "front"})
        await client.create("a2", {"app": "a"})
        await client.create("b1", {"app": "b", "tier": "back"})
        await client.create("bare")
        assert await client.names(labelSelector=selector) == names

    async def test_a_field_selector_selects(self, client: Client) -> None:
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
    async def test_a_malformed_query_is_400(self, client: Client, query: Body) -> None:
        status, body = await client.call("GET", client.pods, **query)
        assert (status, body["reason"]) == (400, "BadRequest")

    async def test_pages_of_a_list_show_one_moment_although_the_pods_change(self, client: Client) -> None:
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

    async def test_an_unreadable_continue_token_is_400(self, client: Client) -> None:
        status, _ = await client.call("GET", client.pods, limit="1", **{"continue": "rubbish"})
        assert status == 400

    async def test_a_list_of_a_future_revision_is_refused_as_too_large(self, client: Client) -> None:
        status, body = await client.call(
            "GET", client.pods, resourceVersion="999999999", resourceVersionMatch="NotOlderThan"
        )
        assert (status, body["reason"]) == (504, "Timeout")
        assert body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"

    async def test_a_table_and_the_metadata_alone_can_be_asked_for(self, client: Client) -> None:
        await client.create("one")
        table = await client.ok("GET", client.pods, headers=TABLE)
        assert table["kind"] == "Table"
        assert [column["name"] for column in table["columnDefinitions"]][:3] == ["Name", "Ready", "Status"]
        assert table["rows"][0]["cells"][:3] == ["one", "0/1", "Pending"]
        assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
        partial = await client.ok("GET", client.pods, headers=PARTIAL)
        assert partial["kind"] == "PartialObjectMetadataList"
        assert partial["items"][0].keys() <= {"kind", "apiVersion", "metadata"}
