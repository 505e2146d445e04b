"""What is counted anywhere arrives in Airflow's stats once, under the names of the reference page."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow.sdk._shared.observability.metrics.otel_logger import SafeOtelLogger
from airflow.sdk._shared.observability.metrics.statsd_logger import SafeStatsdLogger
from airflow.sdk.observability import stats
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import hybrid_executor.meter as meter_module
from hybrid_executor.inflight import Inflight
from hybrid_executor.lifecycle import Phase
from hybrid_executor.meter import (
    API_CALLS,
    ATTEMPTS,
    BREAKER,
    ENDS,
    FAILURES,
    FLOWER_AWAY,
    FLOWER_EVENTS,
    FLOWER_LAG,
    IDLE_WORKERS,
    LEDGER_LAG,
    LIVE_AWAY,
    LIVE_BACKLOG,
    LIVE_REBUILDS,
    LIVE_REPAIRS,
    METRICS,
    MISMATCHES,
    PENDING_AGE,
    POD_CREATION,
    POOL_DEMAND,
    POOL_WORKERS,
    TIMES_MAX,
    WAITING,
    WATCH_AGE,
    Kind,
    Meter,
    Metric,
)
from hybrid_executor.metrics import QUEUES_MAX, SAY_AGAIN, Emitter, stand
from hybrid_executor.model.attempt import BackendName, Destination
from hybrid_executor.model.reason import Reason
from hybrid_executor.routing import Pool
from hybrid_executor.tally import Line, Place, Tally
from tests.unit.test_inflight import add, inflight

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class TestMeter:
    def test_counts_of_all_threads_are_there_once(self) -> None:
        meter = Meter()

        def count() -> None:
            for _ in range(2000):
                meter.count(API_CALLS, "eu", "create", "pods", "201")

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        drained = 0
        while any(thread.is_alive() for thread in threads):
            drained += sum(meter.drain().counts.values())
        assert drained + sum(meter.drain().counts.values()) == 8000
        assert meter.drain().counts == {}

    def test_times_between_two_drains_are_bounded(self) -> None:
        meter = Meter()
        for _ in range(TIMES_MAX + 5):
            meter.time(POD_CREATION, 0.1)
        assert len(meter.drain().times[POD_CREATION, ()]) == TIMES_MAX

    def test_a_reading_is_that_of_the_drain(self) -> None:
        meter, ages = Meter(), {("default",): 1.0}
        meter.read(WATCH_AGE, lambda: ages)
        assert meter.drain().gauges == {(WATCH_AGE, ("default",)): 1.0}
        ages[("default",)] = 2.0
        assert meter.drain().gauges == {(WATCH_AGE, ("default",)): 2.0}


POOLS = (Pool(name="light", queues=("default",), concurrency=4, max_replicas=3),)


def ages(flights: Inflight) -> list[float]:
    return [value for (metric, _), value in stand(flights, POOLS, NOW).items() if metric is PENDING_AGE]


def test_the_age_is_that_of_the_oldest_attempt_that_has_not_started() -> None:
    flights = inflight()
    old, young = add(flights, 2, backend=BackendName.KUBERNETES)
    object.__setattr__(old.attempt, "queued_at", NOW - timedelta(seconds=90))
    object.__setattr__(young.attempt, "queued_at", NOW - timedelta(seconds=5))
    again = inflight()
    for flight in (young, old):
        again.add(flight)
    seen = []
    for change in (lambda: None, lambda: again.advance(old, Phase.STARTED), lambda: again.remove(young)):
        change()
        seen.append(ages(again))
    assert seen == [[90.0], [5.0], []]
    again.back_off(old, 0.0)
    assert ages(again) == [90.0]


def test_one_that_pends_for_days_does_not_keep_all_that_come_and_go_after_it() -> None:
    flights = inflight()
    add(flights, 1, backend=BackendName.KUBERNETES)
    for _ in range(1000):
        [flight] = add(flights, 1, backend=BackendName.KUBERNETES)
        flights.remove(flight)
    assert sum(map(len, flights.tally._pending.values())) < 200


def test_the_breaker_of_each_cluster_is_shown() -> None:
    flights = inflight()
    flights.breakers[Destination(BackendName.KUBERNETES, "eu")].heard("away", 0.0)
    shown = {tags: value for (metric, tags), value in stand(flights, (), NOW).items() if metric is BREAKER}
    assert shown == {("celery", "none"): 0.0, ("kubernetes", "default"): 0.0, ("kubernetes", "eu"): 1.0}


def test_what_stands_is_told_by_queue_pool_phase_and_reason() -> None:
    flights = inflight(parallelism=3)
    first, second, *_ = add(flights, 5, backend=BackendName.CELERY)
    flights.take(0.0)
    flights.advance(first, Phase.STARTED)
    flights.advance(second, Phase.ACCEPTED)
    flights.explain(second, Reason.IN_QUEUE, "")
    found = stand(flights, POOLS, NOW)
    celery = ("celery", "default")
    assert {tags: value for (metric, tags), value in found.items() if metric is ATTEMPTS} == {
        (*celery, "light", "ready"): 2,
        (*celery, "light", "sent"): 1,
        (*celery, "light", "accepted"): 1,
        (*celery, "light", "started"): 1,
    }
    assert {tags: value for (metric, tags), value in found.items() if metric is WAITING} == {
        (*celery, "Parallelism"): 2,
        (*celery, "none"): 1,
        (*celery, "InQueue"): 1,
    }
    assert found[POOL_DEMAND, ("light",)] == 1.25


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from([*Phase, None]),
            st.sampled_from([None, Reason.QUOTA]),
            st.sampled_from(["a", "b"]),
        )
    )
)
def test_the_tally_is_what_a_count_of_all_would_say(changes: list[Any]) -> None:
    tally, standing = Tally(), {}
    for number, phase, reason, queue in changes:
        name = str(number)
        if phase is None:
            tally.forget(name)
            standing.pop(name, None)
            continue
        standing[name] = Place(Line(BackendName.CELERY, queue), phase, reason)
        tally.note(name, standing[name], NOW + timedelta(seconds=number))
    assert tally.counts == Counter(standing.values())
    oldest: dict[Line, datetime] = {}
    for name, place in sorted(standing.items(), reverse=True):
        if place.phase < Phase.STARTED:
            oldest[place.line] = NOW + timedelta(seconds=int(name))
    assert tally.oldest_pending() == oldest


def everything() -> tuple[Meter, Inflight]:
    """A meter that has something of each kind."""
    meter = Meter()
    meter.count(API_CALLS, "eu", "create", "pods", "201")
    meter.count(API_CALLS, "eu", "create", "pods", "201")
    meter.count(ENDS, "kubernetes", "gpu.large", "failed", "OOMKilled")
    meter.count(FAILURES, "OOMKilled")
    meter.count(MISMATCHES, "celery", "MessageLost")
    for metric in METRICS:
        if metric.kind is Kind.TIMER:
            meter.time(metric, 0.25, *(f"a {tag}" for tag in metric.tags))
    meter.count(LIVE_REPAIRS, "stale")
    meter.count(LIVE_REBUILDS)
    meter.count(FLOWER_EVENTS, by=7)
    for gauge in (LIVE_AWAY, LIVE_BACKLOG, LEDGER_LAG, FLOWER_AWAY, FLOWER_LAG):
        meter.read(gauge, lambda: {(): 1.0})
    meter.read(WATCH_AGE, lambda: {("default", "team.a"): 3.0})
    meter.read(IDLE_WORKERS, lambda: {(): 1.0})
    meter.read(POOL_WORKERS, lambda: {("light", "live"): 2.0})
    flights = inflight()
    add(flights, 2)
    return meter, flights


def emitter(*, tagged: bool, is_on: bool = True) -> Emitter:
    return Emitter(tagged=tagged, scheduler="7", pools=POOLS, is_on=is_on)


class Client:
    """What Airflow's StatsD logger asks of a client."""

    def __init__(self) -> None:
        self.sent: dict[tuple[str, str], Any] = {}

    def incr(self, name: str, count: int, rate: float) -> None:
        self.sent["incr", name] = count

    def gauge(self, name: str, value: float, rate: float, delta: bool) -> None:
        self.sent["gauge", name] = value

    def timing(self, name: str, took: timedelta) -> None:
        self.sent["timing", name] = took


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    stats.initialize(factory=NoStatsLogger, export_legacy_names=False)


