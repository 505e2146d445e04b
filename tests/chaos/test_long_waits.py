"""A wait with a known reason never ends a task, however long: here more than three times Airflow waits."""

import time

import pytest

from tests.chaos.scene import QUEUED_TIMEOUT_S, Scene, eventually
from tests.fixtures.stack import wait_until

RUNS = {"one_light": "light", "one_heavy": "heavy"}
WAYS = {
    "no worker on the queue, and pods that stay Pending": ("worker", "runner"),
    "a broker and an API server that are down": ("valkey", "kubernetes"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_task_outwaits_its_backend(scene: Scene, way: str) -> None:
    for service in WAYS[way]:
        scene.stack.kill(service, hold=True)
    runs = {dag: scene.stack.trigger(dag) for dag in RUNS}
    for dag, run in runs.items():
        wait_until(lambda: scene.count(dag, run, "queued") == 1, 30, lambda: f"{dag} is not queued")  # noqa: B023
    # The time itself is what is tested.
    time.sleep(3 * QUEUED_TIMEOUT_S + 3)
    for dag, run in runs.items():
        assert scene.stack.states(dag, run) == {RUNS[dag]: "queued"}
        assert not scene.stuck_notes(run)
    for service in WAYS[way]:
        scene.stack.restart(service)
    for dag, run in runs.items():
        scene.stack.wait_run(dag, run, 60)
        eventually(lambda: scene.check_each_ran_once(dag, run))  # noqa: B023
    scene.check_nothing_is_left()
