"""Pods of Celery workers on a real control plane: seen to come, leave and go, and chosen by their cost."""

from typing import Any

import pytest

from hybrid_executor.model.worker import WorkerState
from hybrid_executor.naming import LABEL_DEPLOYMENT, LABEL_POOL
from tests.cluster.backend import ClusterHarness, HarnessMaker
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.fixtures.kube import until

PATIENCE_S = 60.0


class Pool:
    """A Deployment of workers that do nothing, as ``ports.Workers`` shows it."""

    def __init__(self, harness: ClusterHarness, replicas: int) -> None:
        workers = harness.backend.workers
        assert workers is not None
        self.workers, self._harness = workers, harness
        self.told: list[tuple[str, WorkerState]] = []
        self._create(replicas)
        until(lambda: len(self.ready()) == replicas, "the workers never came up", PATIENCE_S)
        until(lambda: self.seen().keys() == self.ready(), "the workers are not seen", PATIENCE_S)

    def _create(self, replicas: int) -> None:
        labels = {LABEL_POOL: "light", LABEL_DEPLOYMENT: self._deployment}
        worker = {"name": "worker", "image": "none", "command": ["sh", "-c", "sleep 600"]}
        template = {
            "metadata": {"labels": labels},
            "spec": {"containers": [worker], "terminationGracePeriodSeconds": 1},
        }
        body: dict[str, Any] = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "light"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
        }
        path = f"/apis/apps/v1/namespaces/{self._harness.namespace}/deployments"
        code, answer = self._harness.plane.request("POST", path, body)
        assert code == 201, answer

    @property
    def _deployment(self) -> str:
        return self._harness.config.deployment

    def ready(self) -> set[str]:
        """Living ones: whoever is not ready goes before anybody's cost is looked at."""
        return {
            pod["metadata"]["name"]
            for pod in self._harness.pods("hybrid-executor/pool")
            if not pod["metadata"].get("deletionTimestamp")
            and any(
                c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ())
            )
        }

    def seen(self) -> dict[str, int]:
        """What the living ones cost."""
        self.told += [(pod.name, pod.state) for pod in self.workers.poll()]
        pods = (self.workers.pods or {}).values()
        return {pod.name: pod.deletion_cost for pod in pods if pod.state is WorkerState.LIVE}

    def scale(self, replicas: int) -> None:
        self._harness.api.kubectl("scale", "deployment", "light", f"--replicas={replicas}")


def _stand(pod: dict[str, Any]) -> list[dict[str, str]]:
    conditions = pod["status"].get("conditions", ())
    return [{"type": condition["type"], "status": condition["status"]} for condition in conditions]


@pytest.fixture
def pool(
    plane: ControlPlane,
    namespace: str,
    runner: RunnerNode,
    start_harness: HarnessMaker,
) -> Pool:
    return Pool(start_harness(plane, namespace, workers_namespace=namespace), 4)


def test_a_scale_in_takes_the_idle_workers_and_is_told_of_each_af26587(pool: Pool) -> None:
    *busy, idle, other = sorted(pool.seen())
    for round_of, replicas in ((idle, 3), (other, 2)):
        living = sorted(pool.seen())
        costs = {name: 0 if name == round_of else 2 for name in living}
        pool.workers.mark({name: cost for name, cost in costs.items() if pool.seen()[name] != cost})
        until(lambda costs=costs: pool.seen() == costs, "the costs are not set", PATIENCE_S)
        pool.scale(replicas)
        until(
            lambda name=round_of: pool.seen() and (name, WorkerState.GONE) in pool.told,
            "it did not go",
            PATIENCE_S,
        )
        assert (round_of, WorkerState.LEAVING) in pool.told
    assert sorted(pool.seen()) == busy
    gone = [name for name, state in pool.told if state is WorkerState.GONE]
    assert gone == [idle, other]
