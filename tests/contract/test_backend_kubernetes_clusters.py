"""Routes to other namespaces and other clusters, over two embedded APIs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import Accepted, Ended, How, Started, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import LABEL_CLUSTER, LABEL_OWNER
from tests.contract.backend_suite import BackendSuite, Fate, Heard
from tests.fixtures.kube import Kube, until
from tests.fixtures.puppet import NAMESPACE, KubernetesHarness, submission
from tests.fixtures.two_clusters import EAST, TwoClusters, pods

RESEARCH = "research"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[TwoClusters]:
    made = TwoClusters(tmp_path, namespaces=(NAMESPACE, RESEARCH))
    yield made
    made.close()


@pytest.fixture
def heard(world: TwoClusters) -> Heard:
    return Heard(world)  # type: ignore[arg-type]


@pytest.fixture
def harness(kube: Kube, tmp_path: Path) -> Iterator[KubernetesHarness]:
    """The harness of every other test, and beside its cluster one whose kubeconfig is not even there."""
    dead = KubernetesConfig(
        cluster="dead", namespace=NAMESPACE, in_cluster=False, config_file=str(tmp_path / "none")
    )
    made = KubernetesHarness(kube, others=[dead])
    yield made
    made.close()


class TestBesideADeadCluster(BackendSuite):
    """A cluster that never answers takes nothing from another."""


def to_east(fate: Fate, **route: Any) -> Submission:
    return submission(fate, cluster=EAST, **route)


def started_in_east(world: TwoClusters, heard: Heard) -> Submission:
    there = to_east(Fate.BLOCKS)
    world.backend.submit([there])
    heard.until_kind(Started, [there.id])
    return there


def places(*sent: Submission, world: TwoClusters) -> list[tuple[int, int]]:
    """How many pods of each are at home and in the east."""
    return [(len(pods(world.home, s.id)), len(pods(world.east, s.id))) for s in sent]


class TestNamespaces:
    def test_a_route_chooses_among_the_watched_namespaces(self, world: TwoClusters, heard: Heard) -> None:
        batch = [submission(Fate.BLOCKS), submission(Fate.BLOCKS, namespace=RESEARCH)]
        world.backend.submit(batch)
        heard.until_kind(Started, [s.id for s in batch])
        assert [pods(world.home, s.id)[0]["metadata"]["namespace"] for s in batch] == [NAMESPACE, RESEARCH]
        names = [o.external_name for o in heard.of(batch[1].id) if isinstance(o, Accepted)]
        assert str(names[0]).startswith(f"{RESEARCH}/")
        for sent in batch:
            world.finish(world.home, sent.id)
            assert heard.end(sent.id).how is How.SUCCEEDED
        world.backend.release([s.id for s in batch])
        until(lambda: not pods(world.home), "pods stayed")

    def test_what_runs_in_each_namespace_is_adopted(self, world: TwoClusters, heard: Heard) -> None:
        batch = [submission(Fate.BLOCKS), submission(Fate.BLOCKS, namespace=RESEARCH)]
        world.backend.submit(batch)
        heard.until_kind(Started, [s.id for s in batch])
        world.start().adopt([s.id for s in batch])
        heard.all.clear()
        heard.until_kind(Started, [s.id for s in batch])
        for sent in batch:
            world.finish(world.home, sent.id)
            assert heard.end(sent.id).how is How.SUCCEEDED


class TestClusters:
    def test_a_submission_goes_to_the_cluster_of_its_route_alone(
        self, world: TwoClusters, heard: Heard
    ) -> None:
        here, there = submission(Fate.BLOCKS), to_east(Fate.BLOCKS, namespace=RESEARCH)
        world.backend.submit([here, there])
        heard.until_kind(Started, [here.id, there.id])
        assert places(here, there, world=world) == [(1, 0), (0, 1)]
        [pod] = pods(world.east, there.id)
        assert pod["metadata"]["labels"][LABEL_CLUSTER] == EAST
        name = pod["metadata"]["name"]
        assert world.east.request("GET", f"/api/v1/namespaces/{RESEARCH}/secrets/{name}")[0] == 200
        for kube, sent in ((world.home, here), (world.east, there)):
            world.finish(kube, sent.id)
            assert heard.end(sent.id).how is How.SUCCEEDED
        world.backend.release([here.id, there.id])
        until(lambda: not pods(world.home) and not pods(world.east), "pods stayed")

    @pytest.mark.parametrize("dead", ["home", EAST])
    def test_a_dead_cluster_keeps_its_own_waiting_and_no_other(
        self, world: TwoClusters, heard: Heard, dead: str
    ) -> None:
        name = EAST if dead == EAST else ""
        kube, other = (world.east, "") if dead == EAST else (world.home, EAST)
        kube.fail(drop=True)
        kube.cut_watches()
        waits = [submission(Fate.SUCCEEDS, cluster=name) for _ in range(3)]
        goes = [submission(Fate.SUCCEEDS, cluster=other) for _ in range(3)]
        world.backend.submit([*waits, *goes])
        assert [heard.end(sent.id).how for sent in goes] == [How.SUCCEEDED] * 3
        assert {heard.wait(sent.id).reason for sent in waits} == {Reason.API_UNAVAILABLE}
        heard.until(lambda: world.backend.troubles[name] is not None, "word of the outage")
        assert world.backend.troubles[other] is None
        kube.heal()
        heard.until(lambda: world.backend.troubles[name] is None, "word of its end")
        ended: list[Ended] = []
        while len(ended) < len(waits):
            world.backend.submit([s for s in waits if not heard.of(s.id) or _was_let_go(heard, s)])
            heard.silence([])
            ended = [o for s in waits for o in heard.of(s.id) if isinstance(o, Ended)]
        assert {o.how for o in ended} == {How.SUCCEEDED}

    def test_adoption_asks_the_cluster_that_it_is_told_and_no_other(
        self, world: TwoClusters, heard: Heard
    ) -> None:
        there = started_in_east(world, heard)
        world.start()
        heard.all.clear()
        world.backend.adopt([there.id])
        assert heard.end(there.id).how is How.ABSENT
        heard.all.clear()
        world.backend.adopt([there.id], EAST)
        heard.until_kind(Started, [there.id])
        assert pods(world.east, there.id)[0]["metadata"]["labels"][LABEL_OWNER] == "2"
        world.finish(world.east, there.id)
        assert heard.end(there.id).how is How.SUCCEEDED

    def test_a_pod_of_a_dead_scheduler_is_swept_in_its_cluster(
        self, world: TwoClusters, heard: Heard
    ) -> None:
        there = started_in_east(world, heard)
        world.start()
        world.finish(world.east, there.id)
        world.backend.sweep(["2"])
        assert heard.end(there.id).how is How.SUCCEEDED
        world.backend.release([there.id])
        until(lambda: not pods(world.east), "the pod stayed")

    @pytest.mark.parametrize("known", [True, False])
    def test_a_withdrawal_reaches_the_cluster(self, world: TwoClusters, heard: Heard, known: bool) -> None:
        there = started_in_east(world, heard)
        if not known:
            world.start()
        world.backend.cancel([there.id], EAST)
        assert heard.end(there.id).how is How.CANCELLED
        until(lambda: not pods(world.east), "the pod stayed")

    def test_two_names_of_one_api_server_know_each_its_own_pods(
        self, world: TwoClusters, heard: Heard
    ) -> None:
        world.start(world.of_east(), world.of_east("far-east"))
        batch = [submission(Fate.BLOCKS, cluster=name) for name in (EAST, "far-east")]
        world.backend.submit(batch)
        heard.until_kind(Started, [s.id for s in batch])
        for sent in batch:
            world.finish(world.east, sent.id)
            heard.end(sent.id)
        heard.silence([s.id for s in batch])
        kinds = [type(o) for s in batch for o in heard.of(s.id) if isinstance(o, Accepted | Ended)]
        assert kinds == [Accepted, Ended] * 2

    def test_a_hook_gives_no_pod_to_another_cluster(self, world: TwoClusters, heard: Heard) -> None:
        make = world.backend._make_pod

        def hooked(sent: Submission) -> dict[str, Any]:
            pod = dict(make(sent))
            labels = {**pod["metadata"]["labels"], LABEL_CLUSTER: "nowhere"}
            return {**pod, "metadata": {**pod["metadata"], "labels": labels}}

        world.backend._make_pod = hooked
        world.backend.stop(5.0)
        world.backend.start()
        batch = [submission(Fate.SUCCEEDS), to_east(Fate.SUCCEEDS)]
        world.backend.submit(batch)
        assert [heard.end(s.id).how for s in batch] == [How.SUCCEEDED] * 2


class TestUnknownCluster:
    """The clusters file changed, and the ledger names a cluster that is no more."""

    def test_what_may_live_there_waits_with_that_reason(self, world: TwoClusters, heard: Heard) -> None:
        gone, sent, good = (submission(Fate.SUCCEEDS, cluster=c) for c in ("gone", "gone", ""))
        world.backend.adopt([gone.id], "gone")
        world.backend.submit([sent, good])
        held, let_go = heard.wait(gone.id), heard.wait(sent.id)
        assert (held.reason, held.retry_after_s) == (Reason.UNKNOWN_CLUSTER, None)
        assert let_go.reason is Reason.UNKNOWN_CLUSTER
        assert let_go.retry_after_s
        assert "'gone'" in held.message
        assert "clusters_file" in held.message
        assert heard.end(good.id).how is How.SUCCEEDED
        assert world.backend.log(gone.attempt.id, "gone") is None

    def test_its_user_can_withdraw_it(self, world: TwoClusters, heard: Heard) -> None:
        gone = submission(Fate.SUCCEEDS, cluster="gone")
        world.backend.cancel([gone.id], "gone")
        assert heard.end(gone.id).how is How.CANCELLED


def test_before_the_start_every_cluster_is_named_and_in_no_trouble(world: TwoClusters) -> None:
    world.backend.stop(5.0)
    assert world.backend.troubles == {"": None, EAST: None}


def _was_let_go(heard: Heard, sent: Submission) -> bool:
    last = heard.of(sent.id)[-1]
    return isinstance(last, Waiting) and last.retry_after_s is not None
