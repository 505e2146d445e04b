"""Hands what was measured to Airflow's own stats (StatsD, DogStatsD, OpenTelemetry), once per heartbeat.

``meter`` has the metrics and their meaning; besides these the executor emits
Airflow's own ``executor.open_slots``, ``executor.queued_tasks`` and
``executor.running_tasks``. Plain StatsD knows no tags: Airflow drops them, and
the gauges of two backends would overwrite each other. There, the values of the
tags follow the name (``hybrid_executor.held.celery``).
"""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk.observability import stats

from hybrid_executor.inflight import Inflight
from hybrid_executor.lifecycle import Phase
from hybrid_executor.meter import (
    ATTEMPTS,
    BREAKER,
    HELD,
    PENDING_AGE,
    Meter,
    Metric,
    Tags,
)
from hybrid_executor.model.attempt import BackendName, Destination
from hybrid_executor.naming import shown_cluster


class Emitter:
    """Writes to the stats of this process."""

    def __init__(self, *, tagged: bool) -> None:
        self._tagged = tagged

    def emit(self, meter: Meter, inflight: Inflight, now: datetime) -> None:
        """Everything that was counted and timed since the last time, and how things stand."""
        drained = meter.drain()
        for (metric, tags), count in drained.counts.items():
            stats.incr(self._name(metric, tags), count, **self._tags(metric, tags))
        for (metric, tags), times in drained.times.items():
            for seconds in times:
                stats.timing(self._name(metric, tags), timedelta(seconds=seconds), **self._tags(metric, tags))
        for (metric, tags), value in {**drained.gauges, **standing(inflight, now)}.items():
            stats.gauge(self._name(metric, tags), value, **self._tags(metric, tags))

    def _name(self, metric: Metric, tags: Tags) -> str:
        if self._tagged:
            return metric.name
        values = (stats.normalize_name_for_stats(tag.replace(".", "_"), log_warning=False) for tag in tags)
        return ".".join((metric.name, *values))

    def _tags(self, metric: Metric, tags: Tags) -> dict[str, Any]:
        return {"tags": dict(zip(metric.tags, tags, strict=True))} if self._tagged and tags else {}


def standing(inflight: Inflight, now: datetime) -> dict[tuple[Metric, Tags], float]:
    """How many attempts are where, how many wait outside the slots, and for how long the oldest waits."""
    found: dict[tuple[Metric, Tags], float] = {}
    for backend in BackendName:
        for phase in Phase:
            found[ATTEMPTS, (backend, phase.name.lower())] = inflight.count(backend, phase)
        found[HELD, (backend,)] = inflight.held(backend)
        since = inflight.oldest_pending(backend)
        found[PENDING_AGE, (backend,)] = max(0.0, (now - since).total_seconds()) if since else 0.0
    for to, breaker in inflight.breakers.items():
        found[BREAKER, (to.backend, _cluster_of(to))] = float(breaker.is_open)
    return found


def _cluster_of(to: Destination) -> str:
    if to.backend is not BackendName.KUBERNETES:
        return "none"
    return shown_cluster(to.cluster)
