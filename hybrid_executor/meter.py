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
#: Tag of every gauge: the job id of the scheduler, since the numbers of two would overwrite each other.
SCHEDULER = "scheduler"
#: Times that are kept until they are drained; beyond, they are not.
TIMES_MAX = 1000


class Kind(StrEnum):
    """How Airflow's stats are given it."""

    COUNTER = "counter"
    TIMER = "timer"
    GAUGE = "gauge"


#: The exporter of StatsD turns times into seconds.
_SUFFIXES = {Kind.COUNTER: "_total", Kind.TIMER: "_seconds", Kind.GAUGE: ""}


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric; its name is part of the interface."""

    name: str
    kind: Kind
    tags: Tags
    #: For the reference page.
    meaning: str
    unit: str = "1"

    @property
    def labels(self) -> Tags:
        """Its tags as they are emitted: a gauge is of one scheduler, and says of which."""
        return (*self.tags, SCHEDULER) if self.kind is Kind.GAUGE else self.tags

    @property
    def prometheus(self) -> str:
        """Its name there, through the chart's mapping; a collector of OpenTelemetry makes the same of it."""
        return f"airflow_{self.name.replace('.', '_')}{_SUFFIXES[self.kind]}"


ATTEMPTS = Metric(
    "hybrid_executor.attempts",
    Kind.GAUGE,
    ("backend", "queue", "pool", "phase"),
    "attempts in each phase: `ready`, `backoff`, `sent`, `accepted` (a message in its queue, a pod that is"
    " pending), `started`; the pool is the one whose workers serve the queue, `none` where none does",
    "attempts",
)
WAITING = Metric(
    "hybrid_executor.waiting",
    Kind.GAUGE,
    ("backend", "queue", "reason"),
    "attempts that have not started, by the [reason](reasons.md) that is known for it: `none` where they are"
    " about to be sent or their backend has not said more",
    "attempts",
)
HELD = Metric(
    "hybrid_executor.held",
    Kind.GAUGE,
    ("backend",),
    "attempts that wait for their backend and take no slot of `[core] parallelism`",
    "attempts",
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
    ("backend", "queue", "pool"),
    "since the scheduler queued the oldest attempt that has not started; 0 if all have",
    "seconds",
)
ENDS = Metric(
    "hybrid_executor.ends",
    Kind.COUNTER,
    ("backend", "queue", "outcome", "reason"),
    "submissions that ended, as in the ledger: `succeeded`, `failed`, `replaced` (died before its task"
    " started, and was sent again), `restarted` (died while it ran, and costs no retry) or `revoked`, and for"
    " which [reason](reasons.md) (`none` where all was well)",
    "submissions",
)
STAGE_TIME = Metric(
    "hybrid_executor.stage_time",
    Kind.TIMER,
    ("backend", "queue", "stage"),
    "how long a submission took for each stage of its way: `queued` (with its scheduler, until it is handed"
    " over), `waiting` (until its backend has it), `starting` (until its process runs), `running` (to its"
    " end)",
    "milliseconds",
)
LEDGER_LAG = Metric(
    "hybrid_executor.ledger_lag",
    Kind.GAUGE,
    (),
    "for how long the ledger could not be written; 0 while it can. Nothing new is sent meanwhile",
    "seconds",
)
POOL_DEMAND = Metric(
    "hybrid_executor.pool_demand",
    Kind.GAUGE,
    ("pool",),
    "workers that this scheduler's attempts in the pool's queues would fill; their sum over schedulers,"
    " rounded up, is what the autoscaler asks for within the pool's bounds",
    "workers",
)
POOL_MAX = Metric(
    "hybrid_executor.pool_max", Kind.GAUGE, ("pool",), "the most workers that the pool may have", "workers"
)
POOL_WORKERS = Metric(
    "hybrid_executor.pool_workers",
    Kind.GAUGE,
    ("pool", "state"),
    "workers' pods that are there: `live`, or `leaving` in their grace period; only where workers are pods",
    "workers",
)
FAILURES = Metric(
    "hybrid_executor.failures",
    Kind.COUNTER,
    ("reason",),
    "attempts that the executor told Airflow had failed; those that Airflow heard of by itself are in `ends`"
    " alone",
    "attempts",
)
MISMATCHES = Metric(
    "hybrid_executor.mismatches",
    Kind.COUNTER,
    ("backend", "mismatch"),
    "differences between what is in flight, the ledger, the backends and Airflow's task instances, each"
    " repaired by its [rule](mismatches.md)",
    "differences",
)
POD_CREATION = Metric(
    "hybrid_executor.pod_creation",
    Kind.TIMER,
    (),
    "from the hand-over of a submission to the API server's word that its pod exists",
    "milliseconds",
)
POD_START = Metric(
    "hybrid_executor.pod_start",
    Kind.TIMER,
    (),
    "from there until the container that runs the task was seen to run: scheduling, pulling, mounting",
    "milliseconds",
)
API_CALLS = Metric(
    "hybrid_executor.api_calls",
    Kind.COUNTER,
    ("cluster", "verb", "resource", "code"),
    "requests to the Kubernetes API server of a cluster (`default` for that of `[kubernetes_executor]`, else"
    " its name); the code is that of HTTP, `none` where no answer came",
    "requests",
)
WATCH_AGE = Metric(
    "hybrid_executor.watch_age",
    Kind.GAUGE,
    ("cluster", "namespace"),
    "since the watch of pods last said anything; a healthy one says something at least every 60 s"
    " (`all` where it watches all namespaces)",
    "seconds",
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
    "submissions",
)
LIVE_REPAIRS = Metric(
    "hybrid_executor.live_repairs",
    Kind.COUNTER,
    ("kind",),
    "drift between the live half and the database that was found and repaired: `missing`, `stale`, `ended`"
    " (there and no longer open), `set` (missing in a set of what is in flight, or one too many)",
    "submissions",
)
LIVE_REBUILDS = Metric(
    "hybrid_executor.live_rebuilds",
    Kind.COUNTER,
    (),
    "how often the live half was written anew, because its server was emptied or set back",
    "rebuilds",
)
IDLE_WORKERS = Metric(
    "hybrid_executor.idle_workers",
    Kind.GAUGE,
    (),
    "Celery workers that are connected and take nothing, although messages of this scheduler wait in a queue"
    " that they serve (celery#8030)",
    "workers",
)
FLOWER_EVENTS = Metric(
    "hybrid_executor.flower_events",
    Kind.COUNTER,
    (),
    "events of pods that were told to Flower, by the one scheduler that tells; nobody need have listened",
    "events",
)
FLOWER_AWAY = Metric(
    "hybrid_executor.flower_away",
    Kind.GAUGE,
    (),
    "1 while this scheduler is to tell Flower of pods and can't, since the broker or the metadata database is"
    " away; else 0. What happens meanwhile is told later, and no task waits for it",
)
FLOWER_LAG = Metric(
    "hybrid_executor.flower_lag",
    Kind.GAUGE,
    (),
    "since this scheduler last knew that Flower was told of everything about pods, be it by itself or because"
    " another scheduler tells; a few seconds while all is well. It grows while the telling is away, falls"
    " behind, or has stopped",
    "seconds",
)
METRICS = (
    ATTEMPTS,
    WAITING,
    HELD,
    BREAKER,
    PENDING_AGE,
    ENDS,
    STAGE_TIME,
    FAILURES,
    MISMATCHES,
    POD_CREATION,
    POD_START,
    API_CALLS,
    WATCH_AGE,
    LEDGER_LAG,
    LIVE_AWAY,
    LIVE_BACKLOG,
    LIVE_REPAIRS,
    LIVE_REBUILDS,
    IDLE_WORKERS,
    POOL_DEMAND,
    POOL_MAX,
    POOL_WORKERS,
    FLOWER_EVENTS,
    FLOWER_AWAY,
    FLOWER_LAG,
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

    def count(self, metric: Metric, *tags: str, by: int = 1) -> None:
        """One more of it, or so many."""
        with self._lock:
            key = metric, tags
            self._counts[key] = self._counts.get(key, 0) + by

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
