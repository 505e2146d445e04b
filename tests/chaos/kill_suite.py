"""Kill -9 in the middle of runs, whatever the pods run on: one suite, every cluster.

A test module subclasses a suite as ``Test…``, gives a ``scene`` fixture, and says by
``pytest_generate_tests`` which seeds, gaps and services are tried.
"""

import os
import random
import time
from collections.abc import Sequence

import pytest

from tests.chaos.scene import Scene, eventually
from tests.fixtures.stack import wait_until

SECONDS = 20
KINDS = ("light", "heavy")
GAPS = {
    "the commit and the sending": "commit-send",
    "the publishing and its record": "send-record-celery",
    "the pod's creation and its Secret": "pod-secret",
    "the pod's creation and its record": "send-record-kubernetes",
    "the sending and the ledger": "send-record",
    "the end and the event": "end-event",
    "the event and the ledger": "event-record",
}
#: What the stack stands on, and can lose for a while.
SERVICES = ("valkey", "postgres", "kubernetes")
AWAY_S = 4


def seeds_of(count: int) -> range:
    """So many, from the one that CHAOS_SEED names."""
    # All workers of one test run must choose the same.
    chance = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID"))
    first = int(os.environ.get("CHAOS_SEED") or chance.randrange(10**6))
    return range(first, first + count)


def parametrize(metafunc: pytest.Metafunc, seeds: int, gaps: Sequence[str], services: Sequence[str]) -> None:
    """So many random kills, from the seed that CHAOS_SEED names; each seed is the id of its test."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", seeds_of(seeds), ids=lambda seed: f"seed {seed}")
    if "gap" in metafunc.fixturenames:
        metafunc.parametrize("gap", gaps)
    if "service" in metafunc.fixturenames:
        metafunc.parametrize("service", services)


class SchedulerKillSuite:
    """Of the scheduler: at random moments of a run, and in each gap of a task's golden path."""

    def test_a_scheduler_killed_in_the_middle_of_a_run_makes_nothing_run_twice(
        self, scene: Scene, seed: int
    ) -> None:
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

    def test_a_scheduler_killed_in_a_gap_makes_nothing_run_twice(self, scene: Scene, gap: str) -> None:
        scene.die_at(GAPS[gap])
        run = scene.stack.trigger("short")
        scene.wait_death()
        scene.stack.wait_run("short", run, 120)
        scene.check_each_ran_once("short", run)
        scene.check_nothing_is_left()


class OutageSuite:
    """Of what the stack stands on, and its return some seconds later."""

    def test_a_run_outlives_what_it_stands_on(self, scene: Scene, service: str) -> None:
        run = scene.stack.trigger("held")
        wait_until(
            lambda: scene.running(run, "light") and scene.running(run, "heavy"),
            60,
            lambda: f"not running on both: {scene.stack.states('held', run)}",
        )
        assert scene.count("held", run, "queued") >= 1
        scene.stack.kill(service, hold=True)
        scene.let_go(run, 1)
        time.sleep(AWAY_S)
        scene.stack.restart(service)
        scene.stack.wait_run("held", run, 120)
        eventually(lambda: scene.check_each_ran_once("held", run))
        scene.stack.wait_healthy()
        scene.check_nothing_is_left()
