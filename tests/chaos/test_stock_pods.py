"""Each way in which a pod of an image without this package may come a second time: its task runs once.

An API server that is set back to an old copy of its data has pods again that
had ended; and whoever may, can copy one. The scheduler is away meanwhile, so
that nobody but Airflow's Execution API is asked. As in ``test_fence``, which
does the same to messages, executions are lines that tasks write. CI has one of
them, ``make chaos`` all.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from hybrid_executor.naming import LABEL_DONE
from tests.chaos.scene import Scene
from tests.chaos.test_fence import check, outcomes
from tests.fixtures.stack import wait_until

#: The first of them may have to install the environment.
pytestmark = pytest.mark.timeout(600)

DAG = "stock_pod"
#: What a second copy of an object has of the first.
KEPT = ("name", "labels", "annotations")


@dataclass(frozen=True)
class Copy:
    """A pod with its Secret, as a backup of the cluster has them."""

    pod: dict[str, Any]
    secret: dict[str, Any]

    def renamed(self, name: str) -> "Copy":
        """The pod by another name; it reads the same Secret."""
        return Copy(self.pod | {"metadata": self.pod["metadata"] | {"name": name}}, self.secret)


@dataclass
class Cluster:
    """What an administrator of the cluster does."""

    scene: Scene
    core: kubernetes.client.CoreV1Api

    def copy(self, run_id: str) -> Copy:
        """Of the one pod of a run, as soon as its Secret is there."""
        namespace = self.scene.stack.namespace

        def names() -> list[str]:
            made = {one.metadata.name for one in self.core.list_namespaced_secret(namespace).items}
            return [name for name in self.scene.pods(run_id) if name in made]

        wait_until(lambda: bool(names()), 90, lambda: f"no pod: {self.scene.pods(run_id)}")
        [name] = names()
        pod = self._read(self.core.read_namespaced_pod, name)
        pod["spec"].pop("nodeName", None)
        return Copy(pod, self._read(self.core.read_namespaced_secret, name))

    def bring(self, copy: Copy) -> str:
        """Make the pod again, and its Secret if that is gone; the pod's name."""
        namespace, name = self.scene.stack.namespace, copy.pod["metadata"]["name"]
        present = {one.metadata.name for one in self.core.list_namespaced_secret(namespace).items}
        if copy.secret["metadata"]["name"] not in present:
            self.core.create_namespaced_secret(namespace, copy.secret)
        self.core.create_namespaced_pod(namespace, copy.pod)
        return str(name)

    def wait_refused(self, name: str, reason: str = "invalid_state") -> None:
        """Wait until its process has ended, and see for what reason the Execution API did not let it run."""
        namespace = self.scene.stack.namespace

        def phase() -> str:
            return str(self.core.read_namespaced_pod(name, namespace).status.phase)

        wait_until(lambda: phase() in ("Failed", "Succeeded"), 90, lambda: f"{name} is {phase()}")
        log = self.core.read_namespaced_pod_log(name, namespace)
        assert "Server error detail" in log, log
        assert f"'reason': '{reason}'" in log.replace("\\'", "'"), log

    def remove_kept(self, name: str) -> None:
        """Wait until the scheduler has put it by, as each that failed is, for people; then do as they do."""
        namespace = self.scene.stack.namespace

        def is_kept() -> bool:
            return LABEL_DONE in self.core.read_namespaced_pod(name, namespace).metadata.labels

        wait_until(is_kept, 90, lambda: f"the scheduler has not looked at {name}")
        self.scene.delete_at_once(name)

    @contextmanager
    def without(self, service: str) -> Iterator[None]:
        """The scheduler or the node is away."""
        self.scene.stack.kill(service, hold=True)
        try:
            yield
        finally:
            self.scene.stack.restart(service)
            self.scene.stack.wait_healthy(90)

    def _read(self, read: Any, name: str) -> dict[str, Any]:
        answer = read(name, self.scene.stack.namespace, _preload_content=False)
        found: dict[str, Any] = json.loads(answer.data)
        found["metadata"] = {key: found["metadata"][key] for key in KEPT if key in found["metadata"]}
        found.pop("status", None)
        return found


@pytest.fixture(scope="module")
def stock_dag(chaos_stack: Scene, stock_python: Path) -> None:
    """Its pods find the interpreter."""
    (chaos_stack.stack.stack.setup.data / "stock").symlink_to(stock_python.parents[1])


