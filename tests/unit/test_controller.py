"""The controller's promises one by one, over the shipped fakes; ``test_controller_machine`` mixes them."""

import logging
from dataclasses import asdict, replace
from datetime import timedelta

import pytest

from hybrid_executor import longwaits
from hybrid_executor.backends.memory import MemoryBackend
from hybrid_executor.comparison import LINGER_S
from hybrid_executor.controller import PAYLOADS_AT_ONCE
from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.lifecycle import Phase, Policy, restart_text
from hybrid_executor.model.attempt import Submission, SubmissionId, TaskAddress
from hybrid_executor.model.observation import Accepted, Diagnosis, How, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome
from hybrid_executor.model.resources import Resources
from hybrid_executor.reconcile import START_GRACE_S
from hybrid_executor.restart import RESTARTS_AT_ONCE
from tests.fixtures.airflow_double import Row, make_flight
from tests.fixtures.rig import CELERY, KUBERNETES, RECONCILE_S, TOKEN_LIFE_S, Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_nothing_is_sent_while_the_ledger_can_not_be_written(rig: Rig):
    rig.ledger.away = True
    flight = rig.queue()
    rig.steps(count=3)
    assert rig.worlds[CELERY].received == []
    assert flight.reason is Reason.LEDGER_UNAVAILABLE
    rig.ledger.away = False
    rig.steps()
    assert rig.worlds[CELERY].received == [flight.id]
    assert [record.id for record in rig.ledger.records] == [flight.id]


def test_a_second_submission_is_recorded_before_it_is_sent(rig: Rig):
    flight = rig.queue()
    rig.steps()
    rig.worlds[CELERY].end(flight.id, How.FAILED, Diagnosis(reason=Reason.EVICTED))
    rig.steps()
    rig.ledger.away = True
    rig.steps(seconds=60.0)
    assert [i.number for i in rig.worlds[CELERY].received] == [1]
    rig.ledger.away = False
    rig.steps()
    assert [i.number for i in rig.worlds[CELERY].received] == [1, 2]
    assert [(record.id.number, record.outcome) for record in rig.ledger.records] == [
        (1, Outcome.REPLACED),
        (2, None),
    ]


def test_an_end_is_released_only_when_it_is_recorded(rig: Rig):
    """A pod is the only witness of its end until the ledger has it."""
    flight = rig.queue()
    rig.steps()
    rig.run(flight)
    rig.ledger.away = True
    rig.row(flight).state = "success"
    rig.worlds[CELERY].end(flight.id, How.SUCCEEDED)
    rig.steps(count=3)
    assert rig.backends[CELERY].released == []
    rig.ledger.away = False
    rig.steps()
    assert rig.backends[CELERY].released == [flight.id]
    assert rig.ledger.records[0].outcome is Outcome.SUCCEEDED


def test_an_attempt_that_died_before_it_started_costs_no_retry_and_says_so_af69052(rig: Rig):
    flight = rig.queue()
    rig.steps()
    rig.worlds[CELERY].end(flight.id, How.FAILED, Diagnosis(reason=Reason.EVICTED, message="node is drained"))
    rig.steps()
    rig.steps(seconds=60.0)
    assert rig.heard.events == []
    assert [text for _, _, text in rig.heard.notes if "node is drained" in text and "no retry" in text]
    assert [i.number for i in rig.worlds[CELERY].received] == [1, 2]


def test_a_failure_is_not_told_once_the_task_instance_carries_another_attempt(rig: Rig):
    flight = rig.queue()
    rig.steps()
    rig.run(flight)
    rig.row(flight).attempt_id = "a newer one"
    rig.worlds[CELERY].end(flight.id, How.FAILED, Diagnosis(reason=Reason.OOM_KILLED))
    rig.steps()
    assert rig.heard.events == []
    assert rig.ledger.records[0].outcome is Outcome.FAILED


def test_the_clock_of_a_known_wait_is_set_back_again_and_again(rig: Rig):
    held = [rig.queue(backend=KUBERNETES) for _ in range(3)][-1]
    rig.worlds[CELERY].away = True
    away = rig.queue()
    rig.steps()
    for _ in range(3):
        rig.tasks.refreshed.clear()
        rig.steps(seconds=RECONCILE_S, count=2)
        assert {held.attempt.id, away.attempt.id} <= set(rig.tasks.refreshed)


def test_a_reason_that_was_not_seen_for_long_explains_no_wait(rig: Rig):
    """A message that a worker took and forgot: Airflow's own timeout is what ends that."""
    flight = rig.queue()
    rig.steps(count=2)
    assert flight.phase is Phase.ACCEPTED
    # The look-ups find it with a worker, and say so in a later heartbeat.
    asked: list[SubmissionId] = []
    rig.backends[CELERY].adopt = lambda ids, cluster: asked.extend(ids)
    rig.backends[CELERY].poll = lambda: [Accepted(asked.pop(), "held")] if asked else []
    flight.reason, flight.reason_seen_s = Reason.IN_QUEUE, rig.clock.elapsed_s
    rig.steps(seconds=RECONCILE_S)
    assert flight.attempt.id in rig.tasks.refreshed
    rig.clock.elapsed_s += 100 * RECONCILE_S
    rig.tasks.refreshed.clear()
    rig.steps(seconds=RECONCILE_S, count=5)
    assert rig.tasks.refreshed == []


