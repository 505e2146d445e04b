"""Worker pods that leave or go: what is noted, what ends, and what is let be."""

from dataclasses import replace

import pytest

from hybrid_executor.inflight import Flight
from hybrid_executor.lifecycle import Phase
from hybrid_executor.model.observation import How
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome
from hybrid_executor.model.worker import WorkerState
from tests.fixtures.rig import CELERY, Rig

POD = "light-6d9f-x2x7k"
WORKER = f"celery@{POD}"


@pytest.fixture
def rig() -> Rig:
    return Rig()


def running(rig: Rig, where: str = WORKER, **options: object) -> Flight:
    flight = rig.queue(**options)
    rig.steps()
    rig.run(flight, where)
    rig.steps()
    assert flight.phase is Phase.STARTED
    return flight


def test_what_runs_on_a_leaving_worker_is_noted_within_a_heartbeat_and_goes_on(rig: Rig):
    rig.pods.sees(POD)
    there, elsewhere = running(rig), running(rig, "celery@light-6d9f-other")
    rig.clock.elapsed_s += 7.0
    rig.pods.sees(POD, WorkerState.LEAVING)
    rig.steps()
    rows = {record.id: record for record in rig.ledger.records}
    assert rows[there.id].worker_leaves_at == rig.clock.now()
    assert rows[elsewhere.id].worker_leaves_at is None
    assert rig.heard.events == []
    writes = rig.ledger.writes
    rig.pods.sees(POD, WorkerState.LEAVING)
    rig.steps(count=3)
    assert rig.ledger.writes == writes


def test_what_ran_on_a_worker_that_is_gone_ends_at_once_as_lost_af32180(rig: Rig):
    rig.pods.sees(POD)
    there, elsewhere = running(rig), running(rig, "celery@light-6d9f-other")
    rig.pods.sees(POD, WorkerState.GONE)
    rig.steps()
    assert rig.heard.events == [(there.key, "failed")]
    row = {record.id: record for record in rig.ledger.records}[there.id]
    assert (row.reason, POD in (row.message or "")) == (Reason.WORKER_LOST, True)
    assert elsewhere.phase is Phase.STARTED
    assert rig.backends[CELERY].released == [there.id]


def test_a_lost_worker_costs_no_retry_where_the_route_says_so_af26587(rig: Rig):
    flight = running(rig)
    route = replace(flight.attempt.route, retry_on=frozenset({Reason.WORKER_LOST}), retry_limit=3)
    flight.attempt = replace(flight.attempt, route=route)
    rig.pods.sees(POD)
    rig.pods.sees(POD, WorkerState.GONE)
    rig.steps()
    [record] = rig.ledger.records
    assert (record.outcome, record.reason) == (Outcome.RESTARTED, Reason.WORKER_LOST)
    assert rig.row(flight).state == "restarting"


def test_an_end_that_the_worker_told_before_it_went_counts(rig: Rig):
    rig.pods.sees(POD)
    flight = running(rig)
    rig.row(flight).state = "success"
    rig.worlds[CELERY].end(flight.id, How.SUCCEEDED)
    rig.pods.sees(POD, WorkerState.GONE)
    rig.steps(count=2)
    assert rig.ledger.records[0].outcome is Outcome.SUCCEEDED


def test_a_task_that_said_itself_how_it_ended_is_not_failed_with_its_worker(rig: Rig):
    rig.pods.sees(POD)
    flight = running(rig)
    rig.row(flight).state = "success"
    rig.pods.sees(POD, WorkerState.GONE)
    rig.steps()
    assert rig.ledger.records[0].outcome is Outcome.SUCCEEDED


def test_a_start_that_is_heard_of_after_its_worker_went_ends_too(rig: Rig):
    rig.pods.sees(POD)
    rig.steps()
    rig.pods.sees(POD, WorkerState.GONE)
    flight = rig.queue()
    rig.steps()
    rig.run(flight, WORKER)
    rig.steps(count=2)
    assert rig.ledger.records[0].reason is Reason.WORKER_LOST


def test_a_worker_that_was_started_anew_in_its_pod_has_lost_what_ran_before_and_nothing_else(rig: Rig):
    rig.pods.sees(POD)
    before = running(rig)
    rig.clock.elapsed_s += 60.0
    after = running(rig)
    rig.steps()
    rig.pods.sees(POD, began_s=30.0)
    rig.steps()
    ended = {record.id for record in rig.ledger.records if record.ended_at}
    assert ended == {before.id}
    assert after.phase is Phase.STARTED


def test_a_cluster_whose_clock_is_ahead_loses_nobody(rig: Rig):
    """The pod seems to have begun after the task did; it goes on saying so."""
    rig.pods.sees(POD, began_s=600.0)
    running(rig)
    rig.pods.sees(POD, began_s=600.0)
    rig.steps()
    rig.pods.sees(POD, WorkerState.LEAVING, began_s=600.0)
    rig.steps()
    assert [record.ended_at for record in rig.ledger.records] == [None]
    rig.pods.sees(POD, WorkerState.GONE, began_s=600.0)
    rig.steps()
    assert rig.ledger.records[0].reason is Reason.WORKER_LOST


def test_a_worker_that_is_no_pod_is_never_lost(rig: Rig):
    flight = running(rig, "celery@a-machine")
    rig.pods.sees(POD)
    rig.pods.sees(POD, WorkerState.GONE)
    rig.steps(count=3)
    assert flight.phase is Phase.STARTED


def test_whoever_adopts_an_attempt_of_a_leaving_worker_knows_that_it_went_meanwhile(rig: Rig):
    flight = running(rig)
    rig.controller.inflight.remove(flight)
    adopted = replace(flight, where=WORKER, worker_leaves=True)
    rig.pods.pods = None
    rig.controller.adopt([adopted])
    rig.steps(count=2)
    assert adopted.phase is Phase.STARTED, "nothing is known of the pods yet"
    rig.pods.pods = {}
    rig.steps()
    assert rig.ledger.records[0].reason is Reason.WORKER_LOST


def test_an_adopted_attempt_is_not_ended_for_a_pod_that_was_never_seen(rig: Rig):
    flight = running(rig)
    rig.controller.inflight.remove(flight)
    adopted = replace(flight, where=WORKER)
    rig.controller.adopt([adopted])
    rig.steps(count=3)
    assert adopted.phase is Phase.STARTED
