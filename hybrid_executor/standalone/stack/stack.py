"""The whole product on this machine as one value: which services there are, and how each is run.

The demo and the end-to-end tests are its callers. Decides commands and their
order; :mod:`.supervisor` keeps them up, :mod:`.environment` says their settings.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

from hybrid_executor.standalone.runner import isolation
from hybrid_executor.standalone.stack import probes
from hybrid_executor.standalone.stack.cluster import LABEL, GivenCluster
from hybrid_executor.standalone.stack.environment import (
    EXECUTOR,
    Setup,
    airflow_environment,
    command_line,
    flower_environment,
    inherited,
    pod_template,
    worker_environment,
)
from hybrid_executor.standalone.stack.ports import LOOPBACK
from hybrid_executor.standalone.stack.postgres import PostgresServer
from hybrid_executor.standalone.stack.process import Command
from hybrid_executor.standalone.stack.secret import kept_secret, write_private
from hybrid_executor.standalone.stack.state import (
    ANY_PORTS,
    PREFERRED_PORTS,
    assign_ports,
    fernet_key,
    random_secret,
)
from hybrid_executor.standalone.stack.supervisor import Event, Listener, Service, Supervisor
from hybrid_executor.standalone.stack.valkey import ValkeyServer

USER = "admin"
NODE = "embedded"
NAMESPACE = "hybrid-executor-demo"
PYTHON = Path(sys.executable)
NO_MOUNTS = "this machine allows no mount namespaces, so tasks' tokens are in the arguments of their pods"
#: Airflow's components that keep a heartbeat in the metadata database, with their job types.
JOBS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a caller may choose."""

    state: Path
    dags: Path
    executor: str = EXECUTOR
    queues: tuple[str, ...] = ("default",)
    worker_slots: int = 4
    #: Environment variables added to every Airflow process.
    extra: Mapping[str, str] = field(default_factory=dict)
    restarts: bool = True
    #: Try the ports where people look first; tests take free ones.
    usual_ports: bool = True
    #: Use this cluster, which must have a node of processes on this machine, in place of the embedded one.
    kubeconfig: Path | None = None
    #: Where pods are made in such a cluster; made itself if it is not there.
    namespace: str = NAMESPACE


