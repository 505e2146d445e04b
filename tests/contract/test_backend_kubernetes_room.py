"""A pod that waits for a node is told what it waits for, and what that costs the API server."""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from hybrid_executor.backends.kubernetes.config import RoomTiming
from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import Accepted, Observation, Started, Waiting
from hybrid_executor.model.reason import Reason
from tests.contract.backend_suite import Fate, Heard
from tests.fixtures.kube import Kube, until
from tests.fixtures.puppet import MERGE_PATCH, PODS, KubernetesHarness, make_pod, running

TIMING = RoomTiming(nodes_every_s=0.3, pods_every_s=0.3, patience_s=0.5, refused_s=0.3)
NODES = "/api/v1/nodes"


def pod_of(sent: Submission) -> dict[str, Any]:
    """As the puppet has it, with the requests that the test gave."""
    pod = make_pod(sent)
    config = sent.executor_config or {}
    pod["spec"]["containers"][0]["resources"] = {"requests": config.get("requests", {})}
    return pod


class Cluster(KubernetesHarness):
    """A cluster whose nodes are objects, and whose scheduler is the test."""

    def __init__(self, kube: Kube, **config: Any) -> None:
        super().__init__(kube, room=TIMING, **config)
        self._make_pod = pod_of
        self.restart()

    def asking(self, **requests: str) -> Submission:
        sent = self.submission(Fate.PENDS)
        return replace(sent, executor_config={**(sent.executor_config or {}), "requests": requests})

    def add_node(self, name: str, **offered: str) -> None:
        code, answer = self.kube.request("POST", NODES, {"metadata": {"name": name}})
        assert code == 201, answer
        status = {"status": {"allocatable": {"pods": "110", **offered}}}
        code, answer = self.kube.request("PATCH", f"{NODES}/{name}/status", status, headers=MERGE_PATCH)
        assert code == 200, answer

    def fill(self, node: str, **requests: str) -> None:
        """Somebody else's pod is on it."""
        container = {"name": "c", "image": "any", "resources": {"requests": requests}}
        pod = {"metadata": {"name": f"on-{node}"}, "spec": {"nodeName": node, "containers": [container]}}
        assert self.kube.request("POST", PODS, pod)[0] == 201

    def refuse_scheduling(self, sent: Submission, words: str) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
        self.set_status(sent.id, {"phase": "Pending", "conditions": [condition]})


@pytest.fixture
def cluster(kube: Kube) -> Iterator[Cluster]:
    cluster = Cluster(kube, cluster_view=True)
    yield cluster
    cluster.close()


def wait(heard: Heard, sent: Submission, words: str) -> Waiting:
    """The first wait with these words."""

    def found() -> list[Observation]:
        return [o for o in heard.of(sent.id) if isinstance(o, Waiting) and words in o.message]

    heard.until(lambda: bool(found()), words)
    first = found()[0]
    assert isinstance(first, Waiting)
    return first


def test_a_pod_that_no_node_could_hold_is_told_at_once(cluster: Cluster) -> None:
    cluster.add_node("small", cpu="2", memory="4Gi")
    cluster.add_node("large", cpu="4", memory="16Gi")
    heard, sent = Heard(cluster), cluster.asking(memory="64Gi")
    cluster.backend.submit([sent])
    said = wait(heard, sent, "large comes nearest, but has 16Gi memory of the 64Gi that it asks for")
    assert (said.reason, said.retry_after_s) == (Reason.NO_NODE, None)
    # The watch may be ahead of the answer to the pod's creation.
    heard.until_kind(Accepted, [sent.id])
    heard.silence([sent.id])


def test_the_schedulers_words_stay_in_the_message(cluster: Cluster) -> None:
    cluster.add_node("small", cpu="2", memory="4Gi")
    heard, sent = Heard(cluster), cluster.asking(cpu="8")
    cluster.backend.submit([sent])
    wait(heard, sent, "small comes nearest")
    cluster.refuse_scheduling(sent, "0/1 nodes are available: 1 Insufficient cpu.")
    said = wait(heard, sent, "The scheduler: 0/1 nodes are available: 1 Insufficient cpu.")
    assert said.reason is Reason.NO_NODE
    assert said.message.startswith("none of 1 node could hold it")


