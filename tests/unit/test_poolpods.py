"""The pods of Celery workers, out of lists and events of an API server."""

from datetime import UTC, datetime
from typing import Any

import pytest

from hybrid_executor.backends.kubernetes.poolpods import DELETION_COST, PoolPods, worker_pod
from hybrid_executor.model.worker import WorkerState

CREATED, RESTARTED = "2026-11-22T04:00:00Z", "2026-11-22T05:00:00Z"


def manifest(name: str = "light-1", *, cost: str | None = None, **status: Any) -> dict[str, Any]:
    leaves = {"deletionTimestamp": RESTARTED} if status.pop("leaves", False) else {}
    return {
        "metadata": {
            "name": name,
            "labels": {"hybrid-executor/pool": "light"},
            "annotations": {DELETION_COST: cost} if cost else None,
            "creationTimestamp": CREATED,
            **leaves,
        },
        "status": {"phase": "Running", **status},
    }


def container(name: str, restarts: int) -> dict[str, Any]:
    return {"name": name, "restartCount": restarts, "state": {"running": {"startedAt": RESTARTED}}}


@pytest.mark.parametrize(
    ("pod", "state"),
    [
        (manifest(), WorkerState.LIVE),
        (manifest(leaves=True), WorkerState.LEAVING),
        (manifest(phase="Failed"), WorkerState.GONE),
        (manifest(phase="Succeeded", leaves=True), WorkerState.GONE),
    ],
)
def test_a_pod_is_live_leaves_or_is_gone(pod: dict[str, Any], state: WorkerState) -> None:
    assert worker_pod(pod).state is state


@pytest.mark.parametrize(("cost", "number"), [(None, 0), ("7", 7), ("-3", -3), ("much", 0)])
def test_a_cost_is_what_kubernetes_takes_it_for(cost: str | None, number: int) -> None:
    assert worker_pod(manifest(cost=cost)).deletion_cost == number


@pytest.mark.parametrize(
    ("statuses", "began"),
    [
        ([], 4),
        ([container("worker", 0)], 4),
        ([container("worker", 1)], 5),
        ([container("any", 1)], 5),
        ([container("worker", 0), container("log-groomer", 3)], 4),
        ([container("log-groomer", 0), container("worker", 2)], 5),
    ],
)
def test_a_worker_began_with_its_pod_or_when_its_own_container_was_started_again(
    statuses: list[dict[str, Any]], began: int
) -> None:
    seen = worker_pod(manifest(containerStatuses=statuses))
    assert seen.began_at == datetime(2026, 11, 22, began, tzinfo=UTC)


def test_a_list_tells_who_has_gone_while_nobody_watched_and_repeats_nothing() -> None:
    pods = PoolPods("airflow", lambda call: call())
    assert pods.pods is None
    pods.listing(None, 0.0)
    pods.changed(manifest("light-1"))
    pods.changed(manifest("light-2"))
    assert pods.pods is None, "the list is not complete"
    pods.listed(None)
    pods.changed(manifest("light-2"))
    assert [(p.name, p.state) for p in pods.poll()] == [("light-1", "live"), ("light-2", "live")]
    pods.listing(None, 1.0)
    pods.changed(manifest("light-2", leaves=True))
    pods.listed(None)
    assert [(p.name, p.state) for p in pods.poll()] == [("light-2", "leaving"), ("light-1", "gone")]
    pods.removed(manifest("light-2", leaves=True))
    pods.removed(manifest("light-2"))
    assert [(p.name, p.state) for p in pods.poll()] == [("light-2", "gone")]
    assert pods.pods == {}
