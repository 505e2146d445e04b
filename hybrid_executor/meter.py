"""What is measured, and the numbers until the next heartbeat takes them away.

Whoever does the work counts and times it here, in any thread, for the price of
a dictionary entry; ``metrics`` drains it into Airflow's stats. So the backends
need not know Airflow, a busy second costs a few packets instead of thousands,
and nothing here ever blocks or raises. Every value of a tag comes from a
bounded set.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

#: Values of a metric's tags, in their order.
Tags = tuple[str, ...]
#: Times that are kept until they are drained; beyond, they are not.
TIMES_MAX = 1000


class Kind(StrEnum):
    """How Airflow's stats are given it."""

    COUNTER = "counter"
    TIMER = "timer"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric; its name is part of the interface."""

    name: str
    kind: Kind
    tags: Tags
    #: For the reference page.
    meaning: str


ATTEMPTS = Metric(
    "hybrid_executor.attempts",
    Kind.GAUGE,
    ("backend", "phase"),
    "attempts in each phase: `ready`, `backoff`, `sent`, `accepted` (a message in its queue, a pod that is"
    " pending), `started`",
)
HELD = Metric(
    "hybrid_executor.held",
    Kind.GAUGE,
    ("backend",),
    "attempts that wait for their backend and take no slot of `[core] parallelism`",
)
BREAKER = Metric(
    "hybrid_executor.breaker",
    Kind.GAUGE,
    ("backend", "cluster"),
    "1 while the circuit breaker of the backend, or of one of its clusters, is open, since nothing answers"
    " there; else 0 (`none` for Celery)",
)
PENDING_AGE = Metric(
    "hybrid_executor.pending_age",
    Kind.GAUGE,
    ("backend",),
    "seconds since the scheduler queued the oldest attempt that has not started; 0 if all have",
)
ENDS = Metric(
    "hybrid_executor.ends",
    Kind.COUNTER,
    ("backend", "outcome", "reason"),
    "submissions that ended, as in the ledger: `succeeded`, `failed`, `replaced` (died before its task"
    " started, and was sent again), `restarted` (died while it ran, and costs no retry) or `revoked`, and for"
    " which [reason](reasons.md) (`none` where all was well)",
)
FAILURES = Metric(
    "hybrid_executor.failures",
    Kind.COUNTER,
    ("reason",),
    "attempts that the executor told Airflow had failed; those that Airflow heard of by itself are in `ends`"
    " alone",
)
MISMATCHES = Metric(
    "hybrid_executor.mismatches",
    Kind.COUNTER,
    ("backend", "mismatch"),
    "differences between what is in flight, the ledger, the backends and Airflow's task instances, each"
    " repaired by its [rule](mismatches.md)",
)
POD_CREATION = Metric(
    "hybrid_executor.pod_creation",
    Kind.TIMER,
    (),
    "milliseconds from the hand-over of a submission to the API server's word that its pod exists",
)
POD_START = Metric(
    "hybrid_executor.pod_start",
    Kind.TIMER,
    (),
    "milliseconds from there until the container that runs the task was seen to run: scheduling, pulling,"
    " mounting",
)
API_CALLS = Metric(
    "hybrid_executor.api_calls",
    Kind.COUNTER,
    ("cluster", "verb", "resource", "code"),
    "requests to the Kubernetes API server of a cluster (`default` for that of `[kubernetes_executor]`, else"
    " its name); the code is that of HTTP, `none` where no answer came",
)
WATCH_AGE = Metric(
    "hybrid_executor.watch_age",
    Kind.GAUGE,
    ("cluster", "namespace"),
    "seconds since the watch of pods last said anything; a healthy one says something at least every 60 s"
    " (`all` where it watches all namespaces)",
)
LIVE_AWAY = Metric(
    "hybrid_executor.live_away",
    Kind.GAUGE,
    (),
    "1 while the server of the ledger's live half does not answer; else 0. No task waits for it",
)
LIVE_BACKLOG = Metric(
    "hybrid_executor.live_backlog",
    Kind.GAUGE,
    (),
    "submissions whose latest change is durable and not yet in the live half",
)
LIVE_REPAIRS = Metric(
    "hybrid_executor.live_repairs",
    Kind.COUNTER,
    ("kind",),
    "drift between the live half and the database that was found and repaired: `missing`, `stale`, `ended`"
    " (there and no longer open), `set` (missing in a set of what is in flight, or one too many)",
)
LIVE_REBUILDS = Metric(
    "hybrid_executor.live_rebuilds",
    Kind.COUNTER,
    (),
    "how often the live half was written anew, because its server was emptied or set back",
)
IDLE_WORKERS = Metric(
    "hybrid_executor.idle_workers",
    Kind.GAUGE,
    (),
    "Celery workers that are connected and take nothing, although messages of this scheduler wait in a queue"
    " that they serve (celery#8030)",
)
METRICS = (
    ATTEMPTS,
    HELD,
    BREAKER,
    PENDING_AGE,
    ENDS,
    FAILURES,
    MISMATCHES,
    POD_CREATION,
    POD_START,
    API_CALLS,
    WATCH_AGE,
    LIVE_AWAY,
    LIVE_BACKLOG,
    LIVE_REPAIRS,
    LIVE_REBUILDS,
    IDLE_WORKERS,
)

#: Readings of one gauge, by the values of its tags.
Reader = Callable[[], Mapping[Tags, float]]


@dataclass(frozen=True, slots=True)
class Drained:
    """What has come together since the last time."""

    counts: Mapping[tuple[Metric, Tags], int] = field(default_factory=dict)
    #: Seconds.
    times: Mapping[tuple[Metric, Tags], list[float]] = field(default_factory=dict)
    gauges: Mapping[tuple[Metric, Tags], float] = field(default_factory=dict)


class Meter:
    """The numbers of one executor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[Metric, Tags], int] = {}
        self._times: dict[tuple[Metric, Tags], list[float]] = {}
        self._readers: dict[Metric, Reader] = {}

    def count(self, metric: Metric, *tags: str) -> None:
        """One more of it."""
        with self._lock:
            key = metric, tags
            self._counts[key] = self._counts.get(key, 0) + 1

    def time(self, metric: Metric, seconds: float, *tags: str) -> None:
        """It took so long, once."""
        with self._lock:
            times = self._times.setdefault((metric, tags), [])
            if len(times) < TIMES_MAX:
                times.append(seconds)

    def read(self, metric: Metric, reader: Reader) -> None:
        """Ask ``reader`` at each drain, in the drainer's thread; the latest reader of a metric counts."""
        self._readers[metric] = reader

    def drain(self) -> Drained:
        """Take everything away and begin anew."""
        with self._lock:
            counts, self._counts = self._counts, {}
            times, self._times = self._times, {}
        gauges = {
            (metric, tags): value
            for metric, reader in list(self._readers.items())
            for tags, value in reader().items()
        }
        return Drained(counts, times, gauges)
