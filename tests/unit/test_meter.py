"""What is counted anywhere arrives in Airflow's stats once, under the names of the reference page."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow.sdk._shared.observability.metrics.otel_logger import SafeOtelLogger
from airflow.sdk._shared.observability.metrics.statsd_logger import SafeStatsdLogger
from airflow.sdk.observability import stats
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from hybrid_executor.inflight import Inflight
from hybrid_executor.lifecycle import Phase
from hybrid_executor.meter import (
    API_CALLS,
    BREAKER,
    ENDS,
    FAILURES,
    IDLE_WORKERS,
    LIVE_AWAY,
    LIVE_BACKLOG,
    LIVE_REBUILDS,
    LIVE_REPAIRS,
    METRICS,
    MISMATCHES,
    PENDING_AGE,
    POD_CREATION,
    TIMES_MAX,
    WATCH_AGE,
    Kind,
    Meter,
)
from hybrid_executor.metrics import Emitter, standing
from hybrid_executor.model.attempt import BackendName, Destination
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


def test_the_age_is_that_of_the_oldest_attempt_that_has_not_started() -> None:
    flights = inflight()
    old, young = add(flights, 2, backend=BackendName.KUBERNETES)
    object.__setattr__(old.attempt, "queued_at", NOW - timedelta(seconds=90))
    object.__setattr__(young.attempt, "queued_at", NOW - timedelta(seconds=5))
    again = inflight()
    for flight in (young, old):
        again.add(flight)
    ages = []
    for change in (lambda: None, lambda: again.advance(old, Phase.STARTED), lambda: again.remove(young)):
        change()
        ages.append(standing(again, NOW)[PENDING_AGE, ("kubernetes",)])
    assert ages == [90.0, 5.0, 0.0]
    again.back_off(old, 0.0)
    assert standing(again, NOW)[PENDING_AGE, ("kubernetes",)] == 90.0


def test_one_that_pends_for_days_does_not_keep_all_that_come_and_go_after_it() -> None:
    flights = inflight()
    add(flights, 1, backend=BackendName.KUBERNETES)
    for _ in range(1000):
        [flight] = add(flights, 1, backend=BackendName.KUBERNETES)
        flights.remove(flight)
    assert len(flights._pending[BackendName.KUBERNETES]) < 200


def test_the_breaker_of_each_cluster_is_shown() -> None:
    flights = inflight()
    flights.breakers[Destination(BackendName.KUBERNETES, "eu")].heard("away", 0.0)
    shown = {tags: value for (metric, tags), value in standing(flights, NOW).items() if metric is BREAKER}
    assert shown == {("celery", "none"): 0.0, ("kubernetes", "default"): 0.0, ("kubernetes", "eu"): 1.0}


def everything() -> tuple[Meter, Inflight]:
    """A meter that has something of each kind."""
    meter = Meter()
    meter.count(API_CALLS, "eu", "create", "pods", "201")
    meter.count(API_CALLS, "eu", "create", "pods", "201")
    meter.count(ENDS, "kubernetes", "failed", "OOMKilled")
    meter.count(FAILURES, "OOMKilled")
    meter.count(MISMATCHES, "celery", "MessageLost")
    for metric in METRICS:
        if metric.kind is Kind.TIMER:
            meter.time(metric, 0.25)
    meter.count(LIVE_REPAIRS, "stale")
    meter.count(LIVE_REBUILDS)
    for gauge in (LIVE_AWAY, LIVE_BACKLOG):
        meter.read(gauge, lambda: {(): 1.0})
    meter.read(WATCH_AGE, lambda: {("default", "team.a"): 3.0})
    meter.read(IDLE_WORKERS, lambda: {(): 1.0})
    return meter, inflight()


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
        Emitter(tagged=False).emit(*everything(), NOW)
        assert len(client.sent) == 6 + 2 + 4 + len(standing(inflight(), NOW))
        assert (
            client.sent.items()
            >= {
                ("incr", "hybrid_executor.api_calls.eu.create.pods.201"): 2,
                ("incr", "hybrid_executor.ends.kubernetes.failed.OOMKilled"): 1,
                ("gauge", "hybrid_executor.watch_age.default.team_a"): 3.0,
                ("timing", "hybrid_executor.pod_creation"): timedelta(seconds=0.25),
                ("gauge", "hybrid_executor.attempts.celery.ready"): 0,
                ("gauge", "hybrid_executor.breaker.kubernetes.default"): 0.0,
            }.items()
        )

    def test_opentelemetry_gets_tags_and_every_metric_of_the_page(self) -> None:
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader])
        stats.initialize(factory=lambda: SafeOtelLogger(provider), export_legacy_names=False)
        meter, flights = everything()
        flights.breakers[Destination(BackendName.CELERY)].heard("away", 0.0)
        Emitter(tagged=True).emit(meter, flights, NOW)
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
                assert {name for name, _ in tags} == set(metric.tags)
        assert found[BREAKER.name][("backend", "celery"), ("cluster", "none")].value == 1
        calls = found[API_CALLS.name][
            ("cluster", "eu"), ("code", "201"), ("resource", "pods"), ("verb", "create")
        ]
        assert calls.value == 2
