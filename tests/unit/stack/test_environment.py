"""Each process gets the settings that it needs, and no more."""

import json
import subprocess
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from hybrid_executor.standalone.stack.environment import (
    POD_CONNECTION,
    Setup,
    airflow_environment,
    command_line,
    flower_environment,
    inherited,
    pod_environment,
    pod_template,
    task_environment,
    worker_environment,
)

SETUP = Setup(
    state=Path("/state"),
    dags=Path("/dags"),
    api_port=8080,
    flower_port=5555,
    user="admin",
    password="pw-secret",
    dsn="postgresql://dsn-secret",
    broker_url="redis://broker-secret",
    result_url="redis://result-secret",
    jwt_secret="jwt-secret",
    fernet_key="fernet-secret",
    session_key="session-secret",
    extra={"AIRFLOW__CORE__PARALLELISM": "7", "AIRFLOW__SCHEDULER__X": "1"},
)


def test_a_pod_gets_no_secret_at_all() -> None:
    assert "secret" not in json.dumps(pod_template(SETUP, Path("/venv/bin/python")))


def test_a_pod_gets_what_it_needs_to_run_a_task() -> None:
    env = pod_environment(SETUP)
    assert env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8080/execution/"
    assert env["AIRFLOW__CORE__EXECUTOR"] == "hybrid_executor.HybridExecutor"
    assert env["AIRFLOW__CORE__DAGS_FOLDER"] == "/dags"


def test_a_worker_knows_the_broker_but_neither_database_nor_signing_key() -> None:
    text = json.dumps(worker_environment(SETUP))
    assert "broker-secret" in text
    assert "result-secret" in text
    assert not [word for word in ("dsn-", "jwt-", "fernet-", "session-", "pw-") if word + "secret" in text]


def test_the_command_line_of_the_stack_takes_values_that_a_shell_would_change(tmp_path: Path) -> None:
    awkward = replace(SETUP, state=tmp_path / "a b", dsn="postgresql://x:$HOME'\"`id`@h/db")
    script = command_line(awkward, Path("/bin/echo")).replace("-m airflow", "")
    tail = 'printf %s "$AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"; printf "|%s" "$@"'
    script = script.replace('exec /bin/echo  "$@"', tail)
    done = subprocess.run(
        ["sh", "-c", script, "sh", "one two", "$3"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{awkward.dsn}|one two|$3"


@pytest.mark.parametrize("make", [worker_environment, flower_environment, airflow_environment])
def test_whoever_speaks_celery_has_the_settings_of_our_workers(make) -> None:
    module, _, name = make(SETUP)["AIRFLOW__CELERY__CELERY_CONFIG_OPTIONS"].rpartition(".")
    assert getattr(import_module(module), name)["worker_send_task_events"] is True


def test_tokens_are_in_secrets_wherever_pods_can_mount_them() -> None:
    option = "AIRFLOW__HYBRID_EXECUTOR__WORKLOAD_SECRET"
    assert option not in airflow_environment(SETUP)
    assert airflow_environment(replace(SETUP, can_mount=False))[option] == "False"


def test_flower_asks_for_the_password_of_airflow() -> None:
    assert flower_environment(SETUP)["AIRFLOW__CELERY__FLOWER_BASIC_AUTH"] == "admin:pw-secret"


@pytest.mark.parametrize(
    "make", [task_environment, worker_environment, flower_environment, airflow_environment]
)
def test_everybody_gets_the_same_executor(make) -> None:
    assert make(SETUP)["AIRFLOW__CORE__EXECUTOR"] == SETUP.executor


def test_extra_settings_reach_pods_only_where_they_concern_tasks() -> None:
    assert "AIRFLOW__CORE__PARALLELISM" in pod_environment(SETUP)
    assert "AIRFLOW__SCHEDULER__X" not in pod_environment(SETUP)
    assert airflow_environment(SETUP)["AIRFLOW__SCHEDULER__X"] == "1"


def test_settings_of_the_calling_shell_do_not_reach_the_stack() -> None:
    environ = {
        "AIRFLOW__CORE__EXECUTOR": "x",
        "PYTHONPATH": "/x",
        "FLOWER_PORT": "1",
        "HOME": "/h",
        "PATH": "/b",
    }
    assert inherited(environ, Path("/venv/bin/python")) == {"HOME": "/h", "PATH": "/venv/bin:/b"}


def test_no_secret_is_in_the_repr_of_a_setup() -> None:
    assert "secret" not in repr(SETUP).replace("jwt_secret", "")


def test_tasks_ask_the_api_server_where_they_start_pods() -> None:
    """Its address and its credentials are in no environment of what runs tasks."""
    asked = json.loads(airflow_environment(SETUP)[POD_CONNECTION])
    assert asked["extra"] == {"kube_config_path": str(SETUP.kubeconfig), "namespace": SETUP.namespace}
    assert not {POD_CONNECTION} & {*worker_environment(SETUP), *pod_environment(SETUP)}
    own = {POD_CONNECTION: "{}"}
    assert airflow_environment(replace(SETUP, extra=own))[POD_CONNECTION] == "{}"