def test_thousands_in_flight_are_compared_share_by_share_within_one_interval(rig: Rig):
    rig.controller.inflight._parallelism = 10_000
    flights = [rig.queue() for _ in range(3_000)]
    rig.steps(count=2)
    asked: list[int] = []
    seen: set[TaskAddress] = set()
    witnesses = rig.tasks.witnesses

    def counted(attempts):
        asked.append(len(attempts))
        seen.update(attempts.values())
        return witnesses(attempts)

    rig.tasks.witnesses = counted
    beats = 20
    for _ in range(2 * beats + 1):
        rig.steps(seconds=RECONCILE_S / beats)
    assert max(asked) <= 3_000 // beats + 1
    assert seen == {flight.attempt.address for flight in flights}


@pytest.mark.parametrize("count", [200, 2_000])
def test_heartbeats_that_follow_each_other_at_once_compare_nobody_however_many_are_in_flight(
    rig: Rig, count: int, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING, "hybrid_executor")
    rig.controller.inflight._parallelism = count
    for _ in range(count):
        rig.queue()
    rig.steps(count=2)
    rig.steps(seconds=RECONCILE_S / 20, count=30)
    assert rig.controller._reconciler._round, "a round is under way"
    before = rig.tasks.queries
    rig.steps(count=20)
    assert rig.tasks.queries == before


def test_a_wait_that_is_told_to_airflow_is_not_told_again_before_it_matters(rig: Rig):
    rig.worlds[CELERY].away = True
    flight = rig.queue()
    rig.controller._reconciler._refresh = timedelta(seconds=4 * RECONCILE_S)
    rig.tasks.refreshed.clear()
    rig.steps(seconds=RECONCILE_S, count=3)
    assert rig.tasks.refreshed == []
    rig.steps(seconds=RECONCILE_S, count=6)
    assert rig.tasks.refreshed == [flight.attempt.id] * 2


def test_a_token_that_waited_is_signed_anew_and_a_fresh_one_is_not(rig: Rig):
    rig.queue()
    rig.steps()
    rig.worlds[CELERY].away = True
    rig.queue()
    rig.steps()
    rig.worlds[CELERY].away = False
    rig.steps(seconds=TOKEN_LIFE_S / 10, count=2)
    assert rig.backends[CELERY].payloads == ["parcel first", "parcel first", "parcel fresh"]


def test_all_who_waited_for_a_backend_go_when_one_of_them_got_through(rig: Rig):
    rig.worlds[CELERY].away = True
    flights = [rig.queue() for _ in range(10)]
    rig.steps(seconds=10.0, count=8)
    assert {flight.phase for flight in flights} <= {Phase.READY, Phase.BACKOFF, Phase.SENT}
    rig.worlds[CELERY].away = False
    rig.queue()
    rig.steps(count=4)
    assert len(rig.worlds[CELERY].received) == 11


def test_a_backend_that_is_away_gets_one_attempt_at_a_time_and_leaves_the_slots_to_the_other(rig: Rig):
    rig.worlds[CELERY].away = True
    urgent = [rig.queue(priority=100) for _ in range(60)]
    rig.steps(seconds=1.0, count=2)
    assert rig.controller.inflight.occupied() <= 1
    others = [rig.queue(backend=KUBERNETES, priority=1) for _ in range(2)]
    rig.steps()
    assert set(rig.worlds[KUBERNETES].received) == {flight.id for flight in others}
    for _ in range(20):
        rig.steps(seconds=1.0)
        assert rig.controller.inflight.sent(CELERY) <= 1
    rig.worlds[CELERY].away = False
    rig.steps(seconds=1.0, count=40)
    assert len(rig.worlds[CELERY].received) == 30, "parallelism is 32, and two pods run"
    assert {flight.phase for flight in urgent} == {Phase.READY, Phase.ACCEPTED}


def test_a_cluster_that_is_away_leaves_the_others_alone(rig: Rig, caplog: pytest.LogCaptureFixture):
    rig.east.away = True
    waits = [rig.queue(backend=KUBERNETES, cluster="east", priority=100) for _ in range(60)]
    rig.steps(seconds=1.0, count=2)
    assert rig.controller.inflight.occupied() <= 1
    goes = [rig.queue(backend=KUBERNETES, priority=1)]
    rig.steps()
    assert rig.worlds[KUBERNETES].received == [goes[0].id]
    light = [rig.queue(priority=1) for _ in range(5)]
    rig.steps(seconds=1.0, count=20)
    assert set(rig.worlds[CELERY].received) == {flight.id for flight in light}
    assert caplog.text.count("backend=kubernetes cluster=east breaker=open") == 1
    assert "backend=kubernetes breaker=open" not in caplog.text
    assert {flight.reason for flight in waits} <= {Reason.API_UNAVAILABLE, None}
    rig.east.away = False
    rig.worlds[KUBERNETES].end(goes[0].id, How.CANCELLED)
    rig.steps(seconds=1.0, count=5)
    assert len(rig.east.received) == 2, "kubernetes_parallelism is 2, over all clusters"


