"""The settings of every process of the stack, as environment variables: pure functions over one frozen value.

Each process gets what it needs and no more: what runs tasks (a worker, a pod)
knows neither the metadata database nor the signing key.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid_executor.standalone.stack.ports import LOOPBACK

EXECUTOR = "hybrid_executor.HybridExecutor"
#: Settings of the shell that starts the stack which must not reach into it.
FOREIGN_PREFIXES = ("AIRFLOW_", "FLOWER_", "CELERY_", "PYTHON", "KUBERNETES_")
#: What a worker of ours does otherwise than a stock one.
CELERY_SETTINGS = "hybrid_executor.worker.celery_settings.CELERY_CONFIG"
#: The connection that tasks start pods of their own with.
POD_CONNECTION = "AIRFLOW_CONN_KUBERNETES_DEFAULT"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that is decided before the first process starts."""

    state: Path
    dags: Path
    api_port: int
    flower_port: int
    user: str
    password: str = field(repr=False)
    dsn: str = field(repr=False)
    broker_url: str = field(repr=False)
    result_url: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    fernet_key: str = field(repr=False)
    session_key: str = field(repr=False)
    executor: str = EXECUTOR
    queues: tuple[str, ...] = ("default",)
    worker_slots: int = 4
    #: Added to the settings of every Airflow process; pods get only those of ``[core]`` and ``[workers]``.
    extra: Mapping[str, str] = field(default_factory=dict)
    #: The kubeconfig of a cluster that is used in place of the embedded one.
    given_kubeconfig: Path | None = None
    namespace: str = "default"
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    #: Whether the node of processes can mount volumes: without, no pod could have a Secret's file.
    can_mount: bool = True

    @property
    def home(self) -> Path:
        """AIRFLOW_HOME."""
        return self.state / "airflow"

    @property
    def embedded(self) -> Path:
        """Where the embedded Kubernetes API keeps what it has, its kubeconfig and its tokens among it."""
        return self.state / "kubernetes"

    @property
    def kubeconfig(self) -> Path:
        """Of the cluster in which tasks get their pods."""
        return self.given_kubeconfig or self.embedded / "kubeconfig"

    @property
    def data(self) -> Path:
        """Files that example tasks hand to each other; workers and pods share it."""
        return self.state / "data"

    @property
    def command(self) -> Path:
        """Airflow's command line with the settings of this stack, for people."""
        return self.state / "bin" / "airflow"

    @property
    def airflow_url(self) -> str:
        return f"http://{LOOPBACK}:{self.api_port}"

    @property
    def flower_url(self) -> str:
        return f"http://{LOOPBACK}:{self.flower_port}"


def option(section: str, name: str) -> str:
    """The environment variable of an Airflow option."""
    return f"AIRFLOW__{section}__{name}".upper()


def inherited(environ: Mapping[str, str], python: Path) -> dict[str, str]:
    """The caller's environment without its own Airflow settings, our interpreter's folder first in PATH."""
    kept = {name: value for name, value in environ.items() if not name.startswith(FOREIGN_PREFIXES)}
    return kept | {"PATH": f"{python.parent}:{environ.get('PATH', '/usr/bin:/bin')}"}


def task_environment(setup: Setup) -> dict[str, str]:
    """What a process needs that runs tasks, wherever it is."""
    return {
        "AIRFLOW_HOME": str(setup.home),
        option("core", "executor"): setup.executor,
        option("core", "dags_folder"): str(setup.dags),
        option("core", "load_examples"): "False",
        option("core", "execution_api_server_url"): f"{setup.airflow_url}/execution/",
        option("logging", "base_log_folder"): str(setup.state / "task-logs"),
        "HYBRID_EXAMPLE_FOLDER": str(setup.data),
        # Where the folder of DAGs brings a cluster policy along.
        "PYTHONPATH": str(setup.dags / "policy"),
        # A task's process lingers for up to this long after its end.
        option("workers", "min_heartbeat_interval"): "1",
    }


def pod_environment(setup: Setup) -> dict[str, str]:
    """What a pod gets: enough to run a task, and no secret but the token in its workload."""
    wanted = (option("core", ""), option("workers", ""))
    return task_environment(setup) | {k: v for k, v in setup.extra.items() if k.startswith(wanted)}


