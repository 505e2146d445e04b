"""Pods that the cluster schedules and runs: phases, ends, logs and events."""

import asyncio
import re

from tests.contract.kube.cluster import POLL_S, WAIT_S, Body, Client

STAYS = "while :; do sleep 0.1; done"
FOREVER = "exec sleep 600"


def terminated(pod: Body, container: str = "base") -> Body:
    """How one container ended."""
    [status] = [entry for entry in pod["status"]["containerStatuses"] if entry["name"] == container]
    return dict(status["state"]["terminated"])


class TestRunning:
    async def test_a_watch_sees_a_pod_from_pending_to_its_end(self, client: Client) -> None:
        # A late node finds it ended before it has told that it runs: then one that stays longer is run.
        for seconds in (1.5, 3, 6, 12):
            name = f"one-{seconds:g}".replace(".", "-")
            query = {"fieldSelector": f"metadata.name={name}", "resourceVersion": await client.revision()}
            async with client.watch(**query) as watch:
                await client.run(name, f"sleep {seconds}")
                phases = [(await watch.next())[1]["status"]["phase"]]
                while phases[-1] not in {"Succeeded", "Failed"}:
                    phases.append((await watch.next())[1]["status"]["phase"])
            if "Running" in phases:
                break
        assert list(dict.fromkeys(phases)) == ["Pending", "Running", "Succeeded"]

    async def test_ends_have_a_code_a_reason_and_times(self, client: Client) -> None:
        await client.run("good", "exit 0")
        await client.run("bad", "exit 3")
        good, bad = await client.ended("good"), await client.ended("bad")
        assert (good["status"]["phase"], bad["status"]["phase"]) == ("Succeeded", "Failed")
        assert (terminated(good)["exitCode"], terminated(good)["reason"]) == (0, "Completed")
        assert (terminated(bad)["exitCode"], terminated(bad)["reason"]) == (3, "Error")
        assert terminated(bad)["startedAt"] <= terminated(bad)["finishedAt"]
        conditions = {c["type"]: (c["status"], c.get("reason")) for c in good["status"]["conditions"]}
        assert conditions["PodScheduled"][0] == "True"
        assert conditions["Initialized"] == ("True", "PodCompleted")
        assert conditions["Ready"] == conditions["ContainersReady"] == ("False", "PodCompleted")
        assert good["spec"]["nodeName"]

    async def test_a_running_pod_has_an_address_and_is_ready(self, client: Client) -> None:
        await client.run("busy", FOREVER)
        pod = await client.phase("busy", "Running")
        conditions = {c["type"]: c["status"] for c in pod["status"]["conditions"]}
        assert conditions["Ready"] == conditions["ContainersReady"] == conditions["Initialized"] == "True"
        assert pod["status"]["podIP"]
        assert pod["status"]["startTime"]

    async def test_a_deleted_pod_is_told_and_goes_when_its_node_says_so(self, client: Client) -> None:
        await client.run("leaving", f"trap 'sleep 0.5; exit 0' TERM; echo up; {STAYS}")
        revision = (await client.phase("leaving", "Running"))["metadata"]["resourceVersion"]
        async with client.watch(resourceVersion=revision) as watch:
            await client.ok("DELETE", f"{client.pods}/leaving", {"gracePeriodSeconds": 20})
            kind, body = await watch.next()
            while "deletionTimestamp" not in body["metadata"]:  # the node may have had more to tell
                kind, body = await watch.next()
            assert kind == "MODIFIED"
            assert body["metadata"]["deletionGracePeriodSeconds"] == 20
            while kind != "DELETED":
                kind, body = await watch.next()
        assert (await client.call("GET", f"{client.pods}/leaving"))[0] == 404

    async def test_an_evicted_pod_is_told_and_goes(self, client: Client) -> None:
        await client.run("leaving", f"trap 'exit 0' TERM; {STAYS}")
        await client.phase("leaving", "Running")
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "leaving"}}
        await client.ok("POST", f"{client.pods}/leaving/eviction", eviction)
        await client.gone(f"{client.pods}/leaving")

    async def test_events_say_what_became_of_a_pod(self, client: Client) -> None:
        made = await client.run("one", "true")
        await client.ended("one")
        about = {"fieldSelector": f"involvedObject.uid={made['metadata']['uid']}"}
        wanted = {"Scheduled", "Created", "Started"}
        async with asyncio.timeout(WAIT_S):
            while not wanted <= {
                event["reason"]
                for event in (await client.ok("GET", f"{client.home}/events", **about))["items"]
            }:
                await asyncio.sleep(0.1)