def test_what_runs_in_a_cluster_is_adopted_and_withdrawn_there(rig: Rig):
    former = MemoryBackend(rig.worlds[KUBERNETES], name=KUBERNETES, owner="dead", clusters={"east": rig.east})
    adopted, over = (make_flight(backend=KUBERNETES, cluster="east") for _ in range(2))
    for flight, state in ((adopted, "running"), (over, "failed")):
        rig.tasks.rows[flight.attempt.address] = Row(flight.attempt.address, state, flight.attempt.id, "dead")
        rig.ledger.record([replace(rig.controller.row_of(flight), scheduler_job="dead")], [])
        former.submit([Submission(attempt=flight.attempt, number=1, payload="")])
    rig.east.start(adopted.id)
    rig.row(adopted).owner = "1"
    adopted.phase, adopted.recorded, adopted.parcel = Phase.SENT, True, None
    rig.controller.adopt([adopted])
    rig.tasks.live = {"1", "another that lives"}
    rig.steps(seconds=RECONCILE_S, count=4)
    assert adopted.phase is Phase.STARTED
    assert over.id not in rig.east.runs, "its pod was not withdrawn"
    rig.controller.revoke(adopted)
    rig.steps()
    assert rig.east.runs == {}


def test_a_pod_that_no_node_could_hold_is_noted_once_and_goes_on(rig: Rig):
    flight = rig.queue(backend=KUBERNETES)
    rig.steps()
    waits = [
        Waiting(flight.id, Reason.POD_PENDING, "not bound"),
        Waiting(flight.id, Reason.NO_NODE, "large comes nearest"),
        Waiting(flight.id, Reason.NO_NODE, "large comes nearest. The scheduler: 0/3 nodes"),
    ]
    for seen in waits:
        rig.sees(seen)
    [(_, event, text)] = rig.heard.notes
    assert event == "hybrid executor: no node could hold it"
    assert text.startswith("NoNode: large comes nearest -> lower its requests")
    assert (flight.phase, flight.reason) == (Phase.ACCEPTED, Reason.NO_NODE)


def waits_told(rig: Rig) -> list[str]:
    return [text for _, event, text in rig.heard.notes if event == "hybrid executor: waits"]


def test_a_wait_of_more_than_a_minute_is_said_in_the_event_log_once_for_each_reason(rig: Rig):
    flight = rig.queue(backend=KUBERNETES)
    rig.steps()
    rig.sees(Waiting(flight.id, Reason.IMAGE_PULL, "team/app:1"))
    rig.steps(seconds=59)
    assert waits_told(rig) == []
    for _ in range(5):
        rig.sees(Waiting(flight.id, Reason.IMAGE_PULL, "team/app:1, back-off"), seconds=60)
    [text] = waits_told(rig)
    assert "ImagePull: team/app:1" in text
    assert Reason.IMAGE_PULL.hint in text
    rig.sees(Waiting(flight.id, Reason.UNSCHEDULABLE, "0/3 nodes"))
    rig.steps(seconds=61)
    rig.sees(Waiting(flight.id, Reason.IMAGE_PULL, "team/app:1, back-off"), seconds=61)
    rig.steps(seconds=61)
    assert [text.partition(" -> ")[0].rpartition(": ")[2] for text in waits_told(rig)[1:]] == ["0/3 nodes"]
    assert flight.phase is Phase.ACCEPTED


def test_a_task_that_no_worker_takes_says_so_after_a_minute(rig: Rig):
    flight = rig.queue(backend=CELERY)
    rig.steps(count=2)
    # A broker has no word for a message that nobody takes.
    rig.controller.inflight.explain(flight, None, "")
    rig.steps(seconds=61)
    [text] = waits_told(rig)
    assert "submitted 1m" in text
    assert "start workers for queue" in text


def test_what_started_or_ended_within_the_minute_leaves_no_line(rig: Rig):
    runs, over = rig.queue(), rig.queue()
    rig.steps()
    rig.run(runs)
    rig.controller.revoke(over)
    rig.steps(seconds=200, count=2)
    assert waits_told(rig) == []


def test_many_long_waits_are_said_a_few_at_each_step(rig: Rig):
    count = longwaits.AT_ONCE + 1
    for _ in range(count):
        rig.queue(backend=CELERY)
    rig.steps()
    rig.steps(seconds=61)
    assert len(waits_told(rig)) == longwaits.AT_ONCE
    rig.steps()
    assert len(waits_told(rig)) == count


