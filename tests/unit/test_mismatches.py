"""Each mismatch by its name: it is seen within its time, repaired by its rule, and told once."""

from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest

from hybrid_executor.inflight import Flight
from hybrid_executor.leftovers import DRIFT_EVERY, ROWS_AT_ONCE
from hybrid_executor.lifecycle import Phase, Policy
from hybrid_executor.model.attempt import BackendName, Submission, SubmissionId, WorkloadKind
from hybrid_executor.model.mismatch import Mismatch
from hybrid_executor.model.observation import How
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome
from hybrid_executor.naming import pod_name
from hybrid_executor.options import OPTIONS
from tests.fixtures.airflow_double import Row, make_attempt, make_flight
from tests.fixtures.rig import CELERY, KUBERNETES, RECONCILE_S, Rig

BACKENDS = list(BackendName)
WITHIN_S = 30.0
#: After so long a slot is given back, as the page of mismatches says.
LEAK_S = 300.0
INTERVAL_S = float(next(option.default for option in OPTIONS if option.name == "reconcile_interval_s"))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def told(rig: Rig) -> list[Mismatch]:
    return [mismatch for _, mismatch in rig.heard.mismatches]


# --- the backend has lost it ------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "name"), [(CELERY, Mismatch.MESSAGE_LOST), (KUBERNETES, Mismatch.POD_LOST)]
)
def test_what_its_backend_lost_before_it_started_is_sent_again_under_a_new_name(
    rig: Rig, backend: BackendName, name: Mismatch
):
    flight = rig.queue(backend=backend)
    rig.steps()
    rig.worlds[backend].runs.clear()
    rig.steps(seconds=RECONCILE_S, count=3)
    assert told(rig) == [name]
    assert [i.number for i in rig.worlds[backend].received] == [1, 2]
    assert flight.number == 2
    assert rig.heard.events == []


def test_a_result_that_was_lost_ends_no_task_that_runs(rig: Rig):
    flight = rig.queue()
    rig.steps()
    rig.run(flight)
    rig.worlds[CELERY].end(flight.id, How.ABSENT)
    rig.steps(seconds=RECONCILE_S, count=3)
    assert told(rig) == [Mismatch.RESULT_LOST]
    assert rig.heard.events == []
    assert rig.controller.inflight.get(flight.attempt.id) is flight


def test_a_running_task_whose_pod_is_gone_fails_as_lost(rig: Rig):
    flight = rig.queue(backend=KUBERNETES)
    rig.steps()
    rig.run(flight)
    rig.worlds[KUBERNETES].end(flight.id, How.ABSENT)
    rig.steps()
    assert told(rig) == [Mismatch.POD_LOST]
    assert rig.heard.failures[flight.key].reason is Reason.LOST


# --- the task instance has gone on without it ----------------------------------------------


def mark(rig: Rig, flight: Flight) -> None:
    rig.row(flight).state = "failed"


def clear(rig: Rig, flight: Flight) -> None:
    rig.row(flight).state, rig.row(flight).attempt_id = "queued", "the next attempt"


def delete(rig: Rig, flight: Flight) -> None:
    assert flight.attempt.address
    del rig.tasks.rows[flight.attempt.address]


@pytest.fixture(params=["waiting", "running"])
def taken(rig: Rig, backend: BackendName, request: pytest.FixtureRequest) -> Flight:
    """What a user is about to take in hand."""
    flight = rig.queue(backend=backend)
    rig.steps()
    if request.param == "running":
        rig.run(flight)
        rig.steps()
    return flight


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("act", "name", "outcome"),
    [
        (mark, Mismatch.TASK_OVER, Outcome.FAILED),
        (clear, Mismatch.TASK_REPLACED, Outcome.REVOKED),
        (delete, Mismatch.TASK_DELETED, Outcome.REVOKED),
    ],
)
def test_what_a_user_took_in_hand_is_cancelled_within_30_s(
    rig: Rig, taken: Flight, act: Callable[[Rig, Flight], None], name: Mismatch, outcome: Outcome
):
    backend = taken.backend
    act(rig, taken)
    waited_s = 0.0
    # At the worst moment: a comparison has just been made.
    while not rig.backends[backend].cancelled and waited_s < 60:
        rig.steps(seconds=INTERVAL_S)
        waited_s += INTERVAL_S
    assert rig.backends[backend].cancelled == [taken.id]
    assert waited_s <= WITHIN_S
    rig.steps(seconds=RECONCILE_S, count=3)
    assert told(rig) == [name]
    assert [record.outcome for record in rig.ledger.records] == [outcome]
    assert rig.heard.events == []
    assert rig.worlds[backend].runs == {}


