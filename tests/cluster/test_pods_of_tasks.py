"""Results of pods that tasks start, by containers of real images, with the product's Role for it alone.

The pods are in a namespace of their own, as the guide advises: ``dags/start_pods.py``, which needs
no results, runs on every cluster (``test_examples.py``).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes.stream import stream

from hybrid_executor.standalone.stack.environment import POD_CONNECTION
from tests.cluster.access import RBAC
from tests.cluster.airflow_pods import stack_with_images
from tests.cluster.audit import Audit
from tests.cluster.backend import role_rules
from tests.cluster.kubelet import images
from tests.cluster.kubelet.node import KubeletNode, running_cluster
from tests.cluster.plane import ControlPlane
from tests.cluster.pods import Pods
from tests.e2e.examples import Run
from tests.fixtures.podwatch import PodWatch, watched_pods
from tests.fixtures.stack import RunningStack, wait_until

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("kubelet")]

DAGS = Path(__file__).parent / "dags"
WORK, ACCOUNT = "work", "starter"
EXEC = ["pods/exec"]
CREATE_EXEC = ("create", "pods", "exec")
SUM = {"sum": 6}
RESULTS = {name: {"by": name} for name in ("worker", "worker_deferred", "pod_deferred", "account")} | {
    "function_worker": SUM,
    "function_pod": SUM,
}


@dataclass
class Scene:
    """One run of each DAG, the pods that were seen where they are started, and who asked for what."""

    stack: RunningStack
    results: Run
    fails: Run
    waits: Run
    pods: PodWatch
    audit: Audit
    plane: ControlPlane


@pytest.fixture(scope="module")
def scene(node_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("pods-of-tasks")
    audit = Audit(folder, ["pods", "pods/*", "events"])
    with running_cluster(folder / "cluster", airflow=True, apiserver_flags=audit.flags) as node:
        kubeconfig = make_account(node.plane)
        with (
            stack_with_images(node, folder / "stack", DAGS, connections(kubeconfig)) as stack,
            watched_pods(node.plane.admin, WORK) as pods,
        ):
            let_account_start_pods(node, stack.namespace)
            ids = {dag: stack.trigger(dag) for dag in ("results", "fails", "waits")}
            runs = {dag: Run(stack, dag, run, stack.wait_run(dag, run, 400)) for dag, run in ids.items()}
            yield Scene(stack, **runs, pods=pods, audit=audit, plane=node.plane)


def make_account(plane: ControlPlane) -> Path:
    """An account that may start pods in a namespace of its own, and its kubeconfig."""
    plane.make_namespace(WORK)
    meta = {"name": ACCOUNT, "namespace": WORK}
    rules = role_rules("pod-starter")
    plane.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        binding([{"kind": "ServiceAccount", **meta}]),
    )
    return plane.account_kubeconfig(ACCOUNT, WORK)


def binding(subjects: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": ACCOUNT, "namespace": WORK},
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": ACCOUNT},
        "subjects": subjects,
    }


def let_account_start_pods(node: KubeletNode, namespace: str) -> None:
    """An account of that name for task pods too, which are elsewhere."""
    meta = {"name": ACCOUNT, "namespace": namespace}
    accounts = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": at} for at in (WORK, namespace)]
    node.plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}, binding(accounts))


def connections(kubeconfig: Path) -> dict[str, str]:
    """One that reaches the cluster from anywhere, and one for whoever has an account there."""
    common = {"namespace": WORK, "xcom_sidecar_container_image": images.TINY}
    extras = {
        POD_CONNECTION: common | {"kube_config": kubeconfig.read_text()},
        "AIRFLOW_CONN_OWN_ACCOUNT": common | {"in_cluster": True},
    }
    return {name: json.dumps({"conn_type": "kubernetes", "extra": extra}) for name, extra in extras.items()}


def test_every_task_has_the_result_of_its_pod(scene: Scene) -> None:
    assert scene.results.states == dict.fromkeys(RESULTS, "success"), scene.pods.pods
    assert {task: scene.results.result(task) for task in RESULTS} == RESULTS


def test_the_ledger_says_where_each_starter_ran_and_how_often(scene: Scene) -> None:
    assert backends(scene.results) == {
        "worker": ["celery"],
        "worker_deferred": ["celery", "celery"],
        "pod_deferred": ["kubernetes", "kubernetes"],
        "account": ["kubernetes"],
        "function_worker": ["celery"],
        "function_pod": ["kubernetes"],
    }


def test_a_sensor_that_defers_goes_on_where_it_began(scene: Scene) -> None:
    assert scene.waits.states == {"worker": "success", "pod": "success"}
    assert backends(scene.waits) == {"worker": ["celery"] * 2, "pod": ["kubernetes"] * 2}


def backends(run: Run) -> dict[str, list[str]]:
    """Those of each task's attempts."""
    return {task: [row.backend for row in rows] for task, rows in run.submissions().items()}


def test_a_pod_that_fails_fails_its_task_and_goes(scene: Scene) -> None:
    assert scene.fails.states == {"fails": "failed"}
    [name] = scene.pods.started_by(scene.fails.run_id, "fails")
    wait_until(lambda: name in scene.pods.deleted, 60, lambda: f"{name} stays")


def test_one_that_its_operator_keeps_is_kept(scene: Scene) -> None:
    """The executor, which tidies its own, has no hand in it: nor has it a right there."""
    [kept] = scene.pods.started_by(scene.results.run_id, "account")
    others = {name for name in scene.pods.pods if name != kept}
    wait_until(lambda: others <= scene.pods.deleted, 60, lambda: f"left: {others - scene.pods.deleted}")
    assert scene.pods.living() == {kept}


def test_every_right_of_the_role_is_used_and_none_is_missing(scene: Scene) -> None:
    users = [f"system:serviceaccount:{at}:{ACCOUNT}" for at in (WORK, scene.stack.namespace)]
    granted = {
        (verb, kind, sub)
        for rule in role_rules("pod-starter")
        for verb in rule["verbs"]
        for kind, _, sub in (resource.partition("/") for resource in rule["resources"])
    }
    assert [scene.audit.denied(user) for user in users] == [set(), set()]
    # It is asked for beside ``get``, and the audit does not say so.
    assert set().union(*map(scene.audit.used, users)) == granted - {CREATE_EXEC}


@pytest.mark.parametrize(("lacking", "code"), [("create", 403), ("get", 403), ("", 400)])
def test_to_read_a_result_takes_both_verbs(
    plane: ControlPlane, namespace: str, lacking: str, code: int
) -> None:
    """An API server of 1.35 or newer asks for ``create`` too; its answer to a pod without a node is 400."""
    Pods(plane, namespace).run("waits", nodeSelector={"no": "node"})
    rules = [
        rule | {"verbs": [verb for verb in rule["verbs"] if verb != lacking or rule["resources"] != EXEC]}
        for rule in role_rules("pod-starter")
    ]
    kubeconfig = plane.role_kubeconfig(f"exec-in-{namespace}", rules, namespace)
    with kubernetes.config.new_client_from_config(str(kubeconfig)) as client:
        ask = kubernetes.client.CoreV1Api(client).connect_get_namespaced_pod_exec
        # The client may lose the words of a refusal, and raise an error of its own about that.
        with pytest.raises((kubernetes.client.ApiException, AttributeError)) as refused:
            stream(ask, "waits", namespace, container="base", command=["true"], stdout=True)
    assert f"Handshake status {code}" in f"{refused.value} {refused.value.__context__}"
