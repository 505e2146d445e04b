"""Kill -9 of what the stack stands on, in the middle of a run, and its return some seconds later."""

import time

import pytest

from tests.chaos.scene import Scene, eventually
from tests.fixtures.stack import wait_until

AWAY_S = 4


@pytest.mark.parametrize("service", ["valkey", "postgres", "kubernetes"])
def test_a_run_outlives_what_it_stands_on(scene: Scene, service: str) -> None:
    run = scene.stack.trigger("middle")
    wait_until(
        lambda: scene.running(run, "light") and scene.running(run, "heavy"),
        60,
        lambda: f"not running on both: {scene.stack.states('middle', run)}",
    )
    assert scene.count("middle", run, "queued") >= 1
    scene.stack.kill(service, hold=True)
    time.sleep(AWAY_S)
    scene.stack.restart(service)
    scene.stack.wait_run("middle", run, 120)
    eventually(lambda: scene.check_each_ran_once("middle", run))
    scene.stack.wait_healthy()
    scene.check_nothing_is_left()
