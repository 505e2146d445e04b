"""Servers that die, freeze and forget under a backend that has work: nothing is lost, nothing runs twice."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest

from hybrid_executor.backends.kubernetes.client import PodApi
from hybrid_executor.backends.kubernetes.watch import Reflector
from hybrid_executor.model.observation import Accepted, Ended, How, Rejected, Started, Waiting
from hybrid_executor.model.reason import Reason
from tests.cluster.backend import QUICK, ClusterHarness, HarnessMaker, Sender, role_rules
from tests.cluster.fixture import StartPlane
from tests.cluster.line import Line
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.contract.backend_suite import Fate
from tests.fixtures.kube import until
from tests.fixtures.pod_backends import TIMING

AWAY_S = 20.0
#: An API server without a watch cache answers watches from etcd, which is told to forget early.
FORGETFUL = ["--watch-cache=false", "--etcd-compaction-interval=2s"]


class TestRestartsAndFreezes:
    """The API server and etcd."""

    def test_an_api_server_that_is_restarted_in_mid_flight_loses_and_doubles_nothing(
        self, runner: RunnerNode, plane: ControlPlane, namespace: str, start_harness: HarnessMaker
    ) -> None:
        harness = start_harness(plane, namespace, creation_concurrency=2)
        sender = Sender(harness, patience_s=90.0)
        batch = [harness.submission(Fate.SUCCEEDS) for _ in range(30)]
        sender.send(*batch)
        sender.until(lambda: len([o for o in sender.all if isinstance(o, Accepted)]) >= 5, "five pods")
        plane.kill("apiserver")
        sender.until(
            lambda: any(isinstance(o, Waiting) and o.reason is Reason.API_UNAVAILABLE for o in sender.all),
            "a wait for the API server",
        )
        plane.start("apiserver")
        sender.all_end_well_and_once(batch)
        assert len(harness.pods()) == len(batch)

    @pytest.mark.parametrize("how", ["frozen", "killed"])
    def test_etcd_away_for_20_s_makes_submissions_wait_and_doubles_none(
        self, runner: RunnerNode, plane: ControlPlane, namespace: str, start_harness: HarnessMaker, how: str
    ) -> None:
        harness = start_harness(plane, namespace, request_timeout_s=5.0)
        sender = Sender(harness, patience_s=120.0)
        before = [harness.submission(Fate.BLOCKS) for _ in range(3)]
        sender.send(*before)
        sender.until_kind(Started, [sent.id for sent in before])
        after = [harness.submission(Fate.SUCCEEDS) for _ in range(5)]
        etcd = plane.pid("etcd")
        if how == "frozen":
            os.kill(etcd, SIGSTOP)
        else:
            plane.kill("etcd")
        try:
            sender.send(*after)
            sender.follow(AWAY_S)
        finally:
            if how == "frozen":
                os.kill(etcd, SIGCONT)
            else:
                plane.start("etcd")
        for sent in after:
            assert sender.waits(sent, Reason.API_UNAVAILABLE)
        assert not [o for o in sender.all if isinstance(o, Ended | Rejected)]
        sender.all_end_well_and_once(after)
        for sent in before:
            harness.finish(sent.id)
        sender.all_end_well_and_once(before)


class TestForgottenHistory:
    """410: what happened meanwhile is found by a list."""

    def partitioned(
        self,
        harness: ClusterHarness,
        line: Line,
        caplog: pytest.LogCaptureFixture,
        forget: Callable[[], None],
    ) -> None:
        """Everything that can happen to a pod happens unseen; then the server forgets it."""
        caplog.set_level(logging.INFO, "hybrid_executor.kubernetes")
        sender = Sender(harness, patience_s=60.0)
        ends, vanishes, stays = (harness.submission(Fate.BLOCKS) for _ in range(3))
        sender.send(ends, vanishes, stays)
        sender.until_kind(Started, [sent.id for sent in (ends, vanishes, stays)])
        line.cut()
        harness.finish(ends.id)
        name = harness.pod(vanishes.id)["metadata"]["name"]
        harness.api.kubectl("delete", "pod", name, "--grace-period=0", "--force")
        forget()
        caplog.clear()
        line.mend()
        assert sender.end(ends.id).how is How.SUCCEEDED
        gone = sender.end(vanishes.id)
        assert gone.diagnosis is not None
        assert gone.diagnosis.reason is Reason.POD_DELETED
        assert "its resourceVersion is gone" in caplog.text
        harness.finish(stays.id)
        sender.all_end_well_and_once([ends, stays])
        told = [type(o) for o in sender.of(stays.id) if not isinstance(o, Waiting)]
        assert told == [Accepted, Started, Ended]
        assert len([o for o in sender.of(vanishes.id) if isinstance(o, Ended)]) == 1

    def test_a_restarted_api_server_has_forgotten_and_all_is_listed_again(
        self, harness: ClusterHarness, lines: Callable[[ControlPlane], Line], caplog: pytest.LogCaptureFixture
    ) -> None:
        line = lines(harness.plane)
        assert harness.config.config_file
        by_line = line.kubeconfig(Path(harness.config.config_file))
        harness.config = replace(harness.config, config_file=str(by_line))
        harness.restart()
        self.partitioned(harness, line, caplog, lambda: harness.plane.restart("apiserver"))

    def test_a_compacted_etcd_has_forgotten_and_all_is_listed_again(
        self,
        start_plane: StartPlane,
        start_harness: HarnessMaker,
        caplog: pytest.LogCaptureFixture,
        lines: Callable[[ControlPlane], Line],
    ) -> None:
        plane = start_plane(apiserver_flags=FORGETFUL)
        line = lines(plane)
        kubeconfig = line.kubeconfig(plane.role_kubeconfig("by-line", role_rules("scheduler")))
        with RunnerNode.started(plane, options=QUICK):
            harness = start_harness(plane, "default", kubeconfig=kubeconfig)
            self.partitioned(harness, line, caplog, lambda: until_compacted(plane))

    def test_a_list_whose_later_pages_are_forgotten_is_begun_again(
        self, start_plane: StartPlane, start_harness: HarnessMaker
    ) -> None:
        plane = start_plane(apiserver_flags=FORGETFUL)
        harness = start_harness(plane, "default", page_size=2)
        sender = Sender(harness)
        batch = [harness.submission(Fate.PENDS) for _ in range(5)]
        sender.send(*batch)
        sender.until_kind(Accepted, [sent.id for sent in batch])
        found = asyncio.run(list_slowly(harness, lambda: until_compacted(plane)))
        assert found.lists == 2
        assert found.names == {pod["metadata"]["name"] for pod in harness.pods()}


def until_compacted(plane: ControlPlane) -> None:
    """Wait until what was the latest history at the call is forgotten."""
    path = "/api/v1/namespaces/default/configmaps"
    version = plane.request("GET", path)[1]["metadata"]["resourceVersion"]
    watch = f"{path}?watch=true&timeoutSeconds=1&resourceVersion={version}"

    def forgotten() -> bool:
        # Compaction goes no further than the last write.
        plane.request("POST", path, {"metadata": {"generateName": "write-"}})
        return "too old" in str(plane.request("GET", watch)[1])

    until(forgotten, "nothing was compacted", 60)


class SlowPages(PodApi):
    """Lists as ever, but dwells on the very first page."""

    dwell: Callable[[], None] | None = None

    async def pages(self, *args: Any, **more: Any) -> AsyncIterator[dict[str, Any]]:
        async for page in super().pages(*args, **more):
            yield page
            if self.dwell:
                dwell, self.dwell = self.dwell, None
                await asyncio.to_thread(dwell)


class Found:
    """What a list named; a ``watch.Sink``."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.lists = 0
        self.complete = asyncio.Event()

    def listing(self, scope: str | None, began: float) -> None:
        self.names.clear()
        self.lists += 1

    def listed(self, scope: str | None) -> None:
        self.complete.set()

    def changed(self, pod: Any) -> None:
        self.names.add(pod["metadata"]["name"])

    def removed(self, pod: Any) -> None:
        raise AssertionError(pod)


async def list_slowly(harness: ClusterHarness, dwell: Callable[[], None]) -> Found:
    """What a reflector finds whose first list is overtaken by a compaction."""
    api, found = SlowPages(harness.config), Found()
    api.dwell = dwell
    task = asyncio.create_task(
        Reflector(api, harness.namespace, f"airflow-worker={harness.owner}", found, TIMING).run()
    )
    try:
        await asyncio.wait_for(found.complete.wait(), 90)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await api.close()
    return found


@pytest.fixture
def lines() -> Iterator[Callable[[ControlPlane], Line]]:
    """Wires to a plane that can be cut."""
    laid: list[Line] = []

    def lay(plane: ControlPlane) -> Line:
        laid.append(Line(plane))
        return laid[-1]

    yield lay
    for line in laid:
        line.close()
