"""Hands what was measured to Airflow's own stats (StatsD, DogStatsD, OpenTelemetry), once per heartbeat.

``meter`` has the metrics and their meaning; besides these the executor emits
Airflow's own ``executor.open_slots``, ``executor.queued_tasks`` and
``executor.running_tasks``. Plain StatsD knows no tags: Airflow drops them, and
the gauges of two backends would overwrite each other. There, the values of the
tags follow the name (``hybrid_executor.held.celery.7``). Where Airflow's
metrics are off, nothing is computed.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk.observability import stats

from hybrid_executor.inflight import Inflight
from hybrid_executor.lifecycle import Phase
from hybrid_executor.meter import (
    ATTEMPTS,
    BREAKER,
    ENDS,
    HELD,
    PENDING_AGE,
    POOL_DEMAND,
    POOL_MAX,
    STAGE_TIME,
    WAITING,
    Meter,
    Metric,
    Tags,
)
from hybrid_executor.model.attempt import BackendName, Destination
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.transition import Transition
from hybrid_executor.naming import shown_cluster
from hybrid_executor.routing import Pool
from hybrid_executor.tally import Place

#: A gauge that has not changed is said again after so long: StatsD forgets, and packets get lost.
SAY_AGAIN = timedelta(seconds=10)
#: DAG authors name queues; a value of a tag must come from a bounded set. Beyond, queues are ``other``.
QUEUES_MAX = 100
OTHER, NONE = "other", "none"

Gauges = dict[tuple[Metric, Tags], float]


def measure(meter: Meter, step: Transition) -> None:
    """Count and time a step of a submission."""
    backend, queue = step.attempt.route.backend, step.attempt.queue
    if took := step.took:
        meter.time(STAGE_TIME, took[1], backend, queue, took[0])
    if step.is_end:
        meter.count(ENDS, backend, queue, step.after, step.reason or NONE)


class Emitter:
    """Writes to the stats of this process."""

    def __init__(
        self, *, tagged: bool, scheduler: str, pools: Iterable[Pool] = (), is_on: bool = True
    ) -> None:
        self._tagged = tagged
        self._scheduler = scheduler
        self._pools = tuple(pools)
        self._is_on = is_on
        self._queues = {queue for pool in self._pools for queue in pool.queues}
        #: What was said last; one that is gone stays, at 0.
        self._said: Gauges = {}
        self._said_all_at: datetime | None = None

    def emit(self, meter: Meter, inflight: Inflight, now: datetime) -> None:
        """Everything that was counted and timed since the last time, and how things stand."""
        drained = meter.drain()
        if not self._is_on:
            return
        for (metric, tags), count in drained.counts.items():
            shown = self._shown(metric, tags)
            stats.incr(self._name(metric, shown), count, **self._tags(metric, shown))
        for (metric, tags), times in drained.times.items():
            shown = self._shown(metric, tags)
            for seconds in times:
                took = timedelta(seconds=seconds)
                stats.timing(self._name(metric, shown), took, **self._tags(metric, shown))
        standing = stand(inflight, self._pools, now, self._queue)
        for (metric, tags), value in self._news({**drained.gauges, **standing}, now).items():
            of_us = (*tags, self._scheduler)
            stats.gauge(self._name(metric, of_us), value, **self._tags(metric, of_us))

    def _news(self, gauges: Gauges, now: datetime) -> Gauges:
        """Those that changed since they were said; all of them, now and then."""
        gauges = dict.fromkeys(self._said, 0.0) | gauges
        news = {key: value for key, value in gauges.items() if self._said.get(key) != value}
        self._said = gauges
        if self._said_all_at and now - self._said_all_at < SAY_AGAIN:
            return news
        self._said_all_at = now
        return gauges

    def _queue(self, name: str) -> str:
        if name not in self._queues and len(self._queues) < QUEUES_MAX:
            self._queues.add(name)
        return name if name in self._queues else OTHER

    def _shown(self, metric: Metric, tags: Tags) -> Tags:
        pairs = zip(metric.tags, tags, strict=True)
        return tuple(self._queue(value) if tag == "queue" else value for tag, value in pairs)

    def _name(self, metric: Metric, tags: Tags) -> str:
        if self._tagged:
            return metric.name
        values = (stats.normalize_name_for_stats(tag.replace(".", "_"), log_warning=False) for tag in tags)
        return ".".join((metric.name, *values))

    def _tags(self, metric: Metric, tags: Tags) -> dict[str, Any]:
        return {"tags": dict(zip(metric.labels, tags, strict=True))} if self._tagged and tags else {}


def stand(
    inflight: Inflight, pools: Iterable[Pool], now: datetime, shown_queue: Callable[[str], str] = str
) -> Gauges:
    """How many attempts are where, what they wait for, for how long, and what is away."""
    pool_of = {queue: pool.name for pool in pools for queue in pool.queues}
    found: Gauges = {}
    for place, count in inflight.tally.counts.items():
        backend, queue = place.line.backend, shown_queue(place.line.queue)
        pool = _pool(place.line.backend, place.line.queue, pool_of)
        _add(found, (ATTEMPTS, (backend, queue, pool, place.phase.word)), count)
        if place.phase < Phase.STARTED:
            _add(found, (WAITING, (backend, queue, _reason(place, inflight) or NONE)), count)
    for line, since in inflight.tally.oldest_pending().items():
        key = PENDING_AGE, (line.backend, shown_queue(line.queue), _pool(line.backend, line.queue, pool_of))
        found[key] = max(found.get(key, 0.0), (now - since).total_seconds())
    for backend in BackendName:
        found[HELD, (backend,)] = inflight.held(backend)
    for to, breaker in inflight.breakers.items():
        found[BREAKER, (to.backend, _cluster_of(to))] = float(breaker.is_open)
    return found | _pool_gauges(inflight, pools)


def _pool_gauges(inflight: Inflight, pools: Iterable[Pool]) -> Gauges:
    found: Gauges = {}
    for pool in pools:
        wanted = sum(
            count
            for place, count in inflight.tally.counts.items()
            if place.line.backend is BackendName.CELERY and place.line.queue in pool.queues
        )
        found[POOL_DEMAND, (pool.name,)] = math.ceil(100 * wanted / pool.concurrency) / 100
        found[POOL_MAX, (pool.name,)] = pool.max_replicas
    return found


def _pool(backend: BackendName, queue: str, pool_of: Mapping[str, str]) -> str:
    return pool_of.get(queue, NONE) if backend is BackendName.CELERY else NONE


def _reason(place: Place, inflight: Inflight) -> Reason | None:
    """What it waits for: the limit, for one that nothing else holds back."""
    if place.reason is None and place.phase is Phase.READY:
        if inflight.is_full(place.line.backend):
            return Reason.HELD
        if inflight.is_full():
            return Reason.PARALLELISM
    return place.reason


def _add(found: Gauges, key: tuple[Metric, Tags], count: int) -> None:
    found[key] = found.get(key, 0) + count


def _cluster_of(to: Destination) -> str:
    if to.backend is not BackendName.KUBERNETES:
        return NONE
    return shown_cluster(to.cluster)