class TestLogs:
    async def test_a_log_is_cut_by_lines_bytes_and_time(self, client: Client) -> None:
        await client.run("talks", "for i in 1 2 3 4; do echo line $i; done")
        await client.ended("talks")
        every = "line 1\nline 2\nline 3\nline 4\n"
        assert await client.log("talks") == every
        assert await client.log("talks", tailLines="2") == "line 3\nline 4\n"
        assert await client.log("talks", tailLines="0") == ""
        assert await client.log("talks", limitBytes="3") == "lin"
        assert await client.log("talks", sinceSeconds="3600") == every
        assert await client.log("talks", sinceTime="2999-01-01T00:00:00Z") == ""

    async def test_stamps_tell_when_a_line_was_written_and_a_log_goes_on_from_one(
        self, client: Client
    ) -> None:
        # A node stamps a line when it reads it: where it was late with both, one that rests longer is asked.
        for seconds in (2, 4, 8, 16):
            name = f"talks-{seconds}"
            await client.run(name, f"echo early; sleep {seconds}; echo late")
            await client.ended(name)
            first, second = (await client.log(name, timestamps="true")).splitlines()
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d) early", first)
            since = second[: len("2026-01-01T00:00:00")]
            if first < since:
                break
        assert await client.log(name, sinceTime=f"{since}Z") == "late\n"

    async def test_a_followed_log_arrives_as_it_is_written_and_ends_with_its_container(
        self, client: Client
    ) -> None:
        # Who looks late finds it ended, whenever its first line came: then one that stays longer is followed.
        for seconds in (2, 4, 8, 16):
            name = f"follow-{seconds}"
            await client.run(name, f"echo first; sleep {seconds}; echo last")
            await client.phase(name, "Running", "Succeeded")
            url = f"{client.url}{client.pods}/{name}/log"
            async with client.session.get(url, params={"follow": "true"}) as answer:
                assert await asyncio.wait_for(answer.content.readline(), WAIT_S) == b"first\n"
                state = (await client.ok("GET", f"{client.pods}/{name}"))["status"]["phase"]
                assert await asyncio.wait_for(answer.content.read(), WAIT_S) == b"last\n"
            if state == "Running":
                break
        assert state == "Running"

    async def test_the_log_of_the_run_before_is_kept(self, client: Client) -> None:
        script = f"[ -e /v/once ] || {{ echo first; touch /v/once; exit 1; }}; echo second; {FOREVER}"
        volumes, mounts = [{"name": "v", "emptyDir": {}}], [{"name": "v", "mountPath": "/v"}]
        await client.run("again", script, restartPolicy="OnFailure", volumes=volumes, volumeMounts=mounts)
        await client.until(f"{client.pods}/again", _restarted)
        assert await client.log("again", previous="true") == "first\n"
        # A container runs before its process has said anything.
        async with asyncio.timeout(WAIT_S):
            while not (said := await client.log("again")):
                await asyncio.sleep(POLL_S)
        assert said == "second\n"

    async def test_without_a_run_before_there_is_no_log_of_it(self, client: Client) -> None:
        await client.run("once", "true")
        await client.ended("once")
        status, body = await client.call("GET", f"{client.pods}/once/log", previous="true")
        assert (status, body["reason"]) == (400, "BadRequest")
        assert 'previous terminated container "base" in pod "once" not found' in body["message"]

    async def test_of_several_containers_each_has_its_log_and_one_must_be_named(self, client: Client) -> None:
        side = {"name": "side", "command": ["sh", "-c", "echo of side"]}
        await client.run("two", "echo of base", more_containers=[side])
        await client.ended("two")
        assert await client.log("two", container="side") == "of side\n"
        assert await client.log("two", container="base") == "of base\n"
        status, body = await client.call("GET", f"{client.pods}/two/log")
        assert status == 400
        assert "a container name must be specified for pod two, choose one of: [base side]" in body["message"]
        status, body = await client.call("GET", f"{client.pods}/two/log", container="none")
        assert (status, body["message"]) == (400, "container none is not valid for pod two")

    async def test_the_log_of_a_pod_without_a_node_is_empty(self, client: Client) -> None:
        await client.create("one")
        assert await client.call("GET", f"{client.pods}/one/log") == (204, "")

    async def test_impossible_options_are_422(self, client: Client) -> None:
        await client.create("one")
        for option, value in (("tailLines", "-1"), ("limitBytes", "0"), ("sinceSeconds", "0")):
            status, body = await client.call("GET", f"{client.pods}/one/log", **{option: value})
            assert (status, body["reason"]) == (422, "Invalid"), option
            assert option in body["message"]

    async def test_a_container_that_waits_has_no_log_and_says_why(self, client: Client) -> None:
        source = {"secretRef": {"name": "none"}}
        waits = {"name": "waits", "command": ["true"], "envFrom": [source]}
        await client.run("one", FOREVER, more_containers=[waits])
        await client.until(
            f"{client.pods}/one", lambda pod: "CreateContainerConfigError" in str(pod["status"])
        )
        status, body = await client.call("GET", f"{client.pods}/one/log", container="waits")
        assert (status, body["reason"]) == (400, "BadRequest")
        words = 'container "waits" in pod "one" is waiting to start: CreateContainerConfigError'
        assert words in body["message"]


def _restarted(pod: Body) -> bool:
    entries = pod["status"].get("containerStatuses") or [{}]
    return entries[0].get("restartCount") == 1 and "running" in entries[0]["state"]