def test_an_attempt_whose_task_runs_in_an_older_pod_is_closed_with_its_task_and_fails_nothing(rig: Rig):
    flight = rig.queue(backend=KUBERNETES)
    rig.steps()
    rig.worlds[KUBERNETES].end(flight.id, How.FAILED)
    rig.steps()
    rig.steps(seconds=Policy().backoff_s(1))
    assert flight.number == 2
    # The first submission's pod is there again, and says that it starts before the second does.
    row = rig.row(flight)
    row.host = pod_name(flight.attempt.address, SubmissionId(flight.attempt.id, 1))
    assert rig.tasks.run(flight.attempt)
    rig.worlds[KUBERNETES].end(flight.id, How.FAILED)
    rig.steps(seconds=RECONCILE_S, count=5)
    assert rig.heard.mismatches == [(flight.id, Mismatch.RUNS_ELSEWHERE)]
    assert rig.heard.events == []
    assert len(rig.controller.inflight) == 1
    row.state = "success"
    rig.steps(seconds=RECONCILE_S, count=5)
    assert rig.heard.events == []
    assert len(rig.controller.inflight) == 0
    assert [record.outcome for record in rig.ledger.records] == [Outcome.REPLACED, Outcome.SUCCEEDED]


@pytest.mark.parametrize("state", ["queued", "running"])
def test_the_pod_of_a_closed_attempt_is_left_alone_only_where_the_task_runs_in_it(rig: Rig, state: str):
    former = rig.queue(backend=KUBERNETES)
    address = former.attempt.address
    assert address
    rig.steps()
    rig.run(former)
    rig.row(former).state = "success"
    rig.worlds[KUBERNETES].end(former.id, How.SUCCEEDED)
    rig.steps(count=2)
    assert [record.outcome for record in rig.ledger.records] == [Outcome.SUCCEEDED]
    # It was rescheduled; its pod is there again and says that it starts, before or after it is seen.
    host = pod_name(address, former.id)
    rig.tasks.rows[address] = Row(address, state, "the next attempt", "1", host=host)
    rig.backends[KUBERNETES].submit([Submission(attempt=former.attempt, number=1, payload="")])
    rig.steps(seconds=RECONCILE_S, count=4)
    assert rig.backends[KUBERNETES].cancelled == ([] if state == "running" else [former.id])


def test_an_attempt_of_another_scheduler_is_let_go_and_named(rig: Rig):
    flight = rig.queue()
    rig.steps()
    rig.row(flight).owner = "2"
    rig.steps(seconds=RECONCILE_S, count=2)
    assert rig.heard.mismatches == [(flight.id, Mismatch.OWNED_ELSEWHERE)]
    assert rig.backends[CELERY].cancelled == []


# --- nobody answers for it -------------------------------------------------------------------


def pod_of_nobody(rig: Rig) -> Submission:
    """Labelled as this scheduler's, without a row and without anything in flight."""
    submission = Submission(attempt=make_attempt(backend=KUBERNETES), number=1, payload="")
    rig.backends[KUBERNETES].submit([submission])
    return submission


@pytest.mark.parametrize("ended", [False, True], ids=["living", "ended"])
def test_a_pod_that_nobody_sent_is_removed_and_named_once(rig: Rig, ended: bool):
    submission = pod_of_nobody(rig)
    if ended:
        rig.worlds[KUBERNETES].end(submission.id, How.SUCCEEDED)
        rig.backends[KUBERNETES].poll()
        rig.backends[KUBERNETES].adopt([submission.id])
    rig.steps(seconds=RECONCILE_S, count=4)
    assert rig.heard.mismatches == [(submission.id, Mismatch.POD_WITHOUT_ATTEMPT)]
    assert rig.worlds[KUBERNETES].runs == {}


def test_a_pod_whose_row_is_open_is_left_to_whoever_answers_for_it(rig: Rig):
    """It was adopted by another scheduler this very moment."""
    flight = rig.queue(backend=KUBERNETES)
    rig.steps()
    rig.row(flight).owner = "2"
    rig.controller.inflight.remove(flight)
    rig.worlds[KUBERNETES].start(flight.id)
    rig.steps(count=3)
    assert told(rig) == []
    assert rig.backends[KUBERNETES].cancelled == []


def test_a_row_that_a_dead_scheduler_left_open_is_closed_and_named(rig: Rig):
    flight = make_flight()
    address = flight.attempt.address
    assert address
    rig.ledger.record([replace(rig.controller.row_of(flight), scheduler_job="dead")], [])
    rig.tasks.rows[address] = Row(address, "success", flight.attempt.id, "dead")
    rig.tasks.live = {"1", "another that lives"}
    rig.steps(seconds=RECONCILE_S, count=2)
    assert rig.heard.mismatches == [(flight.id, Mismatch.ROW_WITHOUT_SCHEDULER)]


