"""``[core] executor`` becomes ours while tasks of a stock executor wait and run: real scheduler code."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from airflow import settings
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from hybrid_executor.adoption import INHERITED
from hybrid_executor.backends.memory import Run
from hybrid_executor.model.attempt import BackendName, Submission
from hybrid_executor.model.observation import How
from tests.fixtures.airflow_side import SchedulerSide
from tests.fixtures.scheduler import SchedulerOverMemory

CELERY, KUBERNETES = BackendName.CELERY, BackendName.KUBERNETES


@pytest.fixture
def setup(scheduler_side: SchedulerSide) -> Iterator[SchedulerOverMemory]:
    """Two tasks on each queue, queued by a scheduler that is dead, of whose executor no trace is left."""
    setup = SchedulerOverMemory(scheduler_side)
    setup.side.serialize(celery=2, kubernetes=2)
    setup.side.trigger()
    setup.loops()
    assert set(setup.side.states().values()) == {"queued"}
    execute("DELETE FROM hybrid_submission")
    for world in setup.worlds.values():
        world.received.clear()
    return setup


def execute(statement: str) -> None:
    with settings.engine.begin() as connection:
        connection.execute(text(statement))


def became_foreign(setup: SchedulerOverMemory, backend: BackendName) -> list[Submission]:
    """What this backend has was sent by a stock executor; its processes run."""
    world = setup.worlds[backend]
    sent = [run.submission for run in world.runs.values()]
    world.foreign = {s.attempt.workload_id: Run(s, owner="7", started=True, starts=1) for s in sent}
    world.runs.clear()
    return sent


def moved_in(setup: SchedulerOverMemory) -> int:
    """Kill the scheduler and start one with our executor; how many task instances it resets."""
    setup.killed()
    reset: int = setup.runner.adopt_or_reset_orphaned_tasks()
    return reset


def test_tasks_that_run_are_inherited_by_the_backend_they_run_on(setup: SchedulerOverMemory) -> None:
    for backend in BackendName:
        became_foreign(setup, backend)
    execute("UPDATE task_instance SET state = 'running'")
    # The stock Kubernetes executor writes its job's id there.
    execute("UPDATE task_instance SET external_executor_id = '7' WHERE queue = 'kubernetes'")
    former = {str(r.id): r.external_executor_id for r in setup.side.rows() if r.queue != "kubernetes"}
    assert moved_in(setup) == 0
    setup.loops()
    rows = {row["workload_id"]: row for row in setup.ledger_rows()}
    assert len(rows) == 4
    assert {row["rule"] for row in rows.values()} == {INHERITED}
    for ti in setup.side.rows():
        row = rows[str(ti.id)]
        assert row["attempt_id"] == str(UUID(ti.external_executor_id))
        assert row["backend"] == ("kubernetes" if ti.queue == "kubernetes" else "celery")
        assert ti.external_executor_id == former.get(str(ti.id), ti.external_executor_id)
    assert setup.received == []
    assert setup.executor.slots_occupied == 4


def test_what_is_inherited_ends_as_any_other(setup: SchedulerOverMemory) -> None:
    for backend in BackendName:
        became_foreign(setup, backend)
    execute("UPDATE task_instance SET state = 'running'")
    execute("UPDATE task_instance SET external_executor_id = NULL WHERE queue = 'kubernetes'")
    assert moved_in(setup) == 0
    setup.loops()
    execute("UPDATE task_instance SET state = 'success' WHERE state = 'running'")
    for world in setup.worlds.values():
        for submission in list(world.runs):
            world.end(submission, How.SUCCEEDED)
    setup.loops()
    assert len(setup.executor.controller.inflight) == 0
    assert {row["outcome"] for row in setup.ledger_rows()} == {"succeeded"}
    assert all(run.starts <= 1 for world in setup.worlds.values() for run in world.runs.values())


def test_a_task_that_was_cleared_while_it_ran_goes_on_when_its_process_has_ended(
    setup: SchedulerOverMemory,
) -> None:
    became_foreign(setup, CELERY)
    execute("UPDATE task_instance SET state = 'restarting' WHERE queue <> 'kubernetes'")
    execute("UPDATE task_instance SET state = 'success' WHERE queue = 'kubernetes'")
    assert moved_in(setup) == 0
    setup.loops()
    assert {s for s in setup.side.states().values() if s != "success"} == {"restarting"}
    world = setup.worlds[CELERY]
    for submission in list(world.runs):
        world.end(submission, How.CANCELLED)
    setup.loops(1)
    assert "restarting" not in setup.side.states().values()


def test_what_only_waits_is_reset_under_a_new_id_and_its_pod_withdrawn(setup: SchedulerOverMemory) -> None:
    became_foreign(setup, KUBERNETES)
    pods = setup.worlds[KUBERNETES].foreign
    former = {str(r.id) for r in setup.side.rows()}
    assert moved_in(setup) == 4
    setup.loops()
    assert pods == {}
    assert not former & {str(r.id) for r in setup.side.rows()}
    # And then they go where their queue says.
    assert len(setup.received) == len(set(setup.received)) == 4
    runs = {**setup.worlds[CELERY].runs, **setup.worlds[KUBERNETES].runs}
    assert not former & {runs[sent].submission.attempt.workload_id for sent in setup.received}


def test_what_runs_without_a_trace_is_left_to_its_own_heartbeat(setup: SchedulerOverMemory) -> None:
    setup.worlds[KUBERNETES].runs.clear()
    execute("UPDATE task_instance SET state = 'success' WHERE queue <> 'kubernetes'")
    execute(
        "UPDATE task_instance SET state = 'running', external_executor_id = NULL WHERE queue = 'kubernetes'"
    )
    assert moved_in(setup) == 0
    setup.loops(5)
    assert {r.state for r in setup.side.rows() if r.queue == "kubernetes"} == {"running"}
    assert len(setup.executor.controller.inflight) == 2


def test_an_adoption_that_is_rolled_back_inherits_nothing_and_the_next_does(
    setup: SchedulerOverMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    became_foreign(setup, KUBERNETES)
    execute("UPDATE task_instance SET state = 'success' WHERE queue <> 'kubernetes'")
    execute(
        "UPDATE task_instance SET state = 'running', external_executor_id = '7' WHERE queue = 'kubernetes'"
    )
    setup.killed()
    offer, tries = setup.executor.try_adopt_task_instances, []

    def fail_once(tis: object) -> object:
        left = offer(tis)
        tries.append(str(uuid4()))
        if len(tries) == 1:
            raise OperationalError("UPDATE task_instance", {}, Exception("deadlock detected"))
        return left

    monkeypatch.setattr(setup.executor, "try_adopt_task_instances", fail_once)
    assert setup.runner.adopt_or_reset_orphaned_tasks() == 0
    assert len(tries) == 2
    setup.loops()
    named = {r.external_executor_id for r in setup.side.rows() if r.queue == "kubernetes"}
    assert {flight.attempt.id for flight in setup.executor.controller.inflight} == named
    assert {row["attempt_id"] for row in setup.ledger_rows()} == named
