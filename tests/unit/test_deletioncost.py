"""Which worker a scale-in takes: what pods are made to cost, and how often they are asked to."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.deletioncost import IDLE_S, PATIENCE_S, ROUND_S, costs, shrinking
from hybrid_executor.model.worker import WorkerPod, WorkerState
from hybrid_executor.routing import Pool
from tests.fixtures.rig import Rig
from tests.unit.test_departures import running

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
POOL = Pool(name="light", queues=("default",), concurrency=4)


def pod(name: str, cost: int = 0, state: WorkerState = WorkerState.LIVE) -> WorkerPod:
    return WorkerPod(name=name, pool="light", state=state, began_at=SINCE, deletion_cost=cost)


NAMES = [f"light-{n}" for n in range(6)]
CREWS = st.lists(
    st.builds(pod, st.sampled_from(NAMES), st.integers(-2, 5), st.sampled_from(list(WorkerState))),
    unique_by=lambda one: one.name,
)
TASKS = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 4))
IDLE = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 60))


@given(CREWS, TASKS, st.booleans(), IDLE)
def test_no_busy_worker_ever_costs_as_little_as_an_idle_one_that_is_settled(
    crew: list[WorkerPod], tasks: dict[str, int], shrinks: bool, idle_s: dict[str, float]
) -> None:
    idle_s = {name: seconds for name, seconds in idle_s.items() if name not in tasks}
    wanted = costs(crew, tasks, {"light"} if shrinks else (), idle_s)
    after = [replace(p, deletion_cost=wanted.get(p.name, p.deletion_cost)) for p in crew]
    live = [p for p in after if p.state is WorkerState.LIVE]
    assert all(p.deletion_cost > 0 for p in live if tasks.get(p.name))
    assert all(p.deletion_cost == 0 for p in live if idle_s.get(p.name, 0) >= IDLE_S)
    if shrinks:
        assert all(p.deletion_cost == tasks.get(p.name, 0) for p in live)
    assert costs(after, tasks, {"light"} if shrinks else (), idle_s) == {}, "the same is never wanted twice"
    assert not {p.name for p in crew if p.state is not WorkerState.LIVE} & wanted.keys()


@pytest.mark.parametrize(
    ("in_flight", "replicas", "shrinks"), [(9, 3, False), (8, 3, True), (0, 1, True), (0, 0, False)]
)
def test_a_pool_shrinks_when_less_is_in_flight_than_its_workers_hold(
    in_flight: int, replicas: int, shrinks: bool
) -> None:
    crew = [pod(name) for name in NAMES[:replicas]] + [pod("away", state=WorkerState.LEAVING)]
    assert bool(shrinking([POOL], crew, [("default", None, in_flight)])) is shrinks


def test_a_worker_that_begins_a_task_is_marked_in_the_same_heartbeat() -> None:
    rig = Rig()
    rig.pods.sees("light-1")
    running(rig, "celery@light-1")
    assert rig.pods.marked == [{"light-1": 1}]
    running(rig, "celery@light-1")
    assert rig.pods.marked == [{"light-1": 1}], "a busy worker is marked once"
    rig.pods.sees("light-2")
    running(rig, "celery@light-2")
    assert rig.pods.marked[1:] == [{"light-2": 1}], "no round is due, and it is not waited for"


@given(TASKS, IDLE)
def test_a_pool_that_is_not_to_shrink_lets_a_worker_be_idle_for_a_while(
    tasks: dict[str, int], idle_s: dict[str, float]
) -> None:
    crew = [pod(name, cost=1) for name in NAMES if name not in tasks]
    wanted = costs(crew, {}, (), idle_s)
    assert wanted.keys() == {p.name for p in crew if idle_s.get(p.name, 0) >= IDLE_S}


def test_a_worker_that_is_idle_in_a_pool_too_large_is_marked_and_then_nothing_is_asked_any_more() -> None:
    rig = Rig()
    rig.pods.sees("light-1")
    flight = running(rig, "celery@light-1")
    rig.controller.revoke(flight)
    rig.worlds[flight.backend].end(flight.id, "cancelled")
    rig.steps(seconds=ROUND_S, count=2)
    assert rig.pods.marked == [{"light-1": 1}, {"light-1": 0}]
    rig.steps(seconds=ROUND_S)
    asked = []
    rig.ledger.celery_loads = lambda: asked.append(1) or []
    rig.steps(seconds=ROUND_S, count=5)
    assert asked == []


def test_a_mark_that_does_not_come_about_is_asked_for_again_later() -> None:
    rig = Rig()
    rig.pods.sees("light-1")
    rig.pods.mark = rig.pods.marked.append
    running(rig, "celery@light-1")
    rig.steps(seconds=ROUND_S, count=3)
    assert rig.pods.marked == [{"light-1": 1}]
    rig.steps(seconds=PATIENCE_S)
    assert rig.pods.marked == [{"light-1": 1}] * 2


def test_two_schedulers_want_the_same() -> None:
    rig = Rig()
    for name in ("light-1", "light-2", "light-3"):
        rig.pods.sees(name)
    for where in ("light-1", "light-1", "light-2"):
        running(rig, f"celery@{where}")
    rig.steps(seconds=ROUND_S)
    assert {p.name: p.deletion_cost for p in rig.pods.pods.values()} == {
        "light-1": 2,
        "light-2": 1,
        "light-3": 0,
    }, "it shrinks: three workers of two slots for three tasks"