def worker_environment(setup: Setup) -> dict[str, str]:
    """What a Celery worker needs, and Flower: the broker and where results go."""
    return (
        task_environment(setup)
        | {
            option("celery", "broker_url"): setup.broker_url,
            option("celery", "result_backend"): setup.result_url,
            option("celery", "celery_config_options"): CELERY_SETTINGS,
            option("celery", "worker_concurrency"): str(setup.worker_slots),
        }
        | dict(setup.extra)
    )


def flower_environment(setup: Setup) -> dict[str, str]:
    """Flower keeps what it saw, and asks for the same user and password as Airflow."""
    return worker_environment(setup) | {
        option("celery", "flower_basic_auth"): f"{setup.user}:{setup.password}",
        "FLOWER_PERSISTENT": "true",
        "FLOWER_DB": str(setup.state / "flower" / "flower"),
        "FLOWER_STATE_SAVE_INTERVAL": "5000",
    }


def airflow_environment(setup: Setup) -> dict[str, str]:
    """What the scheduler, API server, DAG processor and triggerer need."""
    settings = {
        ("database", "sql_alchemy_conn"): setup.dsn,
        ("core", "fernet_key"): setup.fernet_key,
        ("core", "dags_are_paused_at_creation"): "False",
        ("core", "simple_auth_manager_users"): f"{setup.user}:admin",
        ("core", "simple_auth_manager_passwords_file"): str(setup.state / "passwords.json"),
        ("api_auth", "jwt_secret"): setup.jwt_secret,
        ("api", "secret_key"): setup.session_key,
        ("api", "base_url"): setup.airflow_url,
        ("hybrid_executor", "flower_url"): setup.flower_url,
        ("api", "host"): LOOPBACK,
        ("api", "port"): str(setup.api_port),
        ("api", "workers"): "1",
        ("kubernetes_executor", "config_file"): str(setup.kubeconfig),
        ("kubernetes_executor", "in_cluster"): "False",
        ("kubernetes_executor", "namespace"): setup.namespace,
        ("kubernetes_executor", "pod_template_file"): str(setup.state / "pod_template.yaml"),
        # A scheduler that was killed is noticed, and its tasks adopted, within seconds.
        ("scheduler", "scheduler_heartbeat_sec"): "2",
        # Of the DAG processor, for want of an option of its own.
        ("scheduler", "job_heartbeat_sec"): "2",
        ("scheduler", "scheduler_health_check_threshold"): "8",
        ("scheduler", "orphaned_tasks_check_interval"): "5",
        ("dag_processor", "refresh_interval"): "10",
        ("triggerer", "job_heartbeat_sec"): "2",
    }
    if not setup.can_mount:
        settings["hybrid_executor", "workload_secret"] = "False"
    ours = {option(section, name): value for (section, name), value in settings.items()}
    return worker_environment(setup) | ours | connection(setup) | dict(setup.extra)


def command_line(setup: Setup, python: Path) -> str:
    """A script that runs ``airflow`` as the scheduler would; it holds the stack's secrets."""
    settings = [f"export {name}={shlex.quote(value)}" for name, value in airflow_environment(setup).items()]
    return "\n".join(["#!/bin/sh", *settings, f'exec {shlex.quote(str(python))} -m airflow "$@"', ""])


def connection(setup: Setup) -> dict[str, str]:
    """Where tasks start pods of their own. They get it from the Execution API, as every connection."""
    extra = {"kube_config_path": str(setup.kubeconfig), "namespace": setup.namespace}
    return {POD_CONNECTION: json.dumps({"conn_type": "kubernetes", "extra": extra})}


def pod_template(setup: Setup, python: Path) -> dict[str, Any]:
    """The pod that a task runs in: on a node of processes, without an image, by our own interpreter."""
    values = pod_environment(setup) | {"PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin"}
    environment = [{"name": name, "value": value} for name, value in values.items()]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "task", "labels": dict(setup.pod_labels)},
        "spec": {
            "restartPolicy": "Never",
            # A task speaks to Airflow alone.
            "automountServiceAccountToken": False,
            "containers": [{"name": "base", "image": "embedded", "env": environment}],
        },
    }
