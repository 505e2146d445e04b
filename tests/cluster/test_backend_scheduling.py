"""What a real scheduler, real controllers and other people do to pods, as the backend tells it."""

from collections.abc import Callable, Iterator
from signal import SIGKILL
from typing import Any

import pytest

from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import Accepted, Ended, How, Started
from hybrid_executor.model.reason import Reason
from tests.cluster.backend import QUICK, ClusterHarness, HarnessMaker, Sender
from tests.cluster.fixture import StartPlane
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.contract.backend_suite import Fate
from tests.fixtures.kube import until

KEPT = {"finalizers": ["example.com/keeps"]}
MERGE = "application/merge-patch+json"
WANTED = {"matchExpressions": [{"key": "wanted", "operator": "Exists"}]}
AFFINITY = {
    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [WANTED]}}
}


def failed(sender: Sender, sent: Submission) -> tuple[Reason, str]:
    """Why it ended, which must be told once."""
    end = sender.end(sent.id)
    sender.silence([sent.id])
    assert end.how is How.FAILED
    assert end.diagnosis is not None
    return end.diagnosis.reason, end.diagnosis.message


def running(sender: Sender, *batch: Submission) -> None:
    sender.send(*batch)
    sender.until_kind(Started, [sent.id for sent in batch])


class TestWhyNoNodeTakesAPod:
    """The scheduler's words are the wait's, and the pod runs once they are no longer true."""

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ({"nodeSelector": {"wanted": "yes"}}, "didn't match Pod's node affinity/selector"),
            ({"affinity": AFFINITY}, "didn't match Pod's node affinity/selector"),
        ],
    )
    def test_a_label_that_no_node_has_is_waited_for(
        self, harness: ClusterHarness, sender: Sender, runner: RunnerNode, spec: dict[str, Any], words: str
    ) -> None:
        sent = harness.submission(Fate.SUCCEEDS, spec=spec)
        sender.send(sent)
        wait = sender.waits(sent, Reason.UNSCHEDULABLE)
        assert words in wait.message
        assert wait.retry_after_s is None
        harness.plane.kubectl("label", "node", runner.name, "wanted=yes")
        try:
            sender.all_end_well_and_once([sent])
        finally:
            harness.plane.kubectl("label", "node", runner.name, "wanted-")

    def test_a_taint_is_waited_for_unless_it_is_tolerated(
        self, harness: ClusterHarness, sender: Sender, runner: RunnerNode
    ) -> None:
        tolerations = [{"key": "reserved", "operator": "Exists"}]
        patient = harness.submission(Fate.SUCCEEDS)
        tolerant = harness.submission(Fate.SUCCEEDS, spec={"tolerations": tolerations})
        harness.plane.kubectl("taint", "node", runner.name, "reserved=yes:NoSchedule")
        try:
            sender.send(patient, tolerant)
            assert "untolerated taint(s)" in sender.waits(patient, Reason.UNSCHEDULABLE).message
            sender.all_end_well_and_once([tolerant])
        finally:
            harness.plane.kubectl("taint", "node", runner.name, "reserved-")
        sender.all_end_well_and_once([patient])

    def test_a_pod_that_no_node_can_hold_is_told_and_can_be_withdrawn(
        self, harness: ClusterHarness, sender: Sender
    ) -> None:
        huge = harness.submission(Fate.SUCCEEDS, container={"resources": {"requests": {"cpu": "4k"}}})
        sender.send(huge)
        assert "Insufficient cpu" in sender.waits(huge, Reason.UNSCHEDULABLE).message
        harness.backend.cancel([huge.id])
        assert sender.end(huge.id).how is How.CANCELLED
        assert harness.starts(huge.id) == 0

    def test_a_scheduling_gate_is_a_wait_of_its_own(self, harness: ClusterHarness, sender: Sender) -> None:
        sent = harness.submission(Fate.SUCCEEDS, spec={"schedulingGates": [{"name": "example.com/queue"}]})
        sender.send(sent)
        sender.until(lambda: any("gate" in getattr(o, "message", "") for o in sender.of(sent.id)), "a gate")
        assert sender.waits(sent, Reason.POD_PENDING)
        patch(harness, sent, {"spec": {"schedulingGates": None}})
        sender.all_end_well_and_once([sent])


