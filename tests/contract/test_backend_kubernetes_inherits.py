"""Pods of the stock executor: taken over by the id of their workload, and no pod of another Airflow."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import Ended, How, Started
from hybrid_executor.naming import LABEL_ATTEMPT, LABEL_DEPLOYMENT, LABEL_OWNER
from tests.contract.backend_suite import Fate, Heard
from tests.fixtures.kube import Kube, until
from tests.fixtures.pod_backends import PATIENT
from tests.fixtures.puppet import PODS, KubernetesHarness


@pytest.fixture
def harness(kube: Kube) -> Iterator[KubernetesHarness]:
    made = KubernetesHarness(kube, watch=PATIENT)
    yield made
    made.close()


def names(harness: KubernetesHarness) -> set[str]:
    return {pod["metadata"]["name"] for pod in harness.pods()}


def put(harness: KubernetesHarness, fate: Fate) -> tuple[Submission, str]:
    """A stock pod: the submission as which it is to be taken over, and its name."""
    sent = harness.submission(fate)
    pod = harness.stock_pod(sent)
    harness.post(pod)
    return sent, pod["metadata"]["name"]


def test_an_inherited_pod_bears_our_labels_and_is_disposed_of_like_any_other(
    harness: KubernetesHarness,
) -> None:
    sent, name = put(harness, Fate.BLOCKS)
    heard = Heard(harness)
    harness.backend.inherit({sent.id: sent.attempt.workload_id})
    heard.until_kind(Started, [sent.id])
    [pod] = harness.pods_of(sent.id)
    assert pod["metadata"]["name"] == name
    assert pod["metadata"]["labels"][LABEL_OWNER] == harness.owner
    assert pod["metadata"]["labels"][LABEL_DEPLOYMENT] == harness.config.deployment
    harness.finish(sent.id)
    heard.end(sent.id)
    harness.backend.release([sent.id])
    until(lambda: names(harness) == set(), "the pod stays")


def test_a_namesake_in_another_airflow_is_left_alone(harness: KubernetesHarness) -> None:
    """Job ids, DAG and task are the same in both; the task instance's id is not."""
    sent, _ = put(harness, Fate.BLOCKS)
    stranger, left = put(harness, Fate.BLOCKS)
    heard = Heard(harness)
    harness.backend.inherit({sent.id: sent.attempt.workload_id}, unwanted=[str(uuid4())])
    heard.until_kind(Started, [sent.id])
    heard.silence([stranger.id])
    [pod] = [pod for pod in harness.pods() if pod["metadata"]["name"] == left]
    assert LABEL_ATTEMPT not in pod["metadata"]["labels"]
    assert pod["metadata"]["labels"][LABEL_OWNER] == "7"


def test_what_nobody_wants_any_more_is_deleted_without_a_word(harness: KubernetesHarness) -> None:
    sent, name = put(harness, Fate.PENDS)
    heard = Heard(harness)
    harness.backend.inherit({}, unwanted=[sent.attempt.workload_id])
    until(lambda: name not in names(harness), "the pod stays")
    heard.silence([sent.id])


def test_what_left_no_pod_is_not_called_ended(harness: KubernetesHarness) -> None:
    """Its process may run where this backend does not look: the task's own heartbeat decides."""
    missing = harness.submission(Fate.BLOCKS)
    sent, _ = put(harness, Fate.SUCCEEDS)
    heard = Heard(harness)
    harness.backend.inherit({s.id: s.attempt.workload_id for s in (missing, sent)})
    assert heard.end(sent.id).how is How.SUCCEEDED
    heard.silence([missing.id])
    assert not [o for o in heard.of(missing.id) if isinstance(o, Ended)]


def test_a_pod_is_known_by_its_annotation_where_it_has_no_readable_payload(
    harness: KubernetesHarness,
) -> None:
    sent = harness.submission(Fate.BLOCKS)
    pod = harness.stock_pod(sent)
    pod["spec"]["containers"][0]["args"] = ["--json-path", "/workload.json"]
    pod["metadata"]["annotations"] |= {"task_instance_id": sent.attempt.workload_id}
    harness.post(pod)
    harness.backend.inherit({sent.id: sent.attempt.workload_id})
    Heard(harness).until_kind(Started, [sent.id])


def test_one_list_finds_however_many(harness: KubernetesHarness) -> None:
    sent = [put(harness, Fate.BLOCKS)[0] for _ in range(12)]
    heard = Heard(harness)
    # Its watch begins with a list.
    until(harness.kube.open_watches, "no watch was opened")
    before = harness.kube.count("list", path=PODS)
    harness.backend.inherit({s.id: s.attempt.workload_id for s in sent})
    heard.until_kind(Started, [s.id for s in sent])
    assert harness.kube.count("list", path=PODS) == before + 1
