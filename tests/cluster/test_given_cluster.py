"""``hybrid-executor standalone --kubeconfig``: the demo on a real control plane whose node is the runner."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hybrid_executor.standalone.stack.cluster import LABEL, ClusterUnusable, GivenCluster
from tests.cluster.access import KubectlFailed
from tests.cluster.plane import ControlPlane
from tests.cluster.pods import Pods
from tests.cluster.runner_node import RunnerNode
from tests.fixtures.node import shell_pod

AIRFLOW = "http://127.0.0.1:8080"


def labelled(name: str, value: str) -> dict[str, Any]:
    return shell_pod(name, "sleep 600", metadata={"labels": {LABEL: value}})


def test_the_demo_runs_its_examples_in_pods_of_the_cluster_that_it_is_given(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    new = f"{namespace}-demo"
    command = [sys.executable, "-m", "hybrid_executor.cli.main", "standalone", "--once"]
    command += ["--state", str(tmp_path / "demo"), "--kubeconfig", str(plane.admin), "--namespace", new]
    with RunnerNode.started(plane):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "every task succeeded on the backend that its queue asks for" in done.stdout
        assert f"namespace {new}" in done.stdout
        pods = Pods(plane, new)
        events = plane.request("GET", f"/api/v1/namespaces/{new}/events")[1]["items"]
        bound = [e for e in events if e["reason"] == "Scheduled"]
        assert len(bound) >= 6
        assert {e["source"].get("component") or e["reportingComponent"] for e in bound} == {
            "default-scheduler"
        }
        pods.until(lambda: not pods.all(), "pods of the demo are left")
    plane.kubectl("delete", "namespace", new, "--wait=false")


def test_a_namespace_is_made_or_taken_as_it_is(plane: ControlPlane, namespace: str) -> None:
    new = GivenCluster(plane.admin, f"{namespace}-new", "x")
    assert f"namespace {namespace}-new" in new.prepare()
    assert plane.url in new.prepare()
    assert Pods(plane, f"{namespace}-new").make("pods", shell_pod("p"))
    plane.kubectl("delete", "namespace", f"{namespace}-new", "--wait=false")


def test_what_is_left_of_a_stack_is_deleted_and_nothing_else(plane: ControlPlane, namespace: str) -> None:
    pods = Pods(plane, namespace)
    for body in (labelled("ours", "one"), labelled("anothers", "two"), shell_pod("plain")):
        pods.make("pods", body)
    assert GivenCluster(plane.admin, namespace, "one").clear() == []
    pods.gone("ours")
    assert {pod["metadata"]["name"] for pod in pods.all()} == {"anothers", "plain"}


def test_a_node_that_is_none_of_processes_is_doubted(plane: ControlPlane) -> None:
    given = GivenCluster(plane.admin, "default", "x")
    assert given.doubts(AIRFLOW) == ["it has no node: pods will wait"]
    with RunnerNode.started(plane, "real"):
        assert given.doubts(AIRFLOW) == []
        node = {"metadata": {"name": "foreign"}}
        assert plane.request("POST", "/api/v1/nodes", node)[0] == 201
        [doubt] = given.doubts(AIRFLOW)
        assert doubt.startswith("foreign: not a node of processes")
        assert AIRFLOW in doubt
        plane.kubectl("delete", "node", "foreign")


def test_a_user_of_one_namespace_needs_no_right_to_make_it(plane: ControlPlane, namespace: str) -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["deletecollection"]}]
    given = GivenCluster(plane.role_kubeconfig("small", rules, namespace), namespace, "one")
    given.prepare()
    [doubt] = given.doubts(AIRFLOW)
    assert doubt.startswith("its nodes can't be seen: 403")
    assert given.clear() == []
    with pytest.raises(KubectlFailed, match="forbidden"):
        plane.kubectl("get", "pods", f"--namespace={namespace}", kubeconfig=given.kubeconfig)


def test_a_cluster_that_cannot_be_used_is_named_with_the_reason(plane: ControlPlane, tmp_path: Path) -> None:
    nobody = tmp_path / "kubeconfig"
    nobody.write_text(plane.admin.read_text().replace(plane.url, "https://127.0.0.1:9"))
    with pytest.raises(ClusterUnusable, match=r"can't be used: .*refused") as unreachable:
        GivenCluster(nobody, "default", "x").prepare()
    assert str(unreachable.value).startswith(str(nobody))
    [left] = GivenCluster(nobody, "default", "x").clear()
    assert "still holds pods of this stack" in left
    nobody.write_text("no: kubeconfig")
    with pytest.raises(ClusterUnusable, match="can't be used"):
        GivenCluster(nobody, "default", "x").prepare()
