"""What is to be seen while tasks run on both backends: their logs, Flower, and no token anywhere."""

import base64
import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.naming import celery_task_id
from tests.e2e.examples import Examples, Run
from tests.fixtures.flower import flower, flower_tasks, flower_workers
from tests.fixtures.stack import RunningStack, wait_until

#: Any token: a JSON object in base64, a dot, another one.
TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]+")


@pytest.fixture(scope="module")
def talking(stack: RunningStack) -> Iterator[Run]:
    """A run that has a task waiting on each backend; let go, it succeeds."""
    stack.wait_healthy()
    run_id = stack.trigger("talk_and_wait", {"go": "go-on"})
    run = Run(stack, "talk_and_wait", run_id, {})
    running = {"in_pod": "running", "on_worker": "running"}
    wait_until(
        lambda: stack.states("talk_and_wait", run_id) == running, 90, lambda: str(run.task_instances())
    )
    yield run
    (stack.stack.setup.data / "go-on").touch()
    assert set(stack.wait_run("talk_and_wait", run_id).values()) == {"success"}
    assert "last words on a worker" in run.log("on_worker")


def test_the_log_of_a_running_pod_is_read_from_the_pod(talking: Run) -> None:
    wait_until(lambda: "first words" in talking.log("in_pod"), 30, lambda: talking.log("in_pod"))
    log = talking.log("in_pod")
    [row] = talking.submissions()["in_pod"]
    assert f"Found logs in the pod of attempt {row.attempt_id}" in log
    assert "first words in a pod" in log
    assert "last words" not in log
    assert not TOKEN.search(log)


def test_the_token_of_a_running_pod_is_in_its_secret_and_nowhere_else(talking: Run) -> None:
    stack = talking.stack
    [row] = talking.submissions()["in_pod"]
    name = str(row.external_name).rpartition("/")[2]
    with kubernetes.config.new_client_from_config(str(stack.kubeconfig)) as client:
        core = kubernetes.client.CoreV1Api(client)
        pods = core.list_namespaced_pod(stack.namespace, _preload_content=False).data.decode()
        held = core.read_namespaced_secret(name, stack.namespace).data["workload.json"]
    assert name in pods
    assert not TOKEN.search(pods)
    token = json.loads(base64.b64decode(held))["token"]
    assert TOKEN.fullmatch(token.rpartition(".")[0])
    assert not [path for path, text in processes() if token in text]


def processes() -> Iterator[tuple[str, str]]:
    """The arguments and the environment of every process of this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                yield f"{folder}/{file}", (folder / file).read_bytes().decode(errors="replace")


def test_the_log_of_a_running_celery_task_is_not_hidden_by_the_executor(talking: Run) -> None:
    wait_until(lambda: "first words" in talking.log("on_worker"), 30, lambda: talking.log("on_worker"))
    assert "first words on a worker" in talking.log("on_worker")


def test_flower_shows_the_worker_and_what_it_runs(talking: Run, examples: Examples) -> None:
    stack = talking.stack
    [row] = talking.submissions()["on_worker"]
    wait_until(
        lambda: flower_tasks(stack).get(row.external_name, {}).get("state") == "STARTED",
        30,
        lambda: str(flower_tasks(stack)),
    )
    assert flower_tasks(stack)[row.external_name]["name"] == "talk_and_wait.on_worker"
    # A worker of a busy machine may answer too late to be shown.
    wait_until(
        lambda: place(talking) in json.loads(flower(stack, "/api/workers?refresh=1")),
        60,
        lambda: f"{place(talking)} is not in {flower(stack, '/api/workers')}",
    )
    wait_until(
        lambda: celery_tasks(examples) <= named(flower_tasks(stack)),
        30,
        lambda: str(celery_tasks(examples) - named(flower_tasks(stack))),
    )


def test_flower_shows_the_pod_beside_it_and_what_runs_in_pods(talking: Run, examples: Examples) -> None:
    stack = talking.stack
    [row] = talking.submissions()["in_pod"]
    worker = f"kubernetes@{stack.namespace}"
    wait_until(
        lambda: flower_tasks(stack).get(row.attempt_id, {}).get("state") == "STARTED",
        30,
        lambda: str(flower_tasks(stack)),
    )
    shown = flower_tasks(stack)[row.attempt_id]
    assert (shown["name"], shown["routing_key"], shown["worker"]) == (
        "talk_and_wait.in_pod",
        "kubernetes",
        worker,
    )
    assert str(row.external_name) in shown["kwargs"]
    wait_until(
        lambda: flower_workers(stack)[worker]["active"] >= 1, 30, lambda: str(flower_workers(stack)[worker])
    )
    found = json.loads(flower(stack, f"/api/tasks?workername={worker}&taskname=talk_and_wait.in_pod"))
    assert row.attempt_id in found
    wait_until(
        lambda: pod_tasks(examples) <= stated(flower_tasks(stack)),
        30,
        lambda: str(pod_tasks(examples) - stated(flower_tasks(stack))),
    )


@pytest.mark.parametrize("task", ["in_pod", "on_worker"])
def test_flower_says_which_try_of_which_run_a_task_is(talking: Run, task: str) -> None:
    [row] = talking.submissions()[task]
    wait_until(
        lambda: "args" in flower_tasks(talking.stack).get(row.attempt_id, {}), 30, lambda: row.attempt_id
    )
    shown = flower_tasks(talking.stack)[row.attempt_id]
    for part in ("talk_and_wait", task, talking.run_id):
        assert part in shown["args"]
    for name, value in (("dag", "talk_and_wait"), ("run", talking.run_id), ("try", 1), ("map_index", -1)):
        assert f"{name!r}: {value!r}" in shown["kwargs"]


def test_flower_shows_no_token(talking: Run, examples: Examples) -> None:
    stack = talking.stack
    paths = ["/api/workers?refresh=1", "/api/tasks", "/metrics"]
    for task in flower_tasks(stack):
        paths += [f"/api/task/info/{task}", f"/api/task/result/{task}", f"/task/{task}"]
    answers = {path: flower(stack, path) for path in paths}
    assert len(answers) > 10
    assert not [path for path, answer in answers.items() if TOKEN.search(answer)]


def place(run: Run) -> str | None:
    """The worker of the Celery task, by the ledger."""
    [row] = run.submissions()["on_worker"]
    found: str | None = row.ran_on
    return found


def named(tasks: dict[str, dict[str, Any]]) -> set[tuple[str, str]]:
    """Ids and names."""
    return {(uuid, task["name"]) for uuid, task in tasks.items()}


def stated(tasks: dict[str, dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Ids, names and states."""
    return {(uuid, task["name"], task["state"]) for uuid, task in tasks.items()}


def pod_tasks(examples: Examples) -> set[tuple[str, str, str]]:
    """Id, name and state, as Flower must show them, of everything that the ledger says went well in a pod."""
    return {
        (
            celery_task_id(SubmissionId(row.attempt_id, row.submission)),
            f"{row.dag_id}.{row.task_id}",
            "SUCCESS",
        )
        for run in examples.runs.values()
        for rows in run.submissions().values()
        for row in rows
        if row.backend == "kubernetes" and row.outcome == "succeeded"
    }


def celery_tasks(examples: Examples) -> set[tuple[str, str]]:
    """Id and name, as Flower must show them, of everything that the ledger says a worker ran."""
    return {
        (row.external_name, f"{row.dag_id}.{row.task_id}")
        for run in examples.runs.values()
        for rows in run.submissions().values()
        for row in rows
        if row.backend == "celery"
    }
