"""Capacity, order and timers of what is in flight."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.lifecycle import Phase
from hybrid_executor.model.attempt import BackendName, Destination
from hybrid_executor.model.reason import Reason
from tests.fixtures.airflow_double import make_flight

CELERY, KUBERNETES = BackendName.CELERY, BackendName.KUBERNETES


def inflight(parallelism: int = 32, celery: int = 0, kubernetes: int = 0, held_limit: int = 1000) -> Inflight:
    limits = {CELERY: celery, KUBERNETES: kubernetes}
    return Inflight(parallelism=parallelism, limits=limits, held_limit=held_limit)


def add(flights: Inflight, count: int = 1, **options: object) -> list[Flight]:
    added = [make_flight(**options) for _ in range(count)]
    for flight in added:
        flights.add(flight)
    return added


def test_the_highest_priority_goes_first_on_both_backends_and_the_older_of_equals():
    flights = inflight(parallelism=3)
    low = add(flights, 2, priority=1, backend=CELERY)
    high = add(flights, 1, priority=9, backend=KUBERNETES)
    middle = add(flights, 1, priority=5, backend=CELERY)
    assert flights.take(0.0) == [*high, *middle, low[0]]


def test_what_is_sent_never_exceeds_parallelism():
    flights = inflight(parallelism=4)
    add(flights, 10)
    assert len(flights.take(0.0)) == 4
    assert flights.take(0.0) == []


def test_a_full_backend_never_delays_the_other():
    flights = inflight(parallelism=8, kubernetes=2)
    pods = add(flights, 200, backend=KUBERNETES, priority=100)
    light = add(flights, 3, backend=CELERY, priority=1)
    taken = flights.take(0.0)
    assert [f for f in taken if f.backend is KUBERNETES] == pods[:2]
    assert [f for f in taken if f.backend is CELERY] == light
    assert flights.occupied() == 5


def test_held_attempts_leave_the_slots_up_to_the_limit():
    flights = inflight(parallelism=10, kubernetes=1, held_limit=20)
    add(flights, 30, backend=KUBERNETES)
    flights.take(0.0)
    assert flights.held(KUBERNETES) == 20
    assert flights.occupied() == 10


def test_a_freed_slot_goes_to_the_held_attempt_that_waited_longest():
    flights = inflight(kubernetes=1)
    first, second, third = add(flights, 3, backend=KUBERNETES)
    assert flights.take(0.0) == [first]
    flights.remove(first)
    assert flights.take(0.0) == [second]
    assert third.phase is Phase.READY


def test_an_attempt_that_was_let_go_is_sent_again_at_its_time_and_not_before():
    flights = inflight()
    (flight,) = add(flights)
    flights.take(0.0)
    flights.back_off(flight, until_s=10.0)
    assert flights.occupied() == 0
    assert flights.take(9.9) == []
    assert flights.take(10.0) == [flight]


def test_attempts_wake_when_their_backend_is_back_and_others_do_not():
    flights = inflight()
    away, quota = add(flights, 2, backend=KUBERNETES)
    flights.take(0.0)
    for flight, reason in ((away, Reason.API_UNAVAILABLE), (quota, Reason.QUOTA)):
        flight.reason = reason
        flights.back_off(flight, until_s=60.0)
    flights.wake(Destination(KUBERNETES), {Reason.API_UNAVAILABLE})
    assert flights.take(1.0) == [away]


def test_a_newer_attempt_of_a_task_instance_waits_until_the_older_has_ended():
    flights = inflight()
    (old,) = add(flights, task_id="t")
    flights.take(0.0)
    (new,) = add(flights, task_id="t")
    assert flights.take(0.0) == []
    assert new.reason is Reason.EARLIER_ATTEMPT
    flights.remove(old)
    assert flights.take(0.0) == [new]


def test_a_new_submission_keeps_the_place_in_the_order():
    flights = inflight(parallelism=1)
    first, second = add(flights, 2)
    flights.take(0.0)
    flights.resubmit(first, until_s=5.0)
    assert first.id.number == 2
    assert not first.recorded
    assert flights.take(5.0) == [first]
    assert second.phase is Phase.READY


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "take", "back_off", "advance", "remove", "ready"]), st.integers(0, 50)
        )
    )
)
def test_counts_always_agree_with_what_is_in_flight(steps):
    flights, now_s = inflight(parallelism=6, kubernetes=2), 0.0
    for step, number in steps:
        everything = list(flights)
        chosen = everything[number % len(everything)] if everything else None
        now_s += number / 10
        if step == "add":
            add(flights, backend=CELERY if number % 2 else KUBERNETES, priority=number % 3)
        elif step == "take":
            flights.take(now_s)
        elif chosen and step == "back_off" and chosen.is_sent:
            flights.back_off(chosen, now_s + number)
        elif chosen and step == "advance" and chosen.is_sent:
            flights.advance(chosen, Phase.STARTED)
        elif chosen and step == "ready" and chosen.is_sent:
            flights.ready(chosen)
        elif chosen and step == "remove":
            flights.remove(chosen)
        counted = Counter((f.backend, f.phase) for f in flights)
        for backend in BackendName:
            for phase in Phase:
                assert flights.count(backend, phase) == counted[backend, phase]
        assert flights.sent() <= 6
        assert flights.sent(KUBERNETES) <= 2
        assert 0 <= flights.occupied() <= len(flights)


def test_a_backend_that_is_away_is_asked_with_one_attempt_at_a_time():
    flights = inflight()
    flights.breakers[Destination(KUBERNETES)].heard("nothing answers", 0.0)
    pods = add(flights, 5, backend=KUBERNETES)
    light = add(flights, 2, backend=CELERY)
    assert flights.take(0.0) == [pods[0], *light]
    assert flights.take(0.0) == []
    assert flights.occupied() == 3
    flights.back_off(pods[0], until_s=60.0)
    assert flights.take(1.0) == [pods[1]]
    flights.advance(pods[1], Phase.ACCEPTED)
    flights.breakers[Destination(KUBERNETES)].took()
    assert flights.take(2.0) == pods[2:]


def test_a_cluster_that_is_away_takes_neither_turn_nor_slot_of_another():
    flights = inflight(held_limit=50)
    flights.breakers[Destination(KUBERNETES, "east")].heard("nothing answers", 0.0)
    away = add(flights, 80, backend=KUBERNETES, cluster="east", priority=100)
    near = add(flights, 5, backend=KUBERNETES)
    assert flights.take(0.0) == [away[0], *near]
    assert flights.count(KUBERNETES, Phase.READY) == 79
    assert flights.held(KUBERNETES) == 50
    flights.wake(Destination(KUBERNETES), {Reason.API_UNAVAILABLE})
    assert flights.take(1.0) == []
    flights.advance(away[0], Phase.ACCEPTED)
    assert flights.take(2.0) == [away[1]]


def test_the_limit_of_the_backend_is_over_all_its_clusters():
    flights = inflight(kubernetes=3)
    add(flights, 2, backend=KUBERNETES)
    add(flights, 4, backend=KUBERNETES, cluster="east")
    assert len(flights.take(0.0)) == 3
    assert flights.is_full(KUBERNETES)
    assert flights.held(KUBERNETES) == 3
