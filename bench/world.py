"""The servers that all sides share, and what a side needs to know of them.

One PostgreSQL, one Valkey and, where a figure needs it, the embedded
Kubernetes API or a real one, each started once; every side gets a database, a
Valkey number and a namespace of its own, and where pods are to end, a node
without processes. All of it listens on 127.0.0.1 and dies with the
process that started it.
"""

import itertools
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import redis
import yaml

from hybrid_executor.standalone.stack.postgres import PostgresServer
from hybrid_executor.standalone.stack.process import Command, Process
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.cluster import build
from tests.cluster.plane import ControlPlane
from tests.fixtures.servers import TEMPLATE, migrate

ROOT = Path(__file__).parents[1]
#: For a process of the benchmark's own to say that it is ready.
READY_S = 60.0
#: Both executors get what lets them have so many in flight at all.
SETTINGS = {
    "CORE__LOAD_EXAMPLES": "False",
    "CORE__PARALLELISM": "1000000",
    "CORE__MAX_ACTIVE_TASKS_PER_DAG": "1000000",
    "SCHEDULER__TASK_QUEUED_TIMEOUT": "100000",
    "KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
    "KUBERNETES_EXECUTOR__WORKER_CONTAINER_REPOSITORY": "example/airflow",
    "KUBERNETES_EXECUTOR__WORKER_CONTAINER_TAG": "2",
    "HYBRID_EXECUTOR__CELERY_PARALLELISM": "0",
    "HYBRID_EXECUTOR__KUBERNETES_PARALLELISM": "0",
    "API_AUTH__JWT_SECRET": "a secret of this benchmark, " * 4,
}
#: What pods are made of, as small as a real one may be.
TEMPLATE_OF_PODS = """\
apiVersion: v1
kind: Pod
metadata: {name: template, labels: {team: data}, annotations: {cost-centre: "42"}}
spec:
  restartPolicy: Never
  serviceAccountName: airflow-worker
  # A real scheduler would say of each of them that there is no node.
  schedulerName: nobody
  securityContext: {runAsUser: 50000, fsGroup: 0}
  containers:
    - name: base
      image: example/airflow:1
      imagePullPolicy: IfNotPresent
      env:
        - {name: AIRFLOW__CORE__EXECUTOR, value: LocalExecutor}
        - {name: AIRFLOW_CONN_WAREHOUSE, valueFrom: {secretKeyRef: {name: warehouse, key: url}}}
      resources: {requests: {cpu: 100m, memory: 256Mi}, limits: {memory: 512Mi}}
      volumeMounts: [{name: dags, mountPath: /opt/airflow/dags, readOnly: true}]
  volumes: [{name: dags, emptyDir: {}}]
"""


