"""Pods are read for people, and what ended long ago is told from what lives."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.model.attempt import SubmissionId, TaskAddress
from hybrid_executor.naming import LABEL_ATTEMPT, LABEL_DONE, LABEL_OWNER, LABEL_SUBMISSION
from hybrid_executor.pods.diagnosis import PodPhase
from hybrid_executor.pods.inventory import is_old, summarise

CREATED = "2026-11-21T10:00:00Z"
NOW = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)


def pod(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    labels = {LABEL_ATTEMPT: "a-b", LABEL_SUBMISSION: "2", LABEL_OWNER: "42", "dag_id": "short"}
    annotations = {"dag_id": "long dag", "task_id": "t", "run_id": "r+1", "map_index": "3", "try_number": "2"}
    meta = {"name": "p", "namespace": "ns", "uid": "u", "creationTimestamp": CREATED}
    return {
        "metadata": meta | {"labels": labels, "annotations": annotations} | metadata,
        "spec": {"nodeName": "n1", "containers": [{"name": "base"}, {"name": "proxy"}]},
        "status": status,
    }


def ended(name: str, at: str | None, code: int = 0) -> dict[str, Any]:
    state = {"exitCode": code} | ({"finishedAt": at} if at else {})
    return {"name": name, "state": {"terminated": state}}


def test_a_pod_names_its_task_as_its_annotations_do() -> None:
    summary = summarise(pod({"phase": "Running", "containerStatuses": [{"name": "base", "state": {}}]}))
    assert summary.address == TaskAddress(
        dag_id="long dag", task_id="t", run_id="r+1", map_index=3, try_number=2
    )
    assert summary.submission == SubmissionId("a-b", 2)
    assert (summary.owner, summary.node, summary.container) == ("42", "n1", "base")


def test_labels_name_the_task_where_a_hook_took_the_annotations() -> None:
    bare = pod({"phase": "Pending"}, annotations=None, labels={"dag_id": "d", "task_id": "t"})
    assert summarise(bare).address == TaskAddress(dag_id="d", task_id="t", run_id="")
    assert summarise(pod({"phase": "Pending"}, annotations=None, labels=None)).address is None


def test_the_reason_is_that_of_the_diagnosis() -> None:
    state = {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    waiting = {"phase": "Pending", "containerStatuses": [{"name": "base", "state": state}]}
    summary = summarise(pod(waiting))
    assert (summary.phase, summary.reason) == (
        PodPhase.PENDING,
        "ImagePull: container base: ErrImagePull: no such image",
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        # The task's own container, though a sidecar went on.
        (
            {
                "phase": "Running",
                "containerStatuses": [
                    ended("base", "2026-11-21T11:00:00Z"),
                    ended("proxy", "2026-11-21T12:00:00Z"),
                ],
            },
            "11:00",
        ),
        # An init container failed, so the task's never was.
        ({"phase": "Failed", "initContainerStatuses": [ended("get", "2026-11-21T11:30:00Z", 1)]}, "11:30"),
        # Evicted: no container tells.
        (
            {
                "phase": "Failed",
                "reason": "Evicted",
                "conditions": [{"type": "Ready", "lastTransitionTime": "2026-11-21T13:00:00Z"}],
            },
            "13:00",
        ),
        ({"phase": "Failed", "reason": "Evicted"}, "10:00"),
        ({"phase": "Failed", "containerStatuses": [ended("base", "nonsense", 1)]}, "10:00"),
        ({"phase": "Running", "containerStatuses": [{"name": "base", "state": {"running": {}}}]}, None),
        ({"phase": "Pending"}, None),
    ],
)
def test_the_time_of_the_end_is_the_tasks_own_where_it_is_told(
    status: dict[str, Any], expected: str | None
) -> None:
    at = summarise(pod(status)).ended_at
    assert (f"{at:%H:%M}" if at else None) == expected


def test_age_counts_from_the_end_and_not_from_the_creation() -> None:
    summary = summarise(
        pod({"phase": "Failed", "containerStatuses": [ended("base", "2026-11-21T21:00:00Z")]})
    )
    assert is_old(summary, NOW, timedelta(hours=1))
    assert not is_old(summary, NOW, timedelta(hours=2))
    assert not is_old(summarise(pod({"phase": "Running"})), NOW, timedelta(0))


def test_a_kept_and_a_leaving_pod_are_told() -> None:
    kept = summarise(pod({"phase": "Failed"}, labels={LABEL_DONE: "True"}, deletionTimestamp=CREATED))
    assert kept.done
    assert kept.deleting


@given(st.text(), st.text(), st.text())
def test_whatever_stands_in_annotations_is_read(map_index: str, try_number: str, created: str) -> None:
    annotations = {"dag_id": "d", "task_id": "t", "map_index": map_index, "try_number": try_number}
    summary = summarise(pod({}, annotations=annotations, creationTimestamp=created))
    assert summary.address is not None
    assert summary.ended_at is None