class TestWhoElseEndsPods:
    """Each leaves its mark on the pod, and the end is told once."""

    def test_a_more_urgent_pod_preempts(
        self, harness: ClusterHarness, sender: Sender, priorities: Callable[[str, int], str]
    ) -> None:
        options = (*QUICK, "--allocatable", "cpu=1", "--label", "only=small")
        size = {"resources": {"requests": {"cpu": "800m"}}}

        def pod(fate: Fate, priority: str) -> Submission:
            spec = {"nodeSelector": {"only": "small"}, "priorityClassName": priority}
            return harness.submission(fate, container=size, spec=spec)

        low = pod(Fate.BLOCKS, priorities("low", 10))
        high = pod(Fate.SUCCEEDS, priorities("high", 1000))
        with RunnerNode.started(harness.plane, "small", options):
            running(sender, low)
            sender.send(high)
            reason, message = failed(sender, low)
            sender.all_end_well_and_once([high])
        assert reason is Reason.PREEMPTED
        assert "preempted by a pod of higher priority" in message

    def test_the_eviction_api_evicts(self, harness: ClusterHarness, sender: Sender) -> None:
        sent = harness.submission(Fate.BLOCKS)
        running(sender, sent)
        name = harness.pod(sent.id)["metadata"]["name"]
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        path = f"/api/v1/namespaces/{harness.namespace}/pods/{name}/eviction"
        assert harness.plane.request("POST", path, eviction)[0] == 201
        reason, message = failed(sender, sent)
        assert reason is Reason.EVICTED
        assert "evicted through the API" in message

    def test_a_no_execute_taint_evicts(
        self, harness: ClusterHarness, sender: Sender, runner: RunnerNode
    ) -> None:
        sent = harness.submission(Fate.BLOCKS)
        running(sender, sent)
        harness.plane.kubectl("taint", "node", runner.name, "broken=yes:NoExecute")
        try:
            reason, message = failed(sender, sent)
        finally:
            harness.plane.kubectl("taint", "node", runner.name, "broken-")
        assert reason is Reason.EVICTED
        assert "NoExecute taint" in message

    @pytest.mark.parametrize("options", [[], ["--grace-period=0", "--force"]], ids=["kindly", "by force"])
    def test_somebody_deletes_a_running_pod(
        self, harness: ClusterHarness, sender: Sender, options: list[str]
    ) -> None:
        sent = harness.submission(Fate.BLOCKS)
        running(sender, sent)
        harness.api.kubectl("delete", "pod", harness.pod(sent.id)["metadata"]["name"], *options)
        assert failed(sender, sent)[0] is Reason.POD_DELETED

    def test_somebody_deletes_all_pods_at_once(self, harness: ClusterHarness, sender: Sender) -> None:
        runs, waits = harness.submission(Fate.BLOCKS), harness.submission(Fate.PENDS)
        running(sender, runs)
        sender.send(waits)
        sender.until_kind(Accepted, [waits.id])
        code, answer = harness.plane.request("DELETE", f"/api/v1/namespaces/{harness.namespace}/pods")
        assert code == 200, answer
        assert {failed(sender, runs)[0], failed(sender, waits)[0]} == {Reason.POD_DELETED}


