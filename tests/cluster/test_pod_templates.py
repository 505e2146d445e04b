"""The starter templates on a real cluster: each is admitted where Pod Security ``restricted`` is enforced.

Three of them run a task in the Airflow image on a kubelet's node, with what a
site changes in them laid over by its routes: where DAGs come in the image, on
a claim, and where the pod can write next to nothing.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid_executor.backends.kubernetes.podgenerator import PodMaker
from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.pods.build import PodSettings
from hybrid_executor.standalone.stack.environment import option
from hybrid_executor.standalone.stack.ports import choose_port
from tests.cluster.airflow_pods import UMASK, api_server, umask
from tests.cluster.given import given_cluster
from tests.cluster.kubelet import images, layers
from tests.cluster.kubelet.node import KubeletNode
from tests.cluster.plane import ControlPlane
from tests.fixtures.podwatch import watched_pods
from tests.fixtures.stack import EXAMPLES, RunningStack, running_stack, wait_until
from tests.fixtures.submissions import pod_submission

FOLDER = Path(__file__).parents[2] / "workers" / "pod_templates"
TEMPLATES = sorted(FOLDER.glob("*.yaml"))
ENFORCED = {"pod-security.kubernetes.io/enforce": "restricted"}
#: Where the image has this project's example DAGs.
BAKED = "/opt/venv/lib/python3.11/site-packages/hybrid_executor/example_dags"
DAG = "pod_override"
#: A run chooses its queue, and the queue its template.
POLICY = """
def task_instance_mutation_hook(task_instance, dag_run=None):
    if dag_run is not None and "queue" in (dag_run.conf or {}):
        task_instance.queue = dag_run.conf["queue"]
"""


@pytest.fixture
def strict_namespace(plane: ControlPlane, namespace: str) -> str:
    """A namespace that takes no pod but such as Pod Security's level ``restricted`` allows."""
    enforce(plane, namespace)
    return namespace


def enforce(plane: ControlPlane, namespace: str) -> None:
    path, labels = f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": ENFORCED}}
    code, answer = plane.request("PATCH", path, labels, "application/merge-patch+json")
    assert code == 200, answer


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_starter_template_is_admitted_under_pod_security_restricted(
    plane: ControlPlane, strict_namespace: str, path: Path
) -> None:
    settings = PodSettings(
        namespace=strict_namespace, executor="x", scheduler_job="0", airflow_version="3.3.2"
    )
    pods = f"/api/v1/namespaces/{strict_namespace}/pods"
    pod = PodMaker(settings, Templates(str(path))).make(pod_submission())
    # An unknown field is an error, where it would be dropped with a warning.
    code, answer = plane.request("POST", f"{pods}?fieldValidation=Strict", pod)
    assert code == 201, answer
    pod["spec"].pop("securityContext")
    pod["metadata"]["name"] = "insecure"
    assert plane.request("POST", pods, pod)[0] == 403, "the namespace enforces nothing"


# --- on a kubelet's node --------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(session_kubelet: KubeletNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack whose namespace enforces ``restricted``, with a queue for each of three templates."""
    node, folder = session_kubelet, tmp_path_factory.mktemp("templates")
    node.heal()
    port, dags = choose_port(), folder / "dags"
    (dags / "policy").mkdir(parents=True)
    shutil.copy(EXAMPLES / f"{DAG}.py", dags)
    (dags / "policy" / "airflow_local_settings.py").write_text(POLICY)
    routes = folder / "routes.json"
    routes.write_text(json.dumps(routes_file(f"http://{node.place.host}:{port}/execution/")))
    extra = {option("hybrid_executor", "routes_file"): str(routes)}
    with (
        given_cluster(node.plane) as given,
        umask(UMASK),
        running_stack(folder / "state", dags, extra=extra, **given) as running,
        api_server(running, node.place.host, port),
    ):
        enforce(node.plane, running.namespace)
        volume = make_claim(node.plane, running.namespace, dags)
        yield running
        node.plane.request("DELETE", f"/api/v1/persistentvolumes/{volume}")


def routes_file(url: str) -> dict[str, Any]:
    """What the templates say is to be changed, changed."""

    def rule(template: str, **env: str) -> dict[str, Any]:
        variables = {option("core", "execution_api_server_url"): url} | env
        base = {
            "name": "base",
            "image": images.AIRFLOW,
            "imagePullPolicy": "Never",
            "env": [{"name": name, "value": value} for name, value in variables.items()],
        }
        return {
            "queue": template,
            "backend": "kubernetes",
            "pod_template": str(FOLDER / f"{template}.yaml"),
            "pod": {"spec": {"containers": [base]}},
        }

    baked = {option("core", "dags_folder"): BAKED}
    return {
        "version": 1,
        "routes": [
            rule("dags-in-image", **baked),
            rule("restricted", **baked),
            rule("dags-on-volume"),
        ],
    }


def make_claim(plane: ControlPlane, namespace: str, dags: Path) -> str:
    """The claim of the template, on a volume that is a folder of the node's machine; the volume's name."""
    capacity = {"storage": "1Gi"}
    modes, name = ["ReadOnlyMany"], f"dags-{os.getpid()}"
    plane.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": capacity,
                "accessModes": modes,
                "storageClassName": "",
                "hostPath": {"path": str(dags), "type": "Directory"},
                "claimRef": {"namespace": namespace, "name": "airflow-dags"},
            },
        }
    )
    plane.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "airflow-dags", "namespace": namespace},
            "spec": {
                "accessModes": modes,
                "storageClassName": "",
                "volumeName": name,
                "resources": {"requests": capacity},
            },
        }
    )
    return name


@pytest.mark.timeout(900)
@pytest.mark.parametrize("template", ["dags-in-image", "dags-on-volume", "restricted"])
def test_a_starter_template_runs_a_task_of_a_dag_in_the_airflow_image(
    site: RunningStack, template: str
) -> None:
    with watched_pods(site.kubeconfig, site.namespace) as pods:
        run_id = site.trigger(DAG, {"queue": template})
        states = site.wait_run(DAG, run_id, 300)
        assert states == {"read_own_pod": "success"}, f"{pods.pods}"
        wait_until(
            lambda: bool(pods.of_run(run_id)) and pods.pods.keys() == pods.deleted,
            60,
            lambda: f"not deleted: {pods.pods.keys() - pods.deleted}",
        )
        [pod] = pods.of_run(run_id).values()
    result = site.client.get(
        f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/read_own_pod/xcomEntries/return_value"
    )
    assert result["value"] == {
        "greeting": "hello from the override",
        "team": "billing",
    }
    [base] = pod["spec"]["containers"]
    assert base["image"] == images.AIRFLOW
    assert pod["spec"]["securityContext"]["runAsUser"] == layers.AIRFLOW_USER
    assert {volume["name"] for volume in pod["spec"]["volumes"]} >= {"logs"}
    if template == "restricted":
        assert base["securityContext"]["readOnlyRootFilesystem"] is True