def rows_of_nothing(rig: Rig, count: int, state: str = "failed") -> list[Flight]:
    """Rows of this very scheduler for which it has nothing in flight."""
    flights = [make_flight(attempt_id=str(uuid4())) for _ in range(count)]
    for flight in flights:
        address = flight.attempt.address
        assert address
        rig.tasks.rows[address] = Row(address, state, flight.attempt.id, "1")
    rig.ledger.record([rig.controller.row_of(flight) for flight in flights], [])
    return flights


def test_rows_that_drifted_from_what_is_in_flight_are_closed_a_page_at_a_time(rig: Rig):
    rows_of_nothing(rig, ROWS_AT_ONCE + 3)
    rig.steps(seconds=RECONCILE_S, count=DRIFT_EVERY)
    assert sum(record.ended_at is not None for record in rig.ledger.records) == ROWS_AT_ONCE
    rig.steps(seconds=RECONCILE_S, count=DRIFT_EVERY)
    assert all(record.outcome is Outcome.FAILED for record in rig.ledger.records)
    assert told(rig) == [Mismatch.IN_FLIGHT_DRIFTED] * (ROWS_AT_ONCE + 3)


def test_a_drifted_row_that_its_task_instance_carries_is_airflows_to_decide(rig: Rig):
    rows_of_nothing(rig, 1, state="running")
    rig.steps(seconds=RECONCILE_S, count=2 * DRIFT_EVERY)
    assert [record.ended_at for record in rig.ledger.records] == [None]


def test_an_end_that_is_noted_and_not_written_yet_is_no_drift(rig: Rig):
    flights = [rig.queue() for _ in range(2)]
    rig.steps()
    rig.steps(seconds=RECONCILE_S, count=DRIFT_EVERY - 2)
    for flight in flights:
        rig.run(flight)
        rig.row(flight).state = "success"
        rig.worlds[CELERY].end(flight.id, How.SUCCEEDED)
    rig.steps(seconds=RECONCILE_S, count=2)
    assert told(rig) == []
    assert [record.outcome for record in rig.ledger.records] == [Outcome.SUCCEEDED] * 2


def withdrawn_without_an_answer(rig: Rig, backend: BackendName, **options: object) -> Flight:
    """Its worker was killed: the message stays unacknowledged, the result never comes."""
    flight = rig.queue(backend=backend, **options)
    rig.steps()
    rig.worlds[backend].start(flight.id)
    rig.steps()
    rig.row(flight).state = "failed"
    rig.backends[backend].cancel = lambda ids, cluster="": rig.backends[backend].cancelled.extend(ids)
    rig.controller.revoke(flight)
    return flight


@pytest.mark.parametrize("kind", [WorkloadKind.TASK, WorkloadKind.CALLBACK])
def test_a_withdrawn_attempt_of_a_killed_worker_gives_its_slot_back_af28943(rig: Rig, kind: WorkloadKind):
    flight = withdrawn_without_an_answer(rig, CELERY, kind=kind)
    rig.steps(seconds=RECONCILE_S, count=int(LEAK_S / RECONCILE_S) - 1)
    assert rig.controller.inflight.occupied() == 1
    rig.steps(seconds=RECONCILE_S, count=3)
    assert rig.controller.inflight.occupied() == 0
    assert rig.heard.mismatches == [(flight.id, Mismatch.SLOT_LEAKED)]
    assert [record.outcome for record in rig.ledger.records] == [Outcome.REVOKED]


def test_a_withdrawn_pod_keeps_its_slot_and_is_withdrawn_once_more(rig: Rig):
    flight = withdrawn_without_an_answer(rig, KUBERNETES)
    rig.steps(seconds=RECONCILE_S, count=int(LEAK_S / RECONCILE_S) + 3)
    assert rig.backends[KUBERNETES].cancelled == [flight.id, flight.id]
    assert rig.heard.mismatches == [(flight.id, Mismatch.SLOT_LEAKED)]
    assert rig.controller.inflight.occupied() == 1


def test_no_slot_is_given_back_while_the_broker_is_away(rig: Rig):
    """Its message may still lie in the queue."""
    withdrawn_without_an_answer(rig, CELERY)
    rig.worlds[CELERY].away = True
    rig.steps(seconds=RECONCILE_S, count=int(2 * LEAK_S / RECONCILE_S))
    assert rig.controller.inflight.sent(CELERY) == 1
    assert told(rig) == []


def test_a_newer_attempt_that_waited_for_a_leaked_one_is_sent(rig: Rig):
    old = rig.queue(task_id="t")
    rig.steps()
    rig.worlds[CELERY].start(old.id)
    rig.steps()
    rig.backends[CELERY].cancel = lambda ids, cluster="": None
    new = rig.queue(task_id="t")
    rig.steps(seconds=RECONCILE_S, count=int(LEAK_S / RECONCILE_S) - 1)
    assert new.phase is Phase.READY
    rig.steps(seconds=RECONCILE_S, count=3)
    assert rig.worlds[CELERY].received == [old.id, new.id]