@pytest.mark.usefixtures("restored")
class TestEmitter:
    def test_plain_statsd_gets_the_values_of_the_tags_in_the_name(self) -> None:
        client = Client()
        stats.initialize(factory=lambda: SafeStatsdLogger(client), export_legacy_names=False)
        meter, flights = everything()
        emitter(tagged=False).emit(meter, flights, NOW)
        assert len(client.sent) == 7 + 3 + 8 + len(stand(flights, POOLS, NOW))
        assert (
            client.sent.items()
            >= {
                ("incr", "hybrid_executor.api_calls.eu.create.pods.201"): 2,
                ("incr", "hybrid_executor.ends.kubernetes.gpu_large.failed.OOMKilled"): 1,
                ("gauge", "hybrid_executor.watch_age.default.team_a.7"): 3.0,
                ("timing", "hybrid_executor.pod_creation"): timedelta(seconds=0.25),
                ("gauge", "hybrid_executor.attempts.celery.default.light.ready.7"): 2,
                ("gauge", "hybrid_executor.breaker.kubernetes.default.7"): 0.0,
            }.items()
        )

    def test_opentelemetry_gets_tags_and_every_metric_of_the_page(self) -> None:
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader])
        stats.initialize(factory=lambda: SafeOtelLogger(provider), export_legacy_names=False)
        meter, flights = everything()
        flights.breakers[Destination(BackendName.CELERY)].heard("away", 0.0)
        emitter(tagged=True).emit(meter, flights, NOW)
        data = reader.get_metrics_data()
        assert data is not None
        found = {
            metric.name.removeprefix("airflow."): {
                tuple(sorted((point.attributes or {}).items())): point for point in metric.data.data_points
            }
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        assert found.keys() == {metric.name for metric in METRICS}
        for metric in METRICS:
            for tags in found[metric.name]:
                assert {name for name, _ in tags} == set(metric.labels)
        assert found[BREAKER.name][("backend", "celery"), ("cluster", "none"), ("scheduler", "7")].value == 1
        calls = found[API_CALLS.name][
            ("cluster", "eu"), ("code", "201"), ("resource", "pods"), ("verb", "create")
        ]
        assert calls.value == 2

    def test_a_gauge_that_is_gone_is_zero_and_one_that_has_not_changed_is_said_again_later(self) -> None:
        client = Client()
        stats.initialize(factory=lambda: SafeStatsdLogger(client), export_legacy_names=False)
        one, flights = emitter(tagged=False), inflight()
        [flight] = add(flights)
        ready = ("gauge", "hybrid_executor.attempts.celery.default.light.ready.7")
        held = ("gauge", "hybrid_executor.held.celery.7")

        def said(at: datetime) -> dict[tuple[str, str], Any]:
            client.sent.clear()
            one.emit(Meter(), flights, at)
            return dict(client.sent)

        first = said(NOW)
        assert (first[ready], first[held]) == (1, 0)
        flights.remove(flight)
        second = said(NOW + timedelta(seconds=1))
        assert second[ready] == 0
        assert held not in second
        third = said(NOW + SAY_AGAIN)
        assert (third[ready], third[held]) == (0, 0)

    def test_queues_beyond_the_hundredth_are_counted_together(self) -> None:
        client = Client()
        stats.initialize(factory=lambda: SafeStatsdLogger(client), export_legacy_names=False)
        meter, flights = Meter(), inflight()
        for number in range(QUEUES_MAX + 4):
            [flight] = add(flights)
            object.__setattr__(flight.attempt, "queue", f"q{number}")
            flights.explain(flight, None, "")
            meter.count(ENDS, "celery", f"q{number}", "succeeded", "none")
        emitter(tagged=False).emit(meter, flights, NOW)
        names = {name.split(".")[3] for _, name in client.sent if ".attempts." in name or ".ends." in name}
        assert len(names) == QUEUES_MAX
        assert client.sent["gauge", "hybrid_executor.attempts.celery.other.none.ready.7"] == 5

    def test_where_metrics_are_off_nothing_is_computed_and_nothing_comes_together(self) -> None:
        meter, _ = everything()
        # What it would compute from is not even asked.
        emitter(tagged=True, is_on=False).emit(meter, None, NOW)  # type: ignore[arg-type]
        assert not meter.drain().counts


def test_every_metric_is_defined_once_and_used() -> None:
    defined = {name: value for name, value in vars(meter_module).items() if isinstance(value, Metric)}
    assert set(defined.values()) == set(METRICS)
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    package = Path(meter_module.__file__).parent
    others = [path.read_text() for path in package.rglob("*.py") if path.name != "meter.py"]
    unused = [name for name in defined if not any(re.search(rf"\b{name}\b", text) for text in others)]
    assert not unused
    # Nothing goes past the definitions.
    assert not [text for text in others if re.search(r"\bMetric\(\s*\"", text)]
