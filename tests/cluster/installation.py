"""The chart, installed on the kubelet's node by a real Helm: values of a small machine, and how to ask of it.

Says nothing of databases, brokers and tasks: ``chart_release.py`` has servers
beside the release, ``test_trial_install.py`` those that the chart embeds.
"""

import json
import time
from base64 import b64decode
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.cluster.access import KubectlFailed
from tests.cluster.kubelet import images
from tests.cluster.kubelet.workload import Workload
from tests.fixtures.helm import CHART, Helm, HelmFailed, Manifest

RELEASE = "flow"
REPOSITORY, _, TAG = images.AIRFLOW.rpartition(":")
LITTLE = {"requests": {"cpu": "10m", "memory": "64Mi"}}
DEADLINE_S = 300.0
#: Values for servers of the chart's own.
EMBEDDED = {
    "postgresql": {"enabled": True, "image": images.POSTGRESQL, "resources": LITTLE},
    "valkey": {"enabled": True, "image": images.VALKEY, "resources": LITTLE},
}


class Installation:
    """One release in one namespace, and how to ask what became of it."""

    def __init__(self, workload: Workload, helm: Helm, folder: Path, dags: str) -> None:
        self.workload, self.helm, self.folder = workload, helm, folder
        self.plane, self.namespace = workload.plane, workload.namespace
        self.plane.apply(self.object("ConfigMap", "dags", data={"dags.py": dags}))

    # --- Helm ------------------------------------------------------------------------------

    def values(self, **more: Any) -> dict[str, Any]:
        """Those of a small machine, with ``more`` over them."""
        given: dict[str, Any] = {
            "image": {"repository": REPOSITORY, "tag": TAG, "pullPolicy": "Never"},
            "airflow": {
                "config": {
                    "core": {"dags_are_paused_at_creation": False},
                    "api": {"workers": 1},
                }
            },
            "pods": {
                "volumes": [{"name": "code", "configMap": {"name": "dags"}}],
                "volumeMounts": [
                    {"name": "code", "mountPath": "/opt/airflow/dags/dags.py", "subPath": "dags.py"}
                ],
            },
            "taskPods": {"resources": LITTLE},
            "poolDefaults": {"resources": LITTLE, "gracePeriodSeconds": 300, "concurrency": 8},
            "migration": {"resources": LITTLE},
            "flower": {"enabled": True, "resources": LITTLE},
        }
        for component in ("scheduler", "dagProcessor", "triggerer"):
            given[component] = {"resources": LITTLE}
        # An upgrade starts everything anew at once; whom all wait for goes before the rest.
        given["apiServer"] = {"resources": {"requests": {"cpu": "400m", "memory": "64Mi"}}}
        return given | more

    def run(self, action: str, *arguments: str) -> str:
        """A command of Helm for this release; what is up is told where it fails."""
        try:
            return self.helm.run(action, RELEASE, *arguments, f"--namespace={self.namespace}")
        except HelmFailed as error:
            raise AssertionError(f"helm {action}: {error}\n{self.describe()}") from error

    def apply(self, action: str, *options: str, **more: Any) -> None:
        """Install or upgrade to these values, and wait as users do."""
        file = self.folder / f"values-{time.monotonic_ns()}.yaml"
        file.write_text(json.dumps(self.values(**more)))
        self.run(action, str(CHART), f"--values={file}", "--wait", "--timeout=500s", *options)

    # --- Kubernetes ------------------------------------------------------------------------

    def kubectl(self, *arguments: str) -> str:
        return self.plane.kubectl(f"--namespace={self.namespace}", *arguments)

    def listed(self, kinds: str, *options: str) -> list[Manifest]:
        """What there is of these kinds."""
        found: list[Manifest] = json.loads(self.kubectl("get", kinds, "--output=json", *options))["items"]
        return found

    def workers(self, pool: str) -> list[Manifest]:
        """The pods of a pool."""
        return self.listed("pods", f"--selector=hybrid-executor/pool={pool}")

    def airflow(self, *arguments: str) -> str:
        """Airflow's command line in the scheduler's pod."""
        target = f"deployment/{RELEASE}-scheduler"
        return self.kubectl("exec", target, "--container=scheduler", "--", "airflow", *arguments)

    def get(self, path: str) -> Any:
        """What the API server answers to the user that the chart makes."""
        return self.asked_as_admin("GET", path)

    def asked_as_admin(self, method: str, path: str, body: Any = None) -> Any:
        """The same for any method and body."""
        (secret,) = (one for one in self.listed("secrets") if one["metadata"]["name"].endswith("-generated"))
        password = b64decode(secret["data"]["admin-password"]).decode()
        token = self._asked("POST", "/auth/token", {"username": "admin", "password": password})[
            "access_token"
        ]
        return self._asked(method, path, body, Authorization=f"Bearer {token}")

    def _asked(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        found = self.listed("pods", "--selector=app.kubernetes.io/component=api-server")
        (server,) = (pod for pod in found if "deletionTimestamp" not in pod["metadata"])
        connection = HTTPConnection(server["status"]["podIP"], 8080, timeout=60)
        told = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        connection.request(method, path, body and json.dumps(body), told)
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        assert answer.status < 300, said
        return json.loads(said)

    def pass_run(self, dag: str) -> dict[str, str | None]:
        """A run of a DAG, from when Airflow knows it to its end; answers each task's state."""
        self.until(lambda: dag in self.dags(), f"{dag} is never read")
        runs, run = f"/api/v2/dags/{dag}/dagRuns", f"run-{uuid4().hex[:6]}"
        self.asked_as_admin("POST", runs, {"dag_run_id": run, "logical_date": None})
        over = ("success", "failed")
        self.until(lambda: self.get(f"{runs}/{run}")["state"] in over, f"{dag}'s {run} does not end")
        tasks = self.get(f"{runs}/{run}/taskInstances")["task_instances"]
        return {one["task_id"]: one["state"] for one in tasks}

    def dags(self) -> list[str]:
        """The DAGs that Airflow has read."""
        return [one["dag_id"] for one in self.get("/api/v2/dags")["dags"]]

    def describe(self) -> str:
        """What is wrong, for a failed test's message."""
        said = [self.kubectl("get", "pods,jobs,deployments", "--output=wide")]
        unfinished = [pod for pod in self.listed("pods") if pod["status"].get("phase") != "Succeeded"]
        said += [self._logs(pod["metadata"]["name"]) for pod in unfinished]
        said.append(self.kubectl("get", "events", "--sort-by=.lastTimestamp")[-3000:])
        return "\n".join(said)

    def _logs(self, pod: str) -> str:
        try:
            return f"--- {pod}\n" + self.kubectl("logs", pod, "--all-containers", "--tail=15")
        except KubectlFailed as error:
            return str(error)

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
        """Wait for a true answer."""
        end = time.monotonic() + deadline_s
        while not (found := condition()):
            assert time.monotonic() < end, f"{what}\n{self.describe()}"
            time.sleep(1)
        return found

    def object(self, kind: str, name: str, **more: Any) -> Manifest:
        """One of this namespace, for ``plane.apply``."""
        metadata = {"name": name, "namespace": self.namespace, "labels": {"app": name}}
        return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **more}
