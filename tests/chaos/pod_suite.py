"""What users and clusters do to tasks in pods, whatever the pods run on: one suite, every cluster.

A test module subclasses a suite as ``Test…`` and gives a ``scene`` fixture, and for
``DeathSuite`` one named ``evict``, which asks the API server to evict a pod.
"""

from collections import Counter
from collections.abc import Callable

import pytest

from tests.chaos.scene import Scene
from tests.fixtures.stack import wait_until

WITHIN_S = 30
Act = Callable[[Scene, str, str, str], None]
#: What a user does to a task: scene, DAG, run, task.
ACTS: dict[str, Act] = {
    "failed": Scene.fail_task,
    "success": Scene.pass_task,
    "cleared": Scene.clear_task,
    "deleted": lambda scene, dag_id, run_id, _: scene.delete_run(dag_id, run_id),
}


class UserSuite:
    """A task marked failed or success, cleared, or whose run is deleted: its pod is gone."""

    @pytest.mark.parametrize(("dag_id", "task_id"), [("nowhere", "nowhere"), ("endless_heavy", "heavy")])
    def test_the_pod_of_a_task_that_is_over_is_gone_within_30_s(
        self, scene: Scene, dag_id: str, task_id: str
    ) -> None:
        runs = {act: scene.stack.trigger(dag_id) for act in ACTS}
        wait_until(lambda: all(scene.pods(run) for run in runs.values()), 60, lambda: f"pods: {scene.pods()}")
        if dag_id == "endless_heavy":
            wait_until(
                lambda: all(scene.lives(run, 1) for run in runs.values()), 60, lambda: "they do not run"
            )
        pods = {name for run in runs.values() for name in scene.pods(run)}
        for act, run in runs.items():
            scene.let_go(run, 2)
            ACTS[act](scene, dag_id, run, task_id)
        wait_until(
            lambda: not pods & set(scene.pods()), WITHIN_S, lambda: f"left: {pods & set(scene.pods())}"
        )
        if dag_id == "endless_heavy":
            assert scene.stack.wait_run(dag_id, runs["cleared"], 60) == {task_id: "success"}
            assert scene.starts(runs["cleared"]) == {task_id: 2}
            # A process that has gone with its pod has shown itself a moment before.
            wait_until(
                lambda: not any(scene.lives(run, 1) for run in runs.values()),
                WITHIN_S,
                lambda: "they live on",
            )
        else:
            scene.fail_run(dag_id, runs["cleared"])
        for act in ("failed", "success"):
            assert scene.stack.states(dag_id, runs[act]) == {task_id: act}
        scene.check_nothing_is_left()


class DeathSuite:
    """A route forgives evictions: what was evicted runs again, whatever ``retries`` says."""

    TASKS = ("python", "bash", "deferring")

    def test_evicted_tasks_run_again_and_both_tries_say_why_af21701(
        self, scene: Scene, evict: Callable[[str], None]
    ) -> None:
        run = scene.stack.trigger("spot")
        self.until_all_live(scene, run, 1)
        for name in scene.pods(run):
            evict(name)
        self.until_all_live(scene, run, 2)
        scene.let_go(run, 2)
        assert scene.stack.wait_run("spot", run, 60) == dict.fromkeys(self.TASKS, "success")
        assert scene.starts(run) == Counter(dict.fromkeys(self.TASKS, 2))
        for task in self.TASKS:
            assert "hybrid executor: runs again: Evicted" in scene.task_log("spot", run, task, 1)
        for task, tries in scene.tries(run).items():
            [(number, state, reason)] = tries
            assert (task in self.TASKS, number, state) == (True, 1, "failed")
            assert "Evicted" in (reason or "")
        noted = {
            (task, number, event) for task, number, event, text in scene.event_log(run) if "Evicted" in text
        }
        assert noted == {
            (task, number, event)
            for task in self.TASKS
            for number, event in ((1, "runs again"), (2, "follows a try that did not count"))
        }
        scene.check_nothing_is_left()

    def test_a_pod_that_dies_before_its_task_starts_is_made_again_and_costs_no_try_af69052(
        self, scene: Scene, evict: Callable[[str], None]
    ) -> None:
        """A drain, an autoscaler, a spot node that goes: nothing has run."""
        run = scene.stack.trigger("nowhere")
        wait_until(lambda: bool(scene.pods(run)), 60, lambda: "no pod")
        for _ in range(2):
            [name] = scene.pods(run)
            evict(name)
            wait_until(
                lambda gone=name: bool(set(scene.pods(run)) - {gone}), 60, lambda: f"pods: {scene.pods()}"
            )
        assert scene.stack.states("nowhere", run) == {"nowhere": "queued"}
        # On a slow machine it has waited for more than a minute, too.
        events = [(number, event) for _, number, event, _ in scene.event_log(run) if event != "waits"]
        assert events == [(1, "submitted again")] * 2
        assert scene.tries(run) == {}
        scene.fail_run("nowhere", run)
        scene.check_nothing_is_left()

    def until_all_live(self, scene: Scene, run: str, number: int) -> None:
        wait_until(
            lambda: all(scene.lives(run, number, task) for task in self.TASKS),
            90,
            lambda: f"try {number} does not run: {scene.stack.states('spot', run)} {scene.event_log(run)}",
        )

    def test_a_scheduler_killed_between_the_halves_of_a_restart_leaves_it_to_the_next(
        self, scene: Scene, evict: Callable[[str], None]
    ) -> None:
        run = scene.stack.trigger("spot_one")
        wait_until(lambda: scene.lives(run, 1), 60, lambda: "it does not run")
        scene.die_at("restart-event")
        [name] = scene.pods(run)
        evict(name)
        scene.wait_death(60)
        scene.let_go(run, 2)
        assert scene.stack.wait_run("spot_one", run, 120) == {"python": "success"}
        assert scene.starts(run) == {"python": 2}
        scene.check_nothing_is_left()

    def test_a_task_that_its_user_fails_while_it_is_evicted_stays_failed(
        self, scene: Scene, evict: Callable[[str], None]
    ) -> None:
        run = scene.stack.trigger("spot_one")
        wait_until(lambda: scene.lives(run, 1), 60, lambda: "it does not run")
        [name] = scene.pods(run)
        scene.fail_task("spot_one", run, "python")
        evict(name)
        wait_until(lambda: not scene.lives(run, 1), WITHIN_S, lambda: "it lives on")
        assert scene.stack.wait_run("spot_one", run, 60) == {"python": "failed"}
        scene.check_nothing_is_left()
        assert scene.starts(run) == {"python": 1}
