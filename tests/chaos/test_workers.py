"""Celery workers that are killed in every way, and messages that are lost or come twice: a stack of its own.

Its visibility timeout is so short that any task outlives it, and a task whose
heartbeat stops is taken for dead after some seconds.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from tests.chaos.scene import Scene
from tests.chaos.stage import cleared, opened
from tests.fixtures.stack import wait_until

pytestmark = pytest.mark.timeout(600)

SETTINGS = {
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "5",
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__UNACKED_RESTORE_INTERVAL": "2",
    "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__UNACKED_RESTORE_THROTTLE": "1",
    # The visibility timeout is also how long a token lives, if nothing else is said.
    "AIRFLOW__HYBRID_EXECUTOR__TOKEN_LIFE_S": "3600",
    # Longer than a worker needs to come back on a busy machine: what waits for that is not stuck.
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "40",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
}


@pytest.fixture(scope="module")
def worker_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with opened(tmp_path_factory.mktemp("workers"), SETTINGS) as scene:
        yield scene


@pytest.fixture
def scene(worker_stack: Scene) -> Iterator[Scene]:
    with cleared(worker_stack) as scene:
        yield scene


def running(scene: Scene, dag_id: str) -> str:
    """A run of it, whose task runs."""
    run = scene.stack.trigger(dag_id)
    wait_until(lambda: scene.lives(run, 1), 60, lambda: f"it does not run: {scene.stack.states(dag_id, run)}")
    return run


def task_pid(scene: Scene, run: str) -> int:
    """The process of the task that started last."""
    lines = (scene.stack.stack.setup.data / "lines").read_text().splitlines()
    return int([line.split()[-1] for line in lines if line.startswith(f"{run} ")][-1])


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def rows(scene: Scene, run: str) -> list[Any]:
    """Outcome, reason and message of each submission of a run, the first one first."""
    query = sa.text(
        "SELECT outcome, reason, message FROM hybrid_submission WHERE run_id = :run"
        " ORDER BY queued_at, submission"
    )
    with scene.stack.db.connect() as connection:
        return list(connection.execute(query, {"run": run}).all())


def broker(scene: Scene) -> Any:
    return redis.Redis.from_url(scene.stack.stack.setup.broker_url)


# --- a message that comes twice ------------------------------------------------------------


def test_a_message_that_is_delivered_again_runs_no_user_code_twice_celery5935(scene: Scene) -> None:
    # Before it is published: on a busy machine its message may come again before its task has begun.
    begin = len(scene.stack.log("worker"))
    run = running(scene, "endless_light")
    wait_until(
        lambda: "ignoring redelivered message" in scene.stack.log("worker")[begin:],
        90,
        lambda: "its message was never delivered a second time",
    )
    time.sleep(3)  # longer than any wrong answer takes
    assert scene.stack.states("endless_light", run) == {"light": "running"}
    scene.let_go(run, 1)
    scene.stack.wait_run("endless_light", run, 60)
    scene.check_each_ran_once("endless_light", run)
    scene.check_nothing_is_left()
    assert [row.outcome for row in rows(scene, run)] == ["succeeded"]


# --- stuck in queued -----------------------------------------------------------------------


def test_a_task_whose_message_is_lost_is_queued_no_longer_than_a_look_takes_af13542_af21225(
    scene: Scene,
) -> None:
    scene.stack.kill("worker", hold=True)
    run = scene.stack.trigger("one_light")
    with broker(scene) as client:
        wait_until(lambda: client.llen("default") == 1, 60, lambda: "no message in the queue")
        client.delete("default")
        wait_until(lambda: client.llen("default") == 1, 30, lambda: f"no new message: {rows(scene, run)}")
    scene.stack.restart("worker")
    scene.stack.wait_run("one_light", run, 120)
    scene.check_each_ran_once("one_light", run)
    scene.check_nothing_is_left()
    assert [row.outcome for row in rows(scene, run)] == ["replaced", "succeeded"]


# --- workers that are lost -----------------------------------------------------------------


def test_what_a_killed_worker_ran_is_found_and_runs_again_af28943(scene: Scene) -> None:
    run = running(scene, "lost_light")
    scene.let_go(run, 2)
    scene.stack.kill("worker")
    assert scene.stack.wait_run("lost_light", run, 120) == {"light": "success"}
    assert scene.starts(run) == {"light": 2}
    scene.check_nothing_is_left(90)
    assert rows(scene, run)[-1].outcome == "succeeded"


def test_what_a_worker_runs_when_it_is_told_to_end_is_not_lost_af23690(scene: Scene) -> None:
    """SIGTERM: Celery's warm shutdown, as by systemd or Kubernetes; what waits is run by the next worker."""
    run = running(scene, "endless_light")
    leaving = scene.stack.pid("worker")
    assert leaving
    begin = len(scene.stack.log("worker"))
    os.kill(parent(parent(task_pid(scene, run))), signal.SIGTERM)
    wait_until(
        lambda: "Warm shutdown" in scene.stack.log("worker")[begin:],
        30,
        lambda: "it has not been told to end",
    )
    later = scene.stack.trigger("one_light")
    wait_until(
        lambda: scene.stack.states("one_light", later).get("light") == "queued", 60, lambda: "not queued"
    )
    time.sleep(5)
    assert scene.starts(later) == {}
    scene.let_go(run, 1)
    for dag_id, one in (("endless_light", run), ("one_light", later)):
        scene.stack.wait_run(dag_id, one, 120)
        scene.check_each_ran_once(dag_id, one)
    assert scene.stack.pid("worker") != leaving
    scene.check_nothing_is_left()
    assert [row.outcome for row in rows(scene, later)] == ["succeeded"]


def test_a_task_whose_supervisor_the_kernel_kills_for_memory_says_so_af61521(scene: Scene) -> None:
    run = running(scene, "endless_light")
    pid = task_pid(scene, run)
    os.kill(parent(pid), signal.SIGKILL)
    assert scene.stack.wait_run("endless_light", run, 60) == {"light": "failed"}
    scene.check_nothing_is_left()
    [row] = rows(scene, run)
    assert (row.outcome, row.reason) == ("failed", "WorkerLost")
    assert "memory" in row.message
    assert "worker_concurrency" in row.message
    assert any("memory" in text for _, _, _, text in scene.event_log(run))
    # Nobody stops a task's process whose supervisor is dead; on a stock worker that is Airflow's own limit.
    scene.let_go(run, 1)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 60, lambda: "the task's process lives on")
