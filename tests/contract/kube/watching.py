"""Watching: from a list on, resumed, by selector, with bookmarks, and from a time that is forgotten."""

import asyncio

import pytest

from tests.contract.kube.cluster import MERGE, Client, Past


class TestWatching:
    async def test_a_watch_from_a_list_sees_every_later_change_in_order(self, client: Client) -> None:
        await client.create("before")
        revision = await client.revision()
        async with client.watch(resourceVersion=revision) as watch:
            await client.create("one")
            await client.ok("PATCH", f"{client.pods}/one", {"metadata": {"labels": {"a": "1"}}}, MERGE)
            await client.ok("DELETE", f"{client.pods}/one")
            events = [await watch.next() for _ in range(4)]
        assert [kind for kind, _ in events] == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]
        assert events[2][1]["metadata"]["deletionGracePeriodSeconds"] == 0
        revisions = [int(body["metadata"]["resourceVersion"]) for _, body in events]
        assert revisions == sorted(set(revisions))
        assert revisions[0] > int(revision)

    @pytest.mark.parametrize("spelling", ["1", "true", "True"])
    async def test_a_watch_is_known_in_every_spelling(self, client: Client, spelling: str) -> None:
        await client.create("one")
        async with client.watch(watch=spelling) as watch:
            assert await watch.take(1) == [("ADDED", "one")]

    @pytest.mark.parametrize("revision", ["", "0"])
    async def test_a_watch_without_a_revision_begins_with_what_is_there(
        self, client: Client, revision: str
    ) -> None:
        await client.create("one")
        await client.create("two")
        async with client.watch(resourceVersion=revision) as watch:
            assert sorted(await watch.take(2)) == [("ADDED", "one"), ("ADDED", "two")]
            await client.create("three")
            assert await watch.take(1) == [("ADDED", "three")]

    async def test_a_resumed_watch_misses_nothing_and_repeats_nothing(self, client: Client) -> None:
        revision = await client.revision()
        for number in range(4):
            await client.create(f"p{number}")
        async with client.watch(resourceVersion=revision) as watch:
            events = [await watch.next() for _ in range(2)]
        resume = events[-1][1]["metadata"]["resourceVersion"]
        async with client.watch(resourceVersion=resume) as watch:
            assert await watch.take(2) == [("ADDED", "p2"), ("ADDED", "p3")]

    async def test_an_object_that_leaves_the_selector_arrives_as_deleted(self, client: Client) -> None:
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

    async def test_a_watch_of_one_object_sees_only_that(self, client: Client) -> None:
        revision = await client.revision()
        query = {"resourceVersion": revision, "fieldSelector": "metadata.name=two"}
        async with client.watch(**query) as watch:
            await client.create("one")
            await client.create("two")
            assert await watch.take(1) == [("ADDED", "two")]

    async def test_a_quiet_watch_answers_its_headers_at_once_and_ends_at_its_timeout(
        self, client: Client
    ) -> None:
        revision = await client.revision()
        async with client.watch(resourceVersion=revision, timeoutSeconds="1") as watch:
            assert await watch.rest() == []

    async def test_initial_events_end_with_an_annotated_bookmark(self, client: Client) -> None:
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

    async def test_a_quiet_watch_that_allows_bookmarks_gets_one_before_it_ends(self, client: Client) -> None:
        revision = await client.revision()
        await client.make("configmaps", "of-another-kind")
        query = {"resourceVersion": revision, "allowWatchBookmarks": "true", "timeoutSeconds": "3"}
        # A real API server sends it two seconds before the end, and guarantees nothing: a busy one is late.
        for _ in range(5):
            async with client.watch(**query) as watch:
                if events := await watch.rest():
                    break
        assert {kind for kind, _ in events} == {"BOOKMARK"}
        mark = events[-1][1]
        assert mark["kind"] == "Pod"
        assert int(mark["metadata"]["resourceVersion"]) >= int(revision)


class TestForgetting:
    async def test_a_watch_from_a_forgotten_revision_is_told_410_in_the_stream(self, client: Client) -> None:
        revision, _ = await forgotten(client)
        async with client.watch(resourceVersion=revision) as watch:
            kind, status = await watch.next()
        assert (kind, status["kind"], status["code"]) == ("ERROR", "Status", 410)
        assert status["reason"] == "Expired"
        assert "too old resource version" in status["message"]
        async with client.watch(resourceVersion=await client.revision()) as watch:
            await client.create("new")
            assert await watch.take(1) == [("ADDED", "new")]

    async def test_a_continue_token_of_a_forgotten_revision_is_410(self, client: Client) -> None:
        _, token = await forgotten(client)
        status, body = await client.call("GET", client.pods, limit="1", **{"continue": token})
        assert (status, body["reason"]) == (410, "Expired")


async def forgotten(client: Client) -> Past:
    """A revision and a continue token that the server no longer knows."""
    await client.create("one")
    await client.create("two")
    page = (await client.ok("GET", client.pods, limit="1"))["metadata"]
    await client.create("three")
    return await asyncio.to_thread(client.cluster.forget, (page["resourceVersion"], page["continue"]))
