"""A pod's workload in a Secret, with a real kubelet: read by any user, or late, or refused."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from hybrid_executor.backends.kubernetes.book import our_labels
from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import Accepted, Ended, How, Rejected, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.pods.diagnosis import observe
from hybrid_executor.pods.workload import FILE, FOLDER, PATH
from tests.cluster.backend import ClusterHarness, HarnessMaker, Sender
from tests.cluster.kubelet import images
from tests.cluster.kubelet.workload import Workload
from tests.cluster.test_backend_refusals import MODEST, quota
from tests.contract.backend_suite import Fate
from tests.fixtures.kube import until

PAYLOAD = json.dumps({"token": "the-task-token", "type": "ExecuteTask"})
#: Kubelet's pause between its first tries to mount: half a second, then one, two, four.
LATE_S = 3.0


@pytest.fixture
def harness(workload: Workload, start_harness: HarnessMaker) -> ClusterHarness:
    """A backend whose pods run on the node with a kubelet."""
    return start_harness(workload.plane, workload.namespace)


@pytest.fixture
def sender(harness: ClusterHarness) -> Sender:
    return Sender(harness)


def shell(harness: ClusterHarness, script: str, *, fate: Fate = Fate.SUCCEEDS, **more: Any) -> Submission:
    """A submission whose container of the tiny image runs a script."""
    container = {"image": images.TINY, "imagePullPolicy": "Never", "command": ["sh", "-c", script]}
    sent = harness.submission(fate, container=container | more.pop("container", {}), **more)
    return replace(sent, payload=PAYLOAD)


def name_of(harness: ClusterHarness, sent: Submission) -> str:
    return str(harness.pod(sent.id)["metadata"]["name"])


def secret(harness: ClusterHarness, name: str) -> dict[str, Any] | None:
    code, found = harness.plane.request("GET", f"/api/v1/namespaces/{harness.namespace}/secrets/{name}")
    return found if code == 200 else None


@pytest.mark.parametrize("strict", [False, True], ids=["as the image says", "restricted"])
def test_the_user_of_any_image_reads_it_and_no_other_container_does(
    harness: ClusterHarness, sender: Sender, workload: Workload, strict: bool
) -> None:
    """Under Pod Security's level ``restricted`` too, as an arbitrary user over a read-only root."""
    security = {"securityContext": {**MODEST["securityContext"], "readOnlyRootFilesystem": True}}
    if strict:
        label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        code, _ = workload.plane.request(
            "PATCH", f"/api/v1/namespaces/{workload.namespace}", label, "application/merge-patch+json"
        )
        assert code == 200
    extra = security if strict else {}
    spec = {"securityContext": {"runAsUser": 12345, "runAsGroup": 54321}} if strict else {}
    other = {"image": images.TINY, "imagePullPolicy": "Never", "command": ["sh", "-c", f"test ! -e {FOLDER}"]}
    sent = shell(
        harness,
        f"cat {PATH}; echo; ! touch {FOLDER}/x",
        container=extra,
        spec={
            "initContainers": [{"name": "before", **other, **extra}],
            "containers": [{"name": "beside", **other, **extra}],
            **spec,
        },
    )
    sender.send(sent)
    assert sender.end(sent.id).how is How.SUCCEEDED
    name = name_of(harness, sent)
    assert PAYLOAD in workload.kubectl("logs", name, "-c", "base").splitlines()
    statuses = harness.pod(sent.id)["status"]
    for status in (*statuses["initContainerStatuses"], *statuses["containerStatuses"]):
        workload.until(
            name,
            lambda pod, each=status["name"]: exit_code(pod, each) == 0,
            f"well in container {status['name']}",
        )
    assert "the-task-token" not in json.dumps(harness.pod(sent.id))


def exit_code(pod: dict[str, Any], container: str) -> int | None:
    statuses = pod["status"]["initContainerStatuses"] + pod["status"]["containerStatuses"]
    [state] = [status["state"] for status in statuses if status["name"] == container]
    return state.get("terminated", {}).get("exitCode")  # type: ignore[no-any-return]


