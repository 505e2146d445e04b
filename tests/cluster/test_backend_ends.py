"""Why pods end on a real kubelet, and how long one waits for what may never come, as the backend tells it."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import Ended, How, Started
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import ANNOTATION_FATAL_WAIT
from tests.cluster.backend import ClusterHarness, HarnessMaker, Sender
from tests.cluster.kubelet import images
from tests.cluster.kubelet.node import KubeletNode
from tests.contract.backend_suite import Fate

pytestmark = pytest.mark.timeout(300)

ABSENT = f"{images.REGISTRY}/absent:1"
SMALL = {"limits": {"memory": "32Mi"}}
#: Long enough to see a wait that is let be.
PATIENT_S = 15.0


@pytest.fixture
def harness(kubelet: KubeletNode, start_harness: HarnessMaker) -> Iterator[ClusterHarness]:
    namespace = f"ends-{uuid4().hex[:10]}"
    kubelet.plane.make_namespace(namespace)
    yield start_harness(kubelet.plane, namespace)
    kubelet.plane.request("DELETE", f"/api/v1/namespaces/{namespace}")


@pytest.fixture
def sender(harness: ClusterHarness) -> Sender:
    return Sender(harness, patience_s=90)


@pytest.fixture
def send(harness: ClusterHarness, sender: Sender) -> Callable[..., Submission]:
    """Send a pod of the small image with a shell script, and what else its container and pod are to have."""

    def one(script: str = "true", *, container: dict[str, Any] | None = None, **pod: Any) -> Submission:
        base = {
            "image": images.TINY,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", script],
            **(container or {}),
        }
        sent = harness.submission(Fate.SUCCEEDS, container=base, **pod)
        sender.send(sent)
        return sent

    return one


def from_secret(name: str) -> dict[str, Any]:
    return {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": "x"}}}]}


def let_wait(seconds: float) -> dict[str, Any]:
    return {"annotations": {ANNOTATION_FATAL_WAIT: f"{seconds:g}"}}


def end_of(sender: Sender, sent: Submission) -> tuple[How, Reason, str]:
    end = sender.end(sent.id)
    assert end.diagnosis is not None, end
    return end.how, end.diagnosis.reason, end.diagnosis.message


Send = Callable[..., Submission]


class TestWaitsThatMayNeverEnd:
    """An image, a secret: what is missing is named."""

    def test_a_missing_secret_is_named_and_given_up_at_once_as_stock_does(
        self, sender: Sender, send: Send
    ) -> None:
        sent = send(container=from_secret("not-there"))
        how, reason, message = end_of(sender, sent)
        assert (how, reason) == (How.FAILED, Reason.CONTAINER_CONFIG)
        assert 'secret "not-there" not found' in message
        assert not sender.end(sent.id).for_good

    def test_a_secret_that_comes_within_the_routes_limit_lets_the_pod_run(
        self, harness: ClusterHarness, sender: Sender, send: Send
    ) -> None:
        sent = send(container=from_secret("late"), metadata=let_wait(120))
        sender.waits(sent, Reason.CONTAINER_CONFIG)
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "late"},
            "stringData": {"x": "1"},
        }
        path = f"/api/v1/namespaces/{harness.namespace}/secrets"
        assert harness.plane.request("POST", path, secret)[0] == 201
        assert sender.end(sent.id).how is How.SUCCEEDED

    def test_an_image_that_stays_away_ends_the_attempt_after_the_routes_limit(
        self, harness: ClusterHarness, sender: Sender, send: Send
    ) -> None:
        sent = send(container={"image": ABSENT}, metadata=let_wait(PATIENT_S))
        sender.waits(sent, Reason.IMAGE_PULL)
        sender.follow(PATIENT_S / 2)
        assert not [o for o in sender.of(sent.id) if isinstance(o, Ended)]
        how, reason, message = end_of(sender, sent)
        assert (how, reason) == (How.FAILED, Reason.IMAGE_PULL)
        assert ABSENT in message
        assert "for 15 s" in message
        assert sender.end(sent.id).for_good


class TestEnds:
    """Of pods that ran, or whose containers did."""

    def test_a_pod_that_takes_too_much_memory_says_how_much_was_too_much_af61521(
        self, sender: Sender, send: Send
    ) -> None:
        sent = send("exec tail /dev/zero", container={"resources": SMALL})
        how, reason, message = end_of(sender, sent)
        assert (how, reason) == (How.FAILED, Reason.OOM_KILLED)
        assert "32Mi" in message

    def test_a_memory_kill_inside_a_pod_that_ends_well_is_told_af61521(
        self, sender: Sender, send: Send
    ) -> None:
        """As with a task whose supervisor lives on: only the kubelet knows what killed it."""
        sent = send("tail /dev/zero; sleep 1; exit 0", container={"resources": SMALL})
        how, reason, message = end_of(sender, sent)
        assert (how, reason) == (How.SUCCEEDED, Reason.OOM_KILLED)
        assert "32Mi" in message

    def test_a_deadline_ends_a_pod(self, sender: Sender, send: Send) -> None:
        sent = send("sleep 1000", spec={"activeDeadlineSeconds": 3})
        assert end_of(sender, sent)[:2] == (How.FAILED, Reason.DEADLINE_EXCEEDED)

    def test_an_init_container_that_fails_ends_what_never_started(self, sender: Sender, send: Send) -> None:
        init = {"name": "fetch", "image": images.TINY, "command": ["sh", "-c", "exit 3"]}
        sent = send(spec={"initContainers": [init]})
        how, reason, message = end_of(sender, sent)
        assert (how, reason) == (How.FAILED, Reason.INIT_FAILED)
        assert "fetch" in message
        assert "exit code 3" in message
        assert not [o for o in sender.of(sent.id) if isinstance(o, Started)]

    def test_the_kubelet_evicts_and_names_the_resource_af21701(self, sender: Sender, send: Send) -> None:
        volume = {"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}
        mount = {"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}
        script = "dd if=/dev/zero of=/scratch/x bs=1M count=8; sleep 1000"
        sent = send(script, container=mount, spec={"volumes": [volume], "terminationGracePeriodSeconds": 1})
        how, reason, message = end_of(sender, sent)
        assert (how, reason) == (How.FAILED, Reason.EVICTED)
        assert "scratch" in message