def test_the_ledger_says_what_an_attempt_waits_for_and_since_when(rig: Rig):
    flight = rig.queue(backend=KUBERNETES)
    rig.steps()
    waits = [
        Waiting(flight.id, Reason.POD_PENDING, "not bound"),
        Waiting(flight.id, Reason.IMAGE_PULL, "team/app:1"),
        Waiting(flight.id, Reason.IMAGE_PULL, "team/app:1, back-off"),
    ]
    began = []
    for seen in waits:
        rig.sees(seen, seconds=5.0)
        began.append(rig.clock.now())
    [row] = rig.ledger.records
    assert (row.waits_for, row.waits_message) == (Reason.IMAGE_PULL, "team/app:1, back-off")
    assert row.waits_since == began[1], "the words may change while the wait goes on"


def test_an_outage_is_one_line_and_its_end_another(rig: Rig, caplog: pytest.LogCaptureFixture):
    rig.worlds[CELERY].away = True
    for _ in range(10):
        rig.queue()
    rig.steps(seconds=1.0, count=20)
    assert caplog.text.count("backend=celery breaker=open") == 1
    rig.worlds[CELERY].away = False
    rig.steps(seconds=1.0, count=20)
    assert caplog.text.count("backend=celery breaker=open") == 1
    assert caplog.text.count("backend=celery breaker=closed") == 1
    assert len(rig.worlds[CELERY].received) == 10


def test_a_refusal_for_another_reason_shows_that_a_backend_is_back(rig: Rig):
    inflight = rig.controller.inflight
    rig.worlds[KUBERNETES].away = True
    flights = [rig.queue(backend=KUBERNETES) for _ in range(2)]
    rig.steps(count=2)
    rig.backends[KUBERNETES].poll = list
    rig.steps(seconds=2.0)
    [sent] = [flight for flight in flights if flight.phase is Phase.SENT]
    quota = Waiting(sent.id, Reason.QUOTA, "exceeded", retry_after_s=30.0)
    rig.backends[KUBERNETES].poll = lambda: [quota]
    rig.steps()
    assert [flight.phase for flight in flights if flight is not sent] == [Phase.SENT]
    assert inflight.sent(KUBERNETES) == 1


def test_a_process_that_has_started_is_given_time_to_start_the_task(rig: Rig):
    flight = rig.queue()
    rig.steps()
    rig.worlds[CELERY].start(flight.id)
    rig.steps()
    rig.steps(seconds=RECONCILE_S)
    assert rig.tasks.refreshed[-1:] == [flight.attempt.id]
    rig.steps(seconds=START_GRACE_S)
    count = len(rig.tasks.refreshed)
    rig.steps(seconds=RECONCILE_S)
    assert len(rig.tasks.refreshed) == count


def test_a_newer_attempt_withdraws_the_older_one_and_waits_for_its_end(rig: Rig):
    old = rig.queue(task_id="t")
    rig.steps()
    rig.backends[CELERY].cancel = lambda ids, cluster: (  # its process takes its time
        rig.backends[CELERY].cancelled.extend(ids)
    )
    new = rig.queue(task_id="t")
    rig.steps(count=3)
    assert rig.backends[CELERY].cancelled == [old.id]
    assert rig.worlds[CELERY].received == [old.id]
    rig.worlds[CELERY].end(old.id, How.CANCELLED)
    rig.steps()
    assert rig.worlds[CELERY].received == [old.id, new.id]
    assert rig.heard.events == []


def test_a_withdrawn_attempt_whose_request_may_have_been_heard_is_looked_for(rig: Rig):
    """It backs off after a lost answer: its pod may exist although nobody has seen it."""
    flight = rig.queue()
    rig.steps()
    rig.backends[CELERY]._seen.append(Waiting(flight.id, Reason.API_UNAVAILABLE, "lost", retry_after_s=9.0))
    rig.controller._observe()
    assert flight.phase is Phase.BACKOFF
    rig.controller.revoke(flight)
    assert rig.backends[CELERY].cancelled == [flight.id]


def test_what_airflow_has_gone_on_without_is_withdrawn_after_its_grace(rig: Rig):
    flight = rig.queue()
    rig.steps()
    rig.run(flight)
    rig.steps()
    rig.row(flight).state = "failed"
    rig.steps(seconds=RECONCILE_S)
    assert rig.backends[CELERY].cancelled == []
    rig.steps(seconds=60.0)
    assert rig.backends[CELERY].cancelled == [flight.id]
    assert rig.heard.events == []


def test_an_attempt_that_another_scheduler_adopted_is_let_be(rig: Rig):
    flight = rig.queue()
    rig.steps()
    rig.row(flight).owner = "2"
    rig.steps(seconds=RECONCILE_S)
    assert rig.controller.inflight.get(flight.attempt.id) is None
    assert rig.backends[CELERY].cancelled == rig.backends[CELERY].released == []


def test_an_end_waits_while_the_metadata_database_is_away(rig: Rig):
    flight = rig.queue()
    rig.steps()
    rig.run(flight)
    rig.tasks.away = True
    rig.worlds[CELERY].end(flight.id, How.FAILED, Diagnosis(reason=Reason.OOM_KILLED))
    rig.steps(count=3)
    assert rig.heard.events == []
    rig.tasks.away = False
    rig.steps()
    assert [state for _, state in rig.heard.events] == ["failed"]
    assert rig.heard.failures[flight.key].reason is Reason.OOM_KILLED