class TestFinalizers:
    """Somebody else's controller keeps a pod after its deletion."""

    def free(self, harness: ClusterHarness, sent: Submission) -> None:
        """Take the finalizer off; the pod goes if it was deleted."""
        patch(harness, sent, {"metadata": {"finalizers": None}})
        until(lambda: not harness.pods_of(sent.id), "the pod stayed without its finalizer", 30)

    def test_an_end_is_told_once_though_the_pod_lingers(
        self, harness: ClusterHarness, sender: Sender
    ) -> None:
        sent = harness.submission(Fate.SUCCEEDS, metadata=KEPT)
        sender.send(sent)
        sender.all_end_well_and_once([sent])
        harness.backend.release([sent.id])
        until(lambda: "deletionTimestamp" in harness.pod(sent.id)["metadata"], "nobody deleted the pod", 30)
        sender.silence([sent.id])
        self.free(harness, sent)
        sender.silence([sent.id])

    def test_a_withdrawal_ends_when_the_process_has_though_the_pod_lingers(
        self, harness: ClusterHarness, sender: Sender
    ) -> None:
        sent = harness.submission(Fate.BLOCKS, metadata=KEPT)
        running(sender, sent)
        harness.backend.cancel([sent.id])
        assert sender.end(sent.id).how is How.CANCELLED
        assert harness.pods_of(sent.id)
        self.free(harness, sent)
        sender.silence([sent.id])
        assert len([o for o in sender.of(sent.id) if isinstance(o, Ended)]) == 1

    def test_a_pod_that_never_ran_and_lingers_ends_when_it_goes(
        self, harness: ClusterHarness, sender: Sender
    ) -> None:
        gate = {"schedulingGates": [{"name": "example.com/queue"}]}
        sent = harness.submission(Fate.SUCCEEDS, metadata=KEPT, spec=gate)
        sender.send(sent)
        sender.until_kind(Accepted, [sent.id])
        harness.backend.cancel([sent.id])
        until(lambda: "deletionTimestamp" in harness.pod(sent.id)["metadata"], "nobody deleted the pod", 30)
        self.free(harness, sent)
        assert sender.end(sent.id).how is How.CANCELLED
        sender.silence([sent.id])


class TestNodeDeath:
    """A node falls silent; what it ran may still run, until somebody knows that it does not."""

    def test_an_end_is_told_when_it_is_certain_and_not_before(
        self, start_plane: StartPlane, start_harness: HarnessMaker
    ) -> None:
        plane = start_plane(node_grace_s=4, eviction_s=1)
        harness = start_harness(plane, "default")
        sender = Sender(harness, patience_s=90.0)
        with (
            RunnerNode.started(plane, "dies", QUICK) as dies,
            RunnerNode.started(plane, "returns", QUICK) as returns,
            # Where no node is well, controllers blame themselves and evict nothing.
            RunnerNode.started(plane, "stays", QUICK),
        ):
            lost, back = (
                harness.submission(Fate.BLOCKS, spec={"nodeName": node.name}) for node in (dies, returns)
            )
            running(sender, lost, back)
            for node in (dies, returns):
                node.kill(SIGKILL)
            for sent in (lost, back):
                until(
                    lambda sent=sent: "deletionTimestamp" in harness.pod(sent.id)["metadata"],
                    "nobody evicted the pod from the dead node",
                    60,
                )
            sender.silence([lost.id, back.id])

            returns.start()
            # It depends on whether the node tells the end of the process before it lets the pod go.
            assert failed(sender, back)[0] in {Reason.NODE_LOST, Reason.EVICTED}

            plane.kubectl("taint", "node", "dies", "node.kubernetes.io/out-of-service=yes:NoExecute")
            reason, message = failed(sender, lost)
            assert reason is Reason.NODE_LOST
            assert "dies fell silent" in message


def patch(harness: ClusterHarness, sent: Submission, body: dict[str, Any]) -> None:
    """Somebody else changes its pod."""
    name = harness.pod(sent.id)["metadata"]["name"]
    path = f"/api/v1/namespaces/{harness.namespace}/pods/{name}"
    code, answer = harness.plane.request("PATCH", path, body, MERGE)
    assert code == 200, answer


@pytest.fixture
def priorities(plane: ControlPlane, namespace: str) -> Iterator[Callable[[str, int], str]]:
    """Make PriorityClasses for a test."""
    made: list[str] = []
    path = "/apis/scheduling.k8s.io/v1/priorityclasses"

    def make(name: str, value: int) -> str:
        made.append(f"{name}-{namespace}")
        code, answer = plane.request("POST", path, {"metadata": {"name": made[-1]}, "value": value})
        assert code == 201, answer
        return made[-1]

    yield make
    for name in made:
        assert plane.request("DELETE", f"{path}/{name}")[0] == 200
