"""Kill -9 of the scheduler: at random moments of a run, and in each gap of a task's golden path."""

import random
import time

import pytest

from tests.chaos.scene import Scene
from tests.fixtures.stack import wait_until

SECONDS = 20
KINDS = ("light", "heavy")
GAPS = {
    "the commit and the sending": "commit-send",
    "the publishing and its record": "send-record-celery",
    "the pod's creation and its record": "send-record-kubernetes",
    "the sending and the ledger": "send-record",
    "the end and the event": "end-event",
    "the event and the ledger": "event-record",
}


def test_a_scheduler_killed_in_the_middle_of_a_run_makes_nothing_run_twice(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    run = scene.stack.trigger("long")
    wait_until(
        lambda: all(len(scene.running(run, kind)) >= 4 for kind in KINDS),
        60,
        lambda: f"not running on both: {scene.stack.states('long', run)}",
    )
    first_end = SECONDS + min(min(scene.running(run, kind).values()) for kind in KINDS)
    time.sleep(max(0.0, (first_end - 2 - time.time()) * chance.random()))
    running = {kind: len(scene.running(run, kind)) for kind in KINDS}
    assert all(count >= 4 for count in running.values()), running
    assert scene.count("long", run, "queued") >= 2
    assert scene.stack.states("long", run)["last"] is None
    scene.stack.kill("scheduler", hold=True)
    time.sleep(chance.uniform(0, 4))
    scene.stack.restart("scheduler")
    scene.stack.wait_run("long", run, 150)
    scene.check_each_ran_once("long", run)
    scene.check_nothing_is_left()


@pytest.mark.parametrize("gap", GAPS)
def test_a_scheduler_killed_in_a_gap_makes_nothing_run_twice(scene: Scene, gap: str) -> None:
    scene.die_at(GAPS[gap])
    run = scene.stack.trigger("short")
    scene.wait_death()
    scene.stack.wait_run("short", run, 120)
    scene.check_each_ran_once("short", run)
    scene.check_nothing_is_left()