def test_an_adopted_attempt_is_asked_for_and_not_sent_again(rig: Rig):
    flight = rig.queue()
    rig.steps()
    successor = make_flight(attempt_id=flight.attempt.id, task_id=flight.attempt.address.task_id)
    successor.phase, successor.recorded, successor.parcel = Phase.SENT, True, None
    rig.controller.inflight.remove(flight)
    rig.controller.adopt([successor])
    rig.steps(count=3)
    assert rig.worlds[CELERY].received == [flight.id]
    assert successor.phase is Phase.ACCEPTED


def adopt_cut_short(rig: Rig, count: int = 1) -> list[Flight]:
    """Attempts whose scheduler died between their pods and the Secrets of these, adopted by this one."""
    flights = [make_flight(backend=KUBERNETES) for _ in range(count)]
    rig.worlds[KUBERNETES].cut_short = True
    for flight in flights:
        address = flight.attempt.address
        assert address
        rig.tasks.rows[address] = Row(address, "queued", flight.attempt.id, "1")
        rig.backends[KUBERNETES].submit([Submission(attempt=flight.attempt, number=1, payload="lost")])
        flight.phase, flight.recorded, flight.parcel = Phase.SENT, True, None
    rig.backends[KUBERNETES].poll()
    rig.backends[KUBERNETES].payloads.clear()
    rig.worlds[KUBERNETES].cut_short = False
    rig.worlds[KUBERNETES].received.clear()
    rig.ledger.record([rig.controller.row_of(flight) for flight in flights], [])
    rig.controller.adopt(flights)
    return flights


def test_an_adopted_attempt_that_lacks_its_payload_is_given_it_without_leaving_its_place(rig: Rig):
    [flight] = adopt_cut_short(rig)
    rig.steps()
    assert rig.worlds[KUBERNETES].received == [flight.id]
    assert flight.phase is Phase.ACCEPTED
    rig.steps(count=3)
    assert rig.worlds[KUBERNETES].received == [flight.id]
    rig.run(flight)
    rig.steps()
    assert flight.phase is Phase.STARTED


def test_a_payload_that_can_not_be_made_now_is_made_later(rig: Rig):
    [flight] = adopt_cut_short(rig)
    rig.tasks.away = True
    rig.steps(count=3)
    assert rig.worlds[KUBERNETES].received == []
    assert flight.phase is Phase.ACCEPTED
    rig.tasks.away = False
    rig.steps()
    assert rig.worlds[KUBERNETES].received == [flight.id]


def test_what_is_not_to_run_any_more_gets_no_payload(rig: Rig):
    gone_on, withdrawn = adopt_cut_short(rig, 2)
    rig.row(gone_on).state = "failed"
    rig.controller.revoke(withdrawn)
    rig.steps(count=3)
    assert rig.worlds[KUBERNETES].received == []


def test_payloads_are_made_anew_a_few_in_each_step(rig: Rig):
    flights = adopt_cut_short(rig, 2 * PAYLOADS_AT_ONCE + 1)
    made = []
    for _ in range(3):
        rig.steps()
        made.append(len(rig.worlds[KUBERNETES].received))
    assert made == [PAYLOADS_AT_ONCE, 2 * PAYLOADS_AT_ONCE, len(flights)]


def test_an_adopted_attempt_that_was_never_sent_is_sent_as_its_next_submission(rig: Rig):
    flight = make_flight()
    flight.phase, flight.recorded, flight.parcel = Phase.SENT, True, None
    assert flight.attempt.address
    rig.tasks.rows[flight.attempt.address] = Row(flight.attempt.address, "queued", flight.attempt.id, "1")
    rig.ledger.record([rig.controller.row_of(flight)], [])
    rig.controller.adopt([flight])
    rig.steps()
    rig.steps(seconds=60.0)
    assert [i.number for i in rig.worlds[CELERY].received] == [2]


def test_a_step_without_a_change_asks_nobody(rig: Rig):
    rig.queue()
    rig.queue(backend=KUBERNETES)
    rig.steps(count=3)
    queries, writes = rig.tasks.queries, rig.ledger.writes
    rig.steps(count=10)
    assert (rig.tasks.queries, rig.ledger.writes) == (queries, writes)


def test_rows_that_a_dead_scheduler_left_open_are_closed_with_what_became_of_the_task(rig: Rig):
    """Tasks that ended while no scheduler lived are never offered for adoption."""
    ended, adoptable = make_flight(), make_flight()
    for flight, state in ((ended, "success"), (adoptable, "running")):
        assert flight.attempt.address
        row = replace(rig.controller.row_of(flight), scheduler_job="dead")
        rig.ledger.record([row], [])
        rig.tasks.rows[flight.attempt.address] = Row(flight.attempt.address, state, flight.attempt.id, "dead")
    rig.tasks.live = {"1", "another that lives"}
    rig.steps(seconds=RECONCILE_S, count=2)
    found = {record.id: record for record in rig.ledger.records}
    assert found[ended.id].outcome is Outcome.SUCCEEDED
    assert found[adoptable.id].ended_at is None