@pytest.fixture
def cluster(scene: Scene, stock_dag: None) -> Iterator[Cluster]:
    with kubernetes.config.new_client_from_config(str(scene.stack.kubeconfig)) as client:
        yield Cluster(scene, kubernetes.client.CoreV1Api(client))


def begun(scene: Scene, run: str, try_number: int = 1) -> None:
    """Wait until its process shows that it lives."""
    wait_until(lambda: scene.lives(run, try_number), 90, lambda: f"it does not run: {scene.pods(run)}")


def test_a_stock_pod_that_comes_back_after_its_end_is_refused_and_fails_nothing(
    scene: Scene, cluster: Cluster
) -> None:
    run = scene.stack.trigger(DAG)
    begun(scene, run)
    copy = cluster.copy(run)
    scene.let_go(run, 1)
    check(scene, DAG, run, "heavy", executions=1)
    with cluster.without("scheduler"):
        name = cluster.bring(copy)
        cluster.wait_refused(name)
    cluster.remove_kept(name)
    check(scene, DAG, run, "heavy", executions=1)
    assert outcomes(scene, run) == [(1, "succeeded")]
    # And while the task runs again.
    scene.clear_task(DAG, run, "heavy")
    begun(scene, run, 2)
    with cluster.without("scheduler"):
        name = cluster.bring(copy)
        # A cleared task instance has another id, and the former pod's is known no more.
        cluster.wait_refused(name, "not_found")
    cluster.remove_kept(name)
    begun(scene, run, 2)
    scene.let_go(run, 2)
    check(scene, DAG, run, "heavy", executions=2)
    assert outcomes(scene, run) == [(1, "succeeded"), (1, "succeeded")]


def test_a_copy_of_a_running_stock_pod_is_turned_away(scene: Scene, cluster: Cluster) -> None:
    """The scheduler is there: the copy bears the attempt's labels, and its end is not the attempt's."""
    run = scene.stack.trigger(DAG)
    begun(scene, run)
    copy = cluster.copy(run).renamed("a-copy")
    cluster.wait_refused(cluster.bring(copy))
    begun(scene, run)
    scene.delete_at_once("a-copy")
    scene.let_go(run, 1)
    check(scene, DAG, run, "heavy", executions=1)
    assert outcomes(scene, run) == [(1, "succeeded")]


def test_a_lost_stock_pod_that_comes_back_beside_its_second_submission_is_refused(
    scene: Scene, cluster: Cluster
) -> None:
    with cluster.without("runner"):
        run = scene.stack.trigger(DAG)
        first = cluster.copy(run)
        name = first.pod["metadata"]["name"]
        scene.delete_at_once(name)
        wait_until(
            lambda: bool(scene.pods(run)) and name not in scene.pods(run), 60, lambda: f"{scene.pods(run)}"
        )
    begun(scene, run)
    with cluster.without("scheduler"):
        cluster.wait_refused(cluster.bring(first))
    cluster.remove_kept(name)
    begun(scene, run)
    scene.let_go(run, 1)
    check(scene, DAG, run, "heavy", executions=1)
    assert outcomes(scene, run) == [(1, "replaced"), (2, "succeeded")]


def test_a_task_that_an_older_attempts_pod_has_begun_goes_on_in_it_and_is_no_failure(
    scene: Scene, cluster: Cluster
) -> None:
    """Of an API server set back to old data: the pod of the first look is there, that of the second is not.

    A rescheduled task keeps its id and try, so Airflow lets the older pod start it.
    """
    stack = scene.stack
    run = stack.trigger("stock_sensing")
    older = cluster.copy(run)
    # There is no second look before the node is away.
    scene.pause("stock_sensing")
    wait_until(lambda: outcomes(scene, run) == [(1, "succeeded")], 90, lambda: f"{outcomes(scene, run)}")
    wait_until(lambda: not scene.pods(run), 30, lambda: f"{scene.pods(run)}")
    stack.kill("runner", hold=True)
    scene.pause("stock_sensing", paused=False)
    newer = cluster.copy(run).pod["metadata"]["name"]
    stack.kill("scheduler", hold=True)
    scene.delete_at_once(newer)
    assert cluster.bring(older) != newer
    stack.restart("runner")
    begun(scene, run)
    stack.restart("scheduler")
    stack.wait_healthy(90)
    wait_until(
        lambda: "mismatch=RunsElsewhere" in stack.log("scheduler"), 90, lambda: stack.log("scheduler")[-3000:]
    )
    scene.let_go(run, 1)
    check(scene, "stock_sensing", run, "look", executions=2)
    assert outcomes(scene, run) == [(1, "succeeded"), (1, "succeeded")]
