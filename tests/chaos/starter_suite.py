"""What becomes of pods that tasks have started themselves, whatever they run on: one suite, every cluster.

A test module subclasses it as ``Test…`` and gives the fixtures ``scene`` and ``evict``,
as for ``pod_suite``.
"""

from collections.abc import Callable

from tests.chaos.scene import Scene
from tests.fixtures.stack import wait_until

WITHIN_S = 30
DAG = "starting"
TASKS = ("light_plain", "light_deferred", "heavy_plain", "heavy_deferred")
DEFERRED = tuple(task for task in TASKS if task.endswith("_deferred"))
#: What the operator's trigger logs first of all.
TRIGGERED = "Checking pod "


class StarterSuite:
    """Its operator's alone, whoever started it: it goes with its task, and stays where its task goes on."""

    def test_it_goes_with_its_task_within_30_s(self, scene: Scene) -> None:
        runs = {act: scene.stack.trigger(DAG) for act in ("failed", "cleared", "deleted")}
        for run in runs.values():
            self.until_all_live(scene, run, 1)
        before = {name for run in runs.values() for name in scene.started(run)}
        assert len(before) == len(runs) * len(TASKS)
        scene.let_go(runs["cleared"], 2)
        for task in TASKS:
            scene.fail_task(DAG, runs["failed"], task)
            scene.clear_task(DAG, runs["cleared"], task)
        scene.delete_run(DAG, runs["deleted"])
        wait_until(
            lambda: not before & set(scene.pods()), WITHIN_S, lambda: f"left: {before & set(scene.pods())}"
        )
        assert scene.stack.wait_run(DAG, runs["cleared"], 120) == dict.fromkeys(TASKS, "success")
        assert scene.stack.states(DAG, runs["failed"]) == dict.fromkeys(TASKS, "failed")
        scene.check_nothing_is_left()

    def test_it_outlives_schedulers_and_is_none_of_theirs(self, scene: Scene) -> None:
        run = scene.stack.trigger(DAG)
        self.until_all_live(scene, run, 1)
        before = set(scene.started(run))
        scene.stack.kill("scheduler")
        scene.stack.wait_healthy(120)
        # The next one has taken over what the first had in flight.
        wait_until(lambda: len(scene.slots_taken()) == 2, 60, lambda: f"in flight: {scene.slots_taken()}")
        assert set(scene.started(run)) == before
        scene.let_go(run, 1)
        assert scene.stack.wait_run(DAG, run, 120) == dict.fromkeys(TASKS, "success")
        scene.check_nothing_is_left()

    def test_a_starter_that_dies_without_a_word_leaves_it_to_the_next_try(self, scene: Scene) -> None:
        run = scene.stack.trigger("starting_again")
        wait_until(lambda: scene.lives(run, 1, "starter"), 60, lambda: "it does not run")
        [own], [started] = scene.pods(run), scene.started(run)
        scene.delete_at_once(own)
        wait_until(
            lambda: bool(set(scene.pods(run)) - {own}), 60, lambda: f"no other try: {scene.event_log(run)}"
        )
        found = f"Found matching pod {started} "
        wait_until(
            lambda: found in scene.task_log("starting_again", run, "starter", 2),
            90,
            lambda: f"the next try does not find it: {scene.pods()}",
        )
        scene.let_go(run, 1)
        assert scene.stack.wait_run("starting_again", run, 60) == {"starter": "success"}
        scene.check_nothing_is_left()

    def test_an_evicted_starter_takes_it_along_and_its_free_try_starts_another(
        self, scene: Scene, evict: Callable[[str], None]
    ) -> None:
        run = scene.stack.trigger("starting_on_spot")
        wait_until(lambda: scene.lives(run, 1, "starter"), 60, lambda: "it does not run")
        [own], [first] = scene.pods(run), scene.started(run)
        evict(own)
        wait_until(lambda: scene.lives(run, 2, "starter"), 90, lambda: f"no other: {scene.event_log(run)}")
        assert first not in scene.started(run)
        scene.let_go(run, 2)
        assert scene.stack.wait_run("starting_on_spot", run, 60) == {"starter": "success"}
        scene.check_nothing_is_left()

    def until_all_live(self, scene: Scene, run: str, number: int) -> None:
        wait_until(
            lambda: all(scene.lives(run, number, task) for task in TASKS),
            120,
            lambda: f"not all live: {scene.stack.states(DAG, run)} {scene.started(run)}",
        )
        # Until the triggerer has taken a deferred task's trigger, nobody would delete its pod.
        wait_until(
            lambda: all(TRIGGERED in scene.task_log(DAG, run, task, number) for task in DEFERRED),
            60,
            lambda: f"not all triggers run: {scene.stack.states(DAG, run)}",
        )