def test_where_and_when_a_process_ran_that_no_look_saw_running_comes_from_airflow(rig: Rig):
    flight = rig.queue()
    rig.steps()
    started_at = rig.clock.now()
    row = rig.row(flight)
    row.state, row.started_at, row.host = "success", started_at, "worker-7"
    rig.worlds[CELERY].end(flight.id, How.SUCCEEDED)
    rig.steps(seconds=3.0)
    (record,) = rig.ledger.records
    assert (record.started_at, record.where) == (started_at, "worker-7")
    assert record.outcome is Outcome.SUCCEEDED


def test_what_ends_between_the_death_of_its_scheduler_and_an_adoption_is_swept_soon(rig: Rig):
    """Airflow never offers it for adoption, because its task is over."""
    former = MemoryBackend(rig.worlds[KUBERNETES], name=KUBERNETES, owner="dead")
    flight = make_flight(backend=KUBERNETES)
    rig.tasks.rows[flight.attempt.address] = Row(flight.attempt.address, "running", flight.attempt.id, "dead")
    record = replace(rig.controller.row_of(flight), scheduler_job="dead")
    rig.ledger.record([record], [])
    former.submit([Submission(attempt=flight.attempt, number=1, payload="")])
    rig.worlds[KUBERNETES].start(flight.id)
    rig.steps(seconds=RECONCILE_S)
    rig.row(flight).state = "success"
    rig.worlds[KUBERNETES].end(flight.id, How.SUCCEEDED)
    rig.steps(seconds=RECONCILE_S, count=3)
    assert flight.id not in rig.worlds[KUBERNETES].runs
    (record,) = rig.ledger.records
    assert record.outcome is Outcome.SUCCEEDED


EVICTED = Diagnosis(reason=Reason.EVICTED, message="the node was low on memory")


def forgiving(rig: Rig, task_id: str = "t", try_number: int = 1) -> Flight:
    """A running task whose route forgives evictions, twice in a row."""
    flight = make_flight(backend=KUBERNETES, task_id=task_id)
    address = replace(flight.attempt.address, try_number=try_number)
    route = replace(flight.attempt.route, retry_on=frozenset({Reason.EVICTED}), retry_limit=2)
    flight.attempt = replace(flight.attempt, route=route, address=address)
    rig.tasks.rows[address] = Row(address, "queued", flight.attempt.id, "1")
    rig.controller.release(flight)
    rig.steps()
    rig.run(flight)
    rig.steps()
    return flight


def test_a_death_that_the_route_forgives_makes_airflow_run_the_task_again(rig: Rig):
    flight = forgiving(rig)
    rig.worlds[KUBERNETES].end(flight.id, How.FAILED, EVICTED)
    rig.steps()
    assert rig.row(flight).state == "restarting"
    assert "low on memory" in (rig.row(flight).retry_reason or "")
    assert rig.heard.events == [(flight.key, "restarted")]
    (record,) = rig.ledger.records
    assert (record.outcome, record.reason) == (Outcome.RESTARTED, Reason.EVICTED)
    assert [event for _, event, _ in rig.heard.notes] == ["hybrid executor: runs again"]


UNANSWERED = Diagnosis(reason=Reason.NOT_STARTED, message="ReadTimeout", exit_code=75)


def test_a_start_that_airflow_noted_and_never_answered_is_made_again_up_to_the_limit(rig: Rig):
    """Also on a route that forgives nothing of a running task."""
    outcomes, limit = [], Policy().submission_limit
    for number in range(1, limit + 1):
        flight = forgiving(rig, try_number=number)
        flight.attempt = replace(flight.attempt, route=replace(flight.attempt.route, retry_on=frozenset()))
        rig.row(flight).host = "pod-1"
        rig.worlds[KUBERNETES].end(flight.id, How.FAILED, UNANSWERED, asked_as="pod-1")
        rig.steps()
        outcomes.append(rig.ledger.find([flight.attempt.id])[flight.attempt.id].outcome)
    assert outcomes == [Outcome.RESTARTED] * (limit - 1) + [Outcome.FAILED]
    assert [event for _, event in rig.heard.events] == ["restarted"] * (limit - 1) + ["failed"]


def test_deaths_are_forgiven_up_to_the_limit_in_a_row(rig: Rig):
    outcomes = []
    for number in range(1, 5):
        flight = forgiving(rig, try_number=number)
        rig.worlds[KUBERNETES].end(flight.id, How.FAILED, EVICTED)
        rig.steps()
        outcomes.append(next(r.outcome for r in rig.ledger.records if r.id == flight.id))
    again, failed = Outcome.RESTARTED, Outcome.FAILED
    assert outcomes == [again, again, failed, again], "a failure begins the count anew"


def test_a_restart_waits_while_the_metadata_database_or_the_ledger_is_away(rig: Rig):
    flight = forgiving(rig)
    rig.worlds[KUBERNETES].end(flight.id, How.FAILED, EVICTED)
    rig.ledger.away = True
    rig.steps(count=2)
    rig.ledger.away, rig.tasks.away = False, True
    rig.steps(count=2)
    assert rig.heard.events == []
    rig.tasks.away = False
    rig.steps()
    assert rig.heard.events == [(flight.key, "restarted")]


