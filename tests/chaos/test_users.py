"""What users do to running tasks: mark them failed, clear them. Its process ends, nothing is left."""

import pytest

from tests.chaos.scene import Scene
from tests.fixtures.stack import wait_until

WITHIN_S = 30
KINDS = ("light", "heavy")


@pytest.fixture
def runs(scene: Scene) -> dict[str, str]:
    """An endless task on each backend, running: the run by the kind."""
    runs = {kind: scene.stack.trigger(f"endless_{kind}") for kind in KINDS}
    wait_until(lambda: all(scene.lives(run, 1) for run in runs.values()), 90, lambda: "they do not run")
    return runs


def test_a_running_task_marked_failed_ends(scene: Scene, runs: dict[str, str]) -> None:
    for kind, run in runs.items():
        scene.fail_task(f"endless_{kind}", run, kind)
    wait_until(lambda: not any(scene.lives(run, 1) for run in runs.values()), WITHIN_S, lambda: "they run on")
    scene.check_nothing_is_left()
    for kind, run in runs.items():
        assert scene.stack.states(f"endless_{kind}", run) == {kind: "failed"}
        assert scene.starts(run) == {kind: 1}


def test_a_running_task_that_is_cleared_ends_and_runs_again(scene: Scene, runs: dict[str, str]) -> None:
    for kind, run in runs.items():
        scene.let_go(run, 2)
        scene.clear_task(f"endless_{kind}", run, kind)
    wait_until(lambda: not any(scene.lives(run, 1) for run in runs.values()), WITHIN_S, lambda: "they run on")
    for kind, run in runs.items():
        assert scene.stack.wait_run(f"endless_{kind}", run, 60) == {kind: "success"}
        assert scene.starts(run) == {kind: 2}
    scene.check_nothing_is_left()