def test_they_stay_though_they_came_first(cluster: Cluster) -> None:
    fault = cluster.kube.fail(429, verb="list", path=NODES)
    heard, sent = Heard(cluster), cluster.asking(cpu="8")
    cluster.backend.submit([sent])
    heard.until(lambda: fault.hits > 0, "a look at the nodes")
    cluster.refuse_scheduling(sent, "0/0 nodes are available.")
    assert wait(heard, sent, "0/0 nodes are available.").reason is Reason.UNSCHEDULABLE
    cluster.kube.heal()
    said = wait(heard, sent, "the cluster has no node")
    assert (said.reason, said.message) == (
        Reason.NO_NODE,
        "the cluster has no node. The scheduler: 0/0 nodes are available.",
    )


def test_a_node_that_comes_changes_the_reason(cluster: Cluster) -> None:
    heard, sent = Heard(cluster), cluster.asking(cpu="8")
    cluster.backend.submit([sent])
    assert wait(heard, sent, "the cluster has no node").reason is Reason.NO_NODE
    cluster.add_node("brought", cpu="16", memory="4Gi")
    assert wait(heard, sent, "brought").reason is Reason.UNSCHEDULABLE


def test_one_that_fits_but_waits_says_where_and_for_what(cluster: Cluster) -> None:
    cluster.add_node("full", cpu="4", memory="8Gi")
    cluster.fill("full", cpu="3500m")
    heard, sent = Heard(cluster), cluster.asking(cpu="1")
    cluster.backend.submit([sent])
    words = "full could hold it and is nearest, but 3.5 of its 4 cpu are taken by others, and it asks for 1"
    assert wait(heard, sent, words).reason is Reason.UNSCHEDULABLE
    heard.silence([sent.id])


def test_one_that_has_started_is_told_nothing_more(cluster: Cluster) -> None:
    heard, sent = Heard(cluster), cluster.asking(cpu="8")
    cluster.backend.submit([sent])
    wait(heard, sent, "the cluster has no node")
    cluster.set_status(sent.id, running())
    heard.until_kind(Started, [sent.id])
    cluster.add_node("late", cpu="16", memory="4Gi")
    heard.silence([sent.id])


def test_reading_costs_the_time_and_not_the_pods(cluster: Cluster) -> None:
    cluster.add_node("small", cpu="2", memory="4Gi")
    heard = Heard(cluster)
    until(cluster.kube.open_watches, "no watch was opened")
    cluster.kube.forget_requests()
    heard.silence([])
    assert cluster.kube.count("list", NODES) == 0
    began_s = time.monotonic()
    for _ in range(30):
        sent = cluster.asking(cpu="8")
        cluster.backend.submit([sent])
        wait(heard, sent, "small comes nearest")
    turns = (time.monotonic() - began_s) / TIMING.nodes_every_s
    assert cluster.kube.count("list", NODES) <= turns + 2
    assert cluster.kube.count("list", "/api/v1/pods") == 0


def test_it_is_off_unless_asked_for(kube: Kube) -> None:
    cluster = Cluster(kube)
    try:
        heard, sent = Heard(cluster), cluster.asking(cpu="8")
        cluster.backend.submit([sent])
        heard.wait(sent.id)
        heard.silence([sent.id])
        assert kube.count("list", NODES) == 0
    finally:
        cluster.close()


def test_a_refusal_is_told_and_leaves_the_schedulers_own_words(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "hybrid_executor.kubernetes")
    cluster.kube.fail(403, verb="list", path=NODES, message="nodes is forbidden")
    heard, sent = Heard(cluster), cluster.asking(cpu="8")
    cluster.backend.submit([sent])
    until(lambda: "nodes is forbidden" in caplog.text, "nothing was said")
    assert "cluster-view-clusterrole.yaml" in caplog.text
    cluster.refuse_scheduling(sent, "0/9 nodes are available.")
    said = wait(heard, sent, "0/9 nodes are available.")
    assert (said.reason, said.message) == (Reason.UNSCHEDULABLE, "0/9 nodes are available.")
    cluster.kube.heal()
    assert wait(heard, sent, "the cluster has no node").reason is Reason.NO_NODE