def test_a_task_that_a_user_takes_in_hand_in_that_moment_is_left_to_the_user(rig: Rig):
    flight = forgiving(rig)
    ask = rig.tasks.restart

    def restart_too_late(*arguments: object) -> bool:
        rig.row(flight).state = "failed"
        return ask(*arguments)

    rig.tasks.restart = restart_too_late
    rig.worlds[KUBERNETES].end(flight.id, How.FAILED, EVICTED)
    rig.steps(count=3)
    assert rig.row(flight).state == "failed"
    assert rig.heard.events == []
    assert rig.ledger.records[0].outcome is Outcome.FAILED


def test_a_restart_that_its_scheduler_did_not_outlive_is_finished_by_whoever_adopts_it(rig: Rig):
    """Killed after the task instance was prepared, and before Airflow was told to go on."""
    flight = forgiving(rig)
    assert rig.tasks.restart(flight.attempt, restart_text(EVICTED), 1.0)
    rig.controller.inflight.remove(flight)
    rig.worlds[KUBERNETES].end(flight.id, How.FAILED, EVICTED)
    rig.steps()
    successor = Flight(attempt=flight.attempt, key=flight.key, phase=Phase.STARTED, recorded=True)
    rig.controller.adopt([successor])
    rig.steps(count=2)
    assert rig.heard.events == [(flight.key, "restarted")]
    (record,) = rig.ledger.records
    assert (record.outcome, record.reason) == (Outcome.RESTARTED, Reason.EVICTED)


def test_a_storm_of_deaths_is_worked_off_a_part_in_each_step(rig: Rig):
    rig.controller.inflight = rig.controller._reconciler._inflight = Inflight(
        parallelism=100, limits={}, held_limit=100
    )
    flights = [forgiving(rig, f"t{number}") for number in range(RESTARTS_AT_ONCE + 5)]
    for flight in flights:
        rig.worlds[KUBERNETES].end(flight.id, How.FAILED, EVICTED)
    rig.steps()
    assert len(rig.heard.events) == RESTARTS_AT_ONCE
    rig.steps()
    assert len(rig.heard.events) == len(flights)


@pytest.mark.parametrize("state", ["failed", "up_for_retry"])
def test_an_end_that_airflows_supervisor_reported_itself_is_diagnosed_in_the_event_log(rig: Rig, state: str):
    flight = rig.queue(backend=KUBERNETES)
    rig.steps()
    rig.run(flight)
    rig.row(flight).state = state
    rig.worlds[KUBERNETES].end(flight.id, How.FAILED, EVICTED)
    rig.steps()
    assert rig.heard.events == []
    [(key, event, text)] = rig.heard.notes
    assert (key, event) == (flight.key, "hybrid executor: failed")
    assert "low on memory" in text
    assert Reason.EVICTED.hint in text
    assert rig.heard.ends == [(KUBERNETES, Outcome.FAILED, Reason.EVICTED)]


def test_every_end_is_counted_by_its_reason(rig: Rig):
    gone, replaced, revoked = (rig.queue() for _ in range(3))
    rig.steps()
    rig.run(gone)
    rig.row(gone).state = "success"
    rig.worlds[CELERY].end(gone.id, How.SUCCEEDED)
    rig.worlds[CELERY].end(replaced.id, How.FAILED, EVICTED)
    rig.controller.revoke(revoked)
    rig.steps()
    assert sorted(rig.heard.ends, key=str) == sorted(
        [
            (CELERY, Outcome.SUCCEEDED, None),
            (CELERY, Outcome.REPLACED, Reason.EVICTED),
            (CELERY, Outcome.REVOKED, Reason.REVOKED),
        ],
        key=str,
    )


def test_a_pod_that_pends_for_a_task_that_is_over_goes_at_the_next_look(rig: Rig):
    """Marked, cleared, or its run deleted: there is no process to wait for."""
    flights = [rig.queue(backend=KUBERNETES) for _ in range(2)]
    other = rig.queue(backend=CELERY)
    rig.steps(count=2)
    marked, deleted = flights
    rig.row(marked).state, rig.row(marked).started_at = "failed", rig.clock.now()
    del rig.tasks.rows[deleted.attempt.address]
    rig.row(other).attempt_id = ""
    rig.steps(seconds=RECONCILE_S)
    assert set(rig.backends[KUBERNETES].cancelled) == {marked.id, deleted.id}
    assert rig.backends[CELERY].cancelled == [other.id]
    assert not list(rig.controller.inflight)
    assert rig.heard.events == []
    assert {event for _, event, _ in rig.heard.notes} <= {
        "hybrid executor: withdrawn",
        "hybrid executor: failed",
    }


