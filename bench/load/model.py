"""Carries what a run has found to more tasks: what each part must bear, and what breaks first. Pure.

Everything that grows with tasks is taken as proportional to them; a scheduler
that has nothing to do costs what the idle phase found. What Airflow itself does
for a task (its scheduling loop, its rows, its Execution API) is in none of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

DAY_S = 86_400
#: Seconds that what has ended stays in Redis: an attempt (``ledger.live.schema.ENDED_S``), a result of
#: Celery's (``result_expires``, a day unless it is set).
ATTEMPT_STAYS_S, RESULT_STAYS_S = 300, DAY_S


@dataclass(frozen=True, slots=True)
class Costs:
    """Of one task, or of one second of a scheduler that has nothing to do."""

    calls: float
    commands: float
    rows: float
    statements: float
    #: Of the executor, in its scheduler's process; and of each server.
    executor_ms: float
    postgres_ms: float
    valkey_ms: float

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """As ``report.costs`` has it. What is less than nothing is below what the run could tell."""
        sums = {part: sum(said[part].values()) for part in ("calls", "commands", "rows", "statements")}
        cpu = {f"{name}_ms": said["cpu_ms"].get(name, 0.0) for name in ("executor", "postgres", "valkey")}
        return cls(**{name: max(0.0, value) for name, value in {**sums, **cpu}.items()})


@dataclass(frozen=True, slots=True)
class Constants:
    """What one run has found."""

    scheduler: Costs
    celery: Costs
    pod: Costs
    #: In the ledger, with its share of the indexes; and in Redis.
    row_bytes: float
    attempt_bytes: float
    result_bytes: float

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """From the JSON of a run."""
        size = said["bytes"]
        return cls(
            scheduler=Costs.of(said["fixed"]),
            celery=Costs.of(said["each"]["celery"]),
            pod=Costs.of(said["each"]["pods"]),
            row_bytes=size["row"] + size["row in indexes"],
            attempt_bytes=size.get("key attempt", 0.0),
            result_bytes=size.get("key result", 0.0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A load that is asked about."""

    tasks: float
    #: Of all tasks.
    pods_share: float = 0.1
    #: The busiest minutes, in times of the day's average.
    peak: float = 4.0
    celery_life_s: float = 60.0
    pod_life_s: float = 300.0
    schedulers: int = 2

    @property
    def tasks_a_second(self) -> float:
        """At the peak."""
        return self.tasks / DAY_S * self.peak


@dataclass(frozen=True, slots=True)
class Need:
    """What one part must bear, beside what it can."""

    part: str
    unit: str
    need: float
    #: None where no number of it is known here.
    limit: float | None
    #: Where the limit is from.
    source: str
    #: What moves it.
    remedy: str

    @property
    def share(self) -> float | None:
        """Of the limit; above 1 it does not hold."""
        return None if self.limit is None else self.need / self.limit


def needs(constants: Constants, day: Day) -> list[Need]:
    """All of them, the fullest first; those without a limit last."""
    rate, pods = day.tasks_a_second, day.tasks_a_second * day.pods_share
    celery = rate - pods

    def of(part: str) -> float:
        fixed = getattr(constants.scheduler, part) * day.schedulers
        each = getattr(constants.celery, part) * celery + getattr(constants.pod, part) * pods
        return float(fixed + each)

    in_flight = celery * day.celery_life_s + pods * day.pod_life_s
    average, average_celery = day.tasks / DAY_S, day.tasks / DAY_S * (1 - day.pods_share)
    redis_bytes = constants.attempt_bytes * (in_flight + rate * ATTEMPT_STAYS_S)
    redis_bytes += constants.result_bytes * average_celery * RESULT_STAYS_S
    found = [
        Need(
            "executor, in all schedulers", "processors", of("executor_ms") / 1000, day.schedulers * 0.5,
            "half of a processor in each scheduler's process, which is one interpreter and Airflow's as well",
            "more schedulers: each bears its own attempts",
        ),
        Need(
            "PostgreSQL, for the ledger", "processors", of("postgres_ms") / 1000, 4.0,
            "half of a server of 8 processors; the other half is Airflow's",
            "a larger server; `airflow hybrid ledger trim`, so that indexes stay in memory",
        ),
        Need(
            "Redis", "processors", of("valkey_ms") / 1000, 1.0,
            "commands run in one thread",
            "`[hybrid_executor] live_url` and `[celery] result_backend` on servers of their own",
        ),
        Need(
            "pods bound", "a second, a cluster", pods, 50.0,
            "the default of kube-scheduler's `--kube-api-qps`",
            "`[hybrid_executor] clusters_file`: pods by route to several clusters; or that flag",
        ),
        Need(
            "pods in flight", "a cluster", pods * day.pod_life_s, 150_000.0,
            "Kubernetes' documented limit",
            "`[hybrid_executor] clusters_file`",
        ),
        Need(
            "API calls of executors", "a second, all clusters", of("calls"), None, "",
            "`[hybrid_executor] clusters_file`",
        ),
        Need("Redis commands of executors", "a second", of("commands"), None, "", "as Redis"),
        Need("ledger rows written", "a second", of("rows"), None, "", "as PostgreSQL"),
        Need(
            "database statements of executors", "a second, at most", of("statements"), None, "",
            "none is needed: a statement takes as many rows as a heartbeat has",
        ),
        Need("attempts in flight", "", in_flight, None, "", ""),
        Need(
            "memory of Redis", "GiB", redis_bytes / 2**30, None, "",
            "Celery's `result_expires`, which is a day",
        ),
        Need(
            "ledger", "GiB a day", average * DAY_S * constants.row_bytes / 2**30, None, "",
            "`airflow hybrid ledger trim`",
        ),
    ]  # fmt: skip
    return sorted(found, key=lambda need: -1.0 if need.share is None else need.share, reverse=True)


def table(constants: Constants, days: Sequence[Day]) -> str:
    """Needs at several loads, side by side, in Markdown; the first that does not hold is marked."""
    by_day = [{need.part: need for need in needs(constants, day)} for day in days]
    largest = needs(constants, days[-1])
    lines = [
        f"| | {' | '.join(f'{day.tasks / 1e6:g} M tasks a day' for day in days)} | limit | what moves it |",
        f"| --- | {' | '.join('---' for _ in days)} | --- | --- |",
    ]
    for need in largest:
        told = [_told(of[need.part]) for of in by_day]
        limit = "" if need.limit is None else f"{_short(need.limit)}: {need.source}"
        title = f"{need.part}, {need.unit}" if need.unit else need.part
        lines.append(f"| {title} | {' | '.join(told)} | {limit} | {need.remedy} |")
    return "\n".join(lines) + "\n"


def _told(need: Need) -> str:
    said = _short(need.need)
    if need.share is None:
        return said
    percent = 100 * need.share
    share = f"{percent:,.0f}" if percent >= 10 else f"{percent:.2g}"
    return f"**{said}** ({share} %)" if need.share > 1 else f"{said} ({share} %)"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def schedulers_for(constants: Constants, day: Day) -> int:
    """How many schedulers bear the executor's part, each with half a processor for it."""
    free_ms = 500.0 - constants.scheduler.executor_ms
    rate, pods = day.tasks_a_second, day.tasks_a_second * day.pods_share
    busy_ms = constants.celery.executor_ms * (rate - pods) + constants.pod.executor_ms * pods
    return max(1, -int(-busy_ms // free_ms))