class World:
    """Servers, started when they are first needed; use as a context manager."""

    #: What runs the embedded Kubernetes API.
    api_module = "hybrid_executor.standalone.api"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._numbers = itertools.count(1)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def postgres(self) -> PostgresServer:
        """With a template that has Airflow's schema, and ours."""
        server = PostgresServer(self.folder / "postgres")
        server.start()
        self._stack.callback(server.stop)
        server.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate(server.dsn_of(TEMPLATE), self.folder / "migration")
        environment = self._airflow(self.folder / "template", server.dsn_of(TEMPLATE))
        with (self.folder / "prepare.log").open("wb") as log:
            command = [sys.executable, "-m", "bench.prepare"]
            subprocess.run(command, env=environment, cwd=ROOT, stdout=log, stderr=log, check=True)
        return server

    @cached_property
    def valkey(self) -> ValkeyServer:
        server = ValkeyServer(self.folder / "valkey")
        server.start()
        self._stack.callback(server.stop)
        return server

    @cached_property
    def api(self) -> Path:
        """The state folder of a Kubernetes API that answers."""
        state = self.folder / "api"
        state.mkdir()
        self.start("api", self.api_module, "--state", str(state))
        deadline = time.monotonic() + 30
        while not (state / "kubeconfig").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the Kubernetes API did not start; see {self.folder / 'api.log'}")
            time.sleep(0.05)
        return state

    @cached_property
    def plane(self) -> ControlPlane:
        """A real Kubernetes, built at the first time: minutes. Raises ``CannotBuild``."""
        build.kubernetes()
        return self._stack.enter_context(ControlPlane.started(self.folder / "plane"))

    def start(
        self, name: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a module of ours, to be ended with the world; in our environment, or a side's."""
        process = Process(
            Command(
                name=name,
                argv=[sys.executable, "-m", module, *arguments],
                log=self.folder / f"{name}.log",
                cwd=ROOT,
                env=environment,
            )
        )
        process.start()
        self._stack.callback(process.kill)
        return process

    def farther(self, port: int, delay_ms: float) -> int:
        """The port of a way to ``port`` that takes so much longer."""
        name = f"delay-{next(self._numbers)}"
        process = self.start(name, "bench.delay", str(port), str(delay_ms))
        return int(self._said(process, str.isdigit))

    def _said(self, process: Process, wanted: Callable[[str], bool]) -> str:
        """A process's last line, once it is the one that tells that it is ready."""
        deadline = time.monotonic() + READY_S
        while not wanted(said := process.tail(1).strip()):
            if time.monotonic() > deadline:
                raise process.failure("did not start")
            time.sleep(0.02)
        return said

    @contextmanager
    def room(
        self, side: str, *, delay_ms: float = 0, needs: Collection[str] = ()
    ) -> Iterator[dict[str, str]]:
        """The environment of one side; what it left behind goes with it. ``needs`` are those of a figure."""
        kubernetes = "kubernetes" in needs
        number = next(self._numbers)
        name = f"bench_{number}_{side}"
        broker = self.valkey.url_of(1 + number % 100)
        self.postgres.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY file_copy")
        environment = self._airflow(self.folder / name, self.postgres.dsn_of(name))
        near = broker
        if delay_ms and not kubernetes:
            far = self.farther(self.valkey.port or 0, delay_ms)
            broker = broker.replace(f":{self.valkey.port}/", f":{far}/")
        environment |= {"AIRFLOW__CELERY__BROKER_URL": broker, "AIRFLOW__CELERY__RESULT_BACKEND": broker}
        environment |= {"BENCH_VALKEY": near}
        if kubernetes:
            namespace = name.replace("_", "-")
            made = (
                self._real(namespace) if "real kubernetes" in needs else self._embedded(namespace, delay_ms)
            )
            environment |= made
        node = self._paper_node(environment) if "paper node" in needs else None
        with redis.Redis.from_url(near) as client:
            client.flushdb()
            try:
                yield environment
            finally:
                if node:
                    node.kill()
                client.flushdb()
                self.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _airflow(self, home: Path, dsn: str) -> dict[str, str]:
        (home / "dags").mkdir(parents=True)
        template = home / "pod_template.yaml"
        template.write_text(TEMPLATE_OF_PODS)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        settings: Mapping[str, Any] = SETTINGS | {
            "DATABASE__SQL_ALCHEMY_CONN": dsn,
            "CORE__DAGS_FOLDER": str(home / "dags"),
            "KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(template),
        }
        return (
            clean
            | {"AIRFLOW_HOME": str(home)}
            | {f"AIRFLOW__{name}": value for name, value in settings.items()}
        )

    def _paper_node(self, environment: Mapping[str, str]) -> Process:
        """One that watches."""
        node = self.start(f"node-{next(self._numbers)}", "bench.paper_node", environment=environment)
        self._said(node, lambda said: said == "ready")
        return node

    def _real(self, namespace: str) -> dict[str, str]:
        """A namespace of a control plane in earnest."""
        self.plane.make_namespace(namespace)
        account = {"metadata": {"name": yaml.safe_load(TEMPLATE_OF_PODS)["spec"]["serviceAccountName"]}}
        code, said = self.plane.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
        assert code == 201, said
        return _in_cluster(self.plane.admin, namespace)

    def _embedded(self, namespace: str, delay_ms: float) -> dict[str, str]:
        kubeconfig = self.api / "kubeconfig"
        self._make_namespace(namespace)
        if delay_ms:
            port = (self.api / "port").read_text().strip()
            far = self.farther(int(port), delay_ms)
            text = kubeconfig.read_text().replace(f":{port}", f":{far}")
            kubeconfig = self.folder / f"kubeconfig.{namespace}"
            kubeconfig.touch(mode=0o600)
            kubeconfig.write_text(text)
        return _in_cluster(kubeconfig, namespace)

    def _make_namespace(self, name: str) -> None:
        port, token = ((self.api / part).read_text().strip() for part in ("port", "token"))
        request = urllib.request.Request(
            f"https://127.0.0.1:{port}/api/v1/namespaces",
            data=json.dumps({"metadata": {"name": name}}).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        context = ssl.create_default_context(cafile=self.api / "ca.crt")
        urllib.request.urlopen(request, context=context).close()  # noqa: S310


def _in_cluster(kubeconfig: Path, namespace: str) -> dict[str, str]:
    return {
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(kubeconfig),
        "AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE": namespace,
    }