def test_a_process_that_ran_unseen_is_given_its_time_to_end(rig: Rig):
    """It was quicker than the watch: its supervisor has reported, and still writes its log."""
    flight = rig.queue(backend=KUBERNETES)
    rig.steps(count=2)
    row = rig.row(flight)
    row.state, row.started_at, row.host = "success", rig.clock.now(), "pod-1"
    rig.steps(seconds=RECONCILE_S)
    assert rig.backends[KUBERNETES].cancelled == []
    rig.steps(seconds=LINGER_S + RECONCILE_S)
    assert rig.backends[KUBERNETES].cancelled == [flight.id]


def test_a_task_that_is_over_while_the_answer_to_its_pods_creation_is_lost_is_looked_for(rig: Rig):
    flight = rig.queue(backend=KUBERNETES)
    rig.steps()
    lost = Waiting(flight.id, Reason.API_UNAVAILABLE, "lost", retry_after_s=900.0)
    rig.backends[KUBERNETES]._seen.append(lost)
    rig.steps()
    rig.row(flight).state = "failed"
    rig.steps(seconds=RECONCILE_S)
    assert rig.backends[KUBERNETES].cancelled == [flight.id]


def test_what_a_pod_of_a_dead_scheduler_died_of_is_recorded(rig: Rig):
    former = MemoryBackend(rig.worlds[KUBERNETES], name=KUBERNETES, owner="dead")
    flight = make_flight(backend=KUBERNETES)
    rig.tasks.rows[flight.attempt.address] = Row(flight.attempt.address, "failed", flight.attempt.id, "dead")
    rig.ledger.record([replace(rig.controller.row_of(flight), scheduler_job="dead")], [])
    former.submit([Submission(attempt=flight.attempt, number=1, payload="")])
    rig.worlds[KUBERNETES].start(flight.id)
    died = Diagnosis(reason=Reason.OOM_KILLED, message="limit")
    rig.worlds[KUBERNETES].end(flight.id, How.FAILED, died, Resources(memory_peak_bytes=512 << 20))
    rig.backends[KUBERNETES].sweep({"1"})
    rig.steps(count=2)
    (record,) = rig.ledger.records
    assert (record.outcome, record.reason) == (Outcome.FAILED, Reason.OOM_KILLED)
    assert record.memory_peak_bytes == 512 << 20


def test_what_a_task_took_stands_in_the_row_of_the_submission_that_took_it(rig: Rig):
    flight = rig.queue(backend=KUBERNETES)
    rig.steps()
    killed = Resources(memory_request_bytes=1 << 30)
    rig.worlds[KUBERNETES].end(flight.id, How.FAILED, Diagnosis(reason=Reason.EVICTED), killed)
    rig.steps(2.0, count=2)
    rig.run(flight)
    rig.row(flight).state = "success"
    took = Resources(
        cpu_request_m=500,
        memory_request_bytes=1 << 30,
        cpu_peak_m=20,
        cpu_used_s=1.5,
        memory_peak_bytes=9 << 20,
    )
    rig.worlds[KUBERNETES].end(flight.id, How.SUCCEEDED, resources=took)
    rig.steps()
    first, second = rig.ledger.records
    assert (first.memory_request_bytes, first.memory_peak_bytes) == (1 << 30, None)
    assert Resources(**{name: getattr(second, name) for name in asdict(took)}) == took
    assert second.outcome is Outcome.SUCCEEDED


def test_a_pod_that_a_dead_scheduler_left_without_its_payload_goes_when_its_task_is_over(rig: Rig):
    """It can never start, so it never ends by itself, and nobody is offered it for adoption."""
    former = MemoryBackend(rig.worlds[KUBERNETES], name=KUBERNETES, owner="dead")
    flight = make_flight(backend=KUBERNETES)
    rig.tasks.rows[flight.attempt.address] = Row(flight.attempt.address, "failed", flight.attempt.id, "dead")
    rig.ledger.record([replace(rig.controller.row_of(flight), scheduler_job="dead")], [])
    rig.worlds[KUBERNETES].cut_short = True
    former.submit([Submission(attempt=flight.attempt, number=1, payload="")])
    rig.worlds[KUBERNETES].cut_short = False
    rig.tasks.live = {"1", "another that lives"}
    rig.steps(seconds=RECONCILE_S, count=4)
    assert rig.worlds[KUBERNETES].runs == {}


def test_the_live_half_is_told_what_is_durable_once_and_in_order(rig: Rig):
    inserted, late = make_flight(), rig.queue()
    inserted.recorded = True
    rig.ledger.record([rig.controller.row_of(inserted)], [])
    rig.controller.release(inserted)
    rig.ledger.away = True
    rig.controller.step()
    assert rig.live.calls == []
    rig.ledger.away = False
    rig.steps()
    [(new, _)] = rig.live.calls
    assert [record.id for record in new] == [inserted.id, late.id]


def test_the_live_half_is_told_nothing_where_nothing_changes(rig: Rig):
    flight = rig.queue()
    rig.steps()
    rig.run(flight)
    rig.steps()
    assert rig.live.calls
    rig.live.calls.clear()
    for _ in range(5):
        rig.controller.step()
    assert rig.live.calls == []
