"""``[core] executor`` is changed from a stock executor to ours, and back, under tasks that wait and run.

The scheduler is killed, which leaves most behind, and comes back with the other
executor; workers and pods go on.
"""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from hybrid_executor.adoption import INHERITED
from hybrid_executor.standalone.stack.environment import EXECUTOR, option
from tests.chaos.scene import QUEUED_TIMEOUT_S, Scene
from tests.fixtures.stack import wait_until

STOCK = {"light": "CeleryExecutor", "heavy": "KubernetesExecutor"}
#: A worker of the stack takes four at once, and a stock scheduler makes a pod a heartbeat.
RUNNING = 4


@pytest.fixture
def moving(scene: Scene) -> Iterator[Scene]:
    """However it ends, the next test finds our executor."""
    yield scene
    become(scene, EXECUTOR)
    scene.check_nothing_is_left(90)


def become(scene: Scene, executor: str) -> None:
    """Kill the scheduler and start it with that executor."""
    settings = scene.stack.stack.setup.extra
    assert isinstance(settings, dict)
    scene.stack.kill("scheduler", hold=True)
    settings[option("core", "executor")] = executor
    # A stock executor lets what waits for so long go, known reason or not.
    patience_s = QUEUED_TIMEOUT_S if executor == EXECUTOR else 600
    settings[option("scheduler", "task_queued_timeout")] = str(patience_s)
    scene.stack.restart("scheduler")
    scene.stack.wait_healthy()


def started(scene: Scene, kind: str) -> str:
    """A run of which some tasks run."""
    run = scene.stack.trigger(f"moving_{kind}")
    wait_until(
        lambda: scene.starts(run).total() >= RUNNING, 60, lambda: f"only {scene.starts(run)} have started"
    )
    return run


def finished(scene: Scene, kind: str, run: str) -> None:
    """The run ends well, and no task of it was executed twice."""
    # What was reset counts as a further try, although nothing of it had run.
    for number in (1, 2):
        scene.let_go(run, number)
    states = scene.stack.wait_run(f"moving_{kind}", run, 120)
    assert set(states.values()) == {"success"}, states
    assert scene.starts(run) == dict.fromkeys(states, 1)


def inherited(scene: Scene, run: str) -> int:
    query = sa.text("SELECT count(*) FROM hybrid_submission WHERE run_id = :run AND rule = :rule")
    with scene.stack.db.connect() as connection:
        return int(connection.scalar(query, {"run": run, "rule": INHERITED}) or 0)


@pytest.mark.parametrize("kind", STOCK)
def test_tasks_of_a_stock_executor_are_taken_over_and_none_runs_twice(moving: Scene, kind: str) -> None:
    become(moving, STOCK[kind])
    run = started(moving, kind)
    become(moving, EXECUTOR)
    wait_until(lambda: inherited(moving, run) >= RUNNING, 60, lambda: "they were not inherited")
    finished(moving, kind, run)
    moving.check_nothing_is_left(60)


@pytest.mark.parametrize("kind", STOCK)
def test_a_stock_executor_takes_over_ours_and_none_runs_twice(moving: Scene, kind: str) -> None:
    run = started(moving, kind)
    become(moving, STOCK[kind])
    finished(moving, kind, run)
    # It disposes of our pods and its own; what it had not come to would stay.
    wait_until(lambda: not moving.pods(), 30, lambda: f"pods left: {moving.pods()}")