def test_it_goes_with_its_pod(harness: ClusterHarness, sender: Sender) -> None:
    sent = shell(harness, f"cat {PATH}")
    sender.send(sent)
    sender.end(sent.id)
    name = name_of(harness, sent)
    assert secret(harness, name)
    harness.backend.release([sent.id])
    until(lambda: not harness.pods_of(sent.id), "the pod stayed", 30)
    until(lambda: secret(harness, name) is None, "the Secret stayed", 60)


def orphan(harness: ClusterHarness, sent: Submission) -> str:
    """What a scheduler leaves that dies between a pod and its Secret; the pod's name."""
    pod = harness.make_pod(sent)
    pod["metadata"]["labels"] |= our_labels(sent.id, "a-dead-scheduler", harness.config)
    return str(harness.api.make("pods", pod)["metadata"]["name"])


def test_a_pod_whose_scheduler_died_before_its_secret_is_adopted_and_runs(
    harness: ClusterHarness, sender: Sender
) -> None:
    """A mount that fails for want of the Secret is tried again, and is no diagnosis meanwhile."""
    sent = shell(harness, f"cat {PATH}")
    name = orphan(harness, sent)
    harness.api.told(name, "FailedMount")
    waits = observe(harness.api.get(name)).waits
    assert waits is not None
    assert waits.reason is Reason.POD_PENDING
    harness.backend.adopt([sent.id])
    sender.completes(sent)
    assert sender.end(sent.id).how is How.SUCCEEDED
    assert {o.reason for o in sender.of(sent.id) if isinstance(o, Waiting)} == {Reason.POD_PENDING}
    assert harness.api.logs(name) == PAYLOAD


def test_a_secret_that_comes_late_delays_its_pod_by_kubelets_next_try(
    harness: ClusterHarness, sender: Sender
) -> None:
    sent = shell(harness, f"cat {PATH}")
    name = orphan(harness, sent)
    time.sleep(LATE_S)
    begun = time.monotonic()
    harness.backend.adopt([sent.id])
    sender.completes(sent)
    assert sender.end(sent.id).how is How.SUCCEEDED
    # The tries lie 0.5, 1, 2 and 4 s apart: the next is at most 4 s away, and a pod takes one or two, or more
    # on a busy machine. The longest that a kubelet waits between tries is two minutes.
    assert time.monotonic() - begun < 30
    assert harness.api.logs(name) == PAYLOAD


def test_a_pod_on_a_node_whose_secret_is_refused_goes_and_comes_back_under_its_name(
    harness: ClusterHarness, sender: Sender
) -> None:
    """Kubelet calls a pod that is deleted before it has a container failed, with exit code 137."""
    quota(harness, secrets="0")
    sent = shell(harness, f"cat {PATH}")
    sender.send(sent)
    wait = sender.waits(sent, Reason.QUOTA)
    assert "the Secret of the workload was refused: " in wait.message
    sender.until(
        lambda: any(isinstance(o, Waiting) and o.retry_after_s is not None for o in sender.of(sent.id)),
        "being let go",
    )
    assert not [o for o in sender.of(sent.id) if isinstance(o, Accepted | Ended | Rejected)]
    quota(harness, secrets="9")
    assert sender.end(sent.id).how is How.SUCCEEDED


def test_a_secret_of_the_name_that_is_there_is_made_the_pods_own(
    harness: ClusterHarness, sender: Sender
) -> None:
    sent = shell(harness, f"cat {PATH}")
    name = harness.make_pod(sent)["metadata"]["name"]
    harness.api.make("secrets", {"metadata": {"name": name}, "stringData": {FILE: "a stranger's"}})
    sender.send(sent)
    assert sender.end(sent.id).how is How.SUCCEEDED
    found = secret(harness, name)
    assert found is not None
    assert found["metadata"]["ownerReferences"][0]["uid"] == harness.pod(sent.id)["metadata"]["uid"]
    assert harness.api.logs(name) == PAYLOAD