class Stack:
    """Everything that runs; its caller holds the state folder (:func:`.state.held`) and ticks."""

    def __init__(self, options: Options, listener: Listener = lambda _event, _name, _note: None) -> None:
        state = options.state.resolve()
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.options = options
        #: Ports that are not the wished ones, in words.
        ports, self.moved = assign_ports(state, PREFERRED_PORTS if options.usual_ports else ANY_PORTS)
        self.postgres = PostgresServer(state / "postgres", ports["postgres"])
        self.valkey = ValkeyServer(state / "valkey", ports["valkey"])
        self.kube_port = ports["kubernetes"]
        self.cluster = self._given_cluster(state)
        self.setup = self._setup(state, ports)
        self.engine = sa.create_engine(
            self.setup.dsn, pool_pre_ping=True, connect_args={"connect_timeout": 2}
        )
        self.environment = inherited(os.environ, PYTHON)
        self.listener = listener
        self.supervisor = Supervisor(self.services(), listener, options.restarts)

    def start(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Write the files that processes read, then bring everything up.

        Raises :class:`.process.ProcessFailed`, or :class:`.cluster.ClusterUnusable`.
        """
        self._write_files()
        if not isolation.allowed().mount:
            self.setup = replace(self.setup, can_mount=False)
            self.listener(Event.DOUBTED, "runner", NO_MOUNTS)
        if self.cluster:
            self.listener(Event.READY, "kubernetes", self.cluster.prepare())
            for doubt in self.cluster.doubts(self.setup.airflow_url):
                self.listener(Event.DOUBTED, "kubernetes", doubt)
        self.supervisor.start(should_stop)

    def stop(self) -> list[str]:
        """End every process, and the pods in a cluster that was given; what is left, in words. Repeatable."""
        self.engine.dispose()
        self.supervisor.stop()
        return self.cluster.clear() if self.cluster else []

    def services(self) -> list[Service]:
        """Every service of the stack; those that need nothing come first."""
        migrate = () if self._is_migrated() else (self._migrate(),)
        database = ("migrate",) if migrate else ("postgres",)
        jobs = [
            Service(
                name=name,
                command=self._airflow(name, *arguments, env=airflow_environment),
                ready=probes.job_beats(self.engine, JOBS[name]),
                after=(*database, "valkey", *(() if self.cluster else ("kubernetes",))),
            )
            for name, arguments in self._job_arguments().items()
        ]
        return [
            *self._servers(),
            *migrate,
            self._api_server(database),
            *jobs,
            *self._celery(),
            *(() if self.cluster else self._embedded_cluster()),
        ]

    def log(self, name: str) -> Path:
        """Where a service's output goes."""
        return self.setup.state / "logs" / f"{name}.log"

    def _servers(self) -> list[Service]:
        return [
            Service(name="valkey", command=self.valkey.command, ready=self.valkey.answers, stop_rank=2),
            Service(name="postgres", command=self.postgres.command, ready=self.postgres.answers, stop_rank=2),
        ]

    def _migrate(self) -> Service:
        stamp = self.setup.state / "migrated"
        command = self._airflow("migrate", "db", "migrate", env=airflow_environment)
        return Service(
            name="migrate",
            command=command,
            after=("postgres",),
            once=True,
            done=lambda: write_private(stamp, schema_version()),
        )

    def _is_migrated(self) -> bool:
        stamp = self.setup.state / "migrated"
        return stamp.exists() and stamp.read_text() == schema_version() and self.postgres.data.exists()

    def _job_arguments(self) -> dict[str, tuple[str, ...]]:
        # The log folder is shared, so nobody need serve it.
        return {
            "scheduler": ("scheduler",),
            "dag-processor": ("dag-processor",),
            "triggerer": ("triggerer", "--skip-serve-logs"),
        }

    def _api_server(self, database: tuple[str, ...]) -> Service:
        return Service(
            name="api-server",
            command=self._airflow("api-server", "api-server", env=airflow_environment),
            # The Execution API builds its routes at the first request, in seconds that no task should wait.
            ready=probes.serves(self.setup.api_port, "/execution/health/ping"),
            after=database,
        )

    def _celery(self) -> list[Service]:
        setup = self.setup
        worker = self._airflow(
            "worker", "celery", "worker", "--queues", ",".join(setup.queues), "--concurrency",
            str(setup.worker_slots), "--skip-serve-logs", env=worker_environment,
        )  # fmt: skip
        flower = self._airflow(
            "flower", "celery", "flower", "--hostname", LOOPBACK, "--port", str(setup.flower_port),
            env=flower_environment,
        )  # fmt: skip
        return [
            Service(
                name="worker",
                command=worker,
                ready=probes.worker_answers(self.valkey.url),
                after=("valkey",),
            ),
            Service(
                name="flower", command=flower, ready=probes.listens(setup.flower_port), after=("valkey",)
            ),
        ]

    def _embedded_cluster(self) -> list[Service]:
        kubernetes = self._python(
            "kubernetes", "hybrid_executor.standalone.api",
            "--state", str(self.setup.embedded), "--port", str(self.kube_port),
        )  # fmt: skip
        served = Service(
            name="kubernetes",
            command=kubernetes,
            ready=probes.kubernetes_answers(self.setup.kubeconfig),
            stop_rank=2,
        )
        return [served, self._runner()]

    def _runner(self) -> Service:
        folder = self.setup.embedded
        command = self._python(
            "runner", "hybrid_executor.standalone.runner", "--kubeconfig", str(self.setup.kubeconfig),
            "--state", str(self.setup.state / "node"), "--name", NODE, "--bind", "--prefix", sys.prefix,
            "--node-token", str(folder / "node-token"), "--tls-cert", str(folder / "node.crt"),
            "--tls-key", str(folder / "node.key"),
        )  # fmt: skip
        return Service(
            name="runner",
            command=command,
            ready=probes.node_is_ready(self.setup.kubeconfig, NODE),
            after=("kubernetes",),
            stop_rank=1,
        )

    def _airflow(
        self, name: str, *arguments: str, env: Callable[[Setup], dict[str, str]]
    ) -> Callable[[], Command]:
        return self._command(name, ("-m", "airflow", *arguments), lambda: env(self.setup))

    def _python(self, name: str, module: str, *arguments: str) -> Callable[[], Command]:
        return self._command(name, ("-m", module, *arguments), dict)

    def _command(
        self, name: str, arguments: tuple[str, ...], env: Callable[[], dict[str, str]]
    ) -> Callable[[], Command]:
        return lambda: Command(
            name=name,
            argv=[str(PYTHON), *arguments],
            log=self.log(name),
            env=self.environment | env(),
            cwd=self.setup.state,
        )

    def _setup(self, state: Path, ports: Mapping[str, int]) -> Setup:
        options = self.options
        return Setup(
            state=state,
            dags=options.dags.resolve(),
            api_port=ports["airflow"],
            flower_port=ports["flower"],
            user=USER,
            password=random_secret(state, "password"),
            dsn=self.postgres.dsn,
            broker_url=self.valkey.url_of(0),
            result_url=self.valkey.url_of(1),
            jwt_secret=random_secret(state, "jwt"),
            fernet_key=fernet_key(state),
            session_key=random_secret(state, "session"),
            executor=options.executor,
            queues=options.queues,
            worker_slots=options.worker_slots,
            extra=options.extra,
            given_kubeconfig=self.cluster.kubeconfig if self.cluster else None,
            namespace=self.cluster.namespace if self.cluster else "default",
            pod_labels={LABEL: self.cluster.label} if self.cluster else {},
        )

    def _given_cluster(self, state: Path) -> GivenCluster | None:
        given = self.options.kubeconfig
        if given is None:
            return None
        label = kept_secret(state / "secrets" / "stack", uuid4().hex)
        return GivenCluster(given.resolve(), self.options.namespace, label)

    def _write_files(self) -> None:
        setup = self.setup
        for folder in (
            setup.home,
            setup.data,
            setup.state / "flower",
            setup.state / "task-logs",
            setup.state / "logs",
        ):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Airflow would write its defaults, keys included, where it finds no file.
        write_private(setup.home / "airflow.cfg", "# Settings come from the environment of each process.\n")
        write_private(setup.state / "passwords.json", json.dumps({setup.user: setup.password}))
        # JSON is YAML.
        write_private(setup.state / "pod_template.yaml", json.dumps(pod_template(setup, PYTHON), indent=2))
        write_private(setup.command, command_line(setup, PYTHON))
        setup.command.chmod(0o700)


def schema_version() -> str:
    """What the database's schema depends on: Airflow, the providers and our own migrations."""
    versions = sorted(
        f"{dist.name}=={dist.version}" for dist in metadata.distributions() if "airflow" in (dist.name or "")
    )
    migrations = Path(__file__).parents[2] / "ledger" / "migrations"
    files = sorted(migrations.rglob("*.py")) if migrations.exists() else []
    parts = [*versions, *(path.read_text() for path in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
