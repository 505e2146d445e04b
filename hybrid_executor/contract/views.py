"""Airflow's tables for people and for the doctor: reads only, in transactions of their own."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.jobs.job import Job, JobState
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState
from sqlalchemy import Engine, Select, case, func, literal_column, or_, select

from hybrid_executor.contract.database import short_session


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task instance as Airflow has it, for people. Times are UTC."""

    map_index: int
    #: None for one that is not scheduled yet.
    state: str | None
    try_number: int
    max_tries: int
    queue: str
    #: The executor that it names; None for the default one.
    executor: str | None
    pool: str
    hostname: str | None
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


def task_views(dag_id: str, run_id: str, task_id: str) -> list[TaskView]:
    """The instances of a task in a run, in the order of their map indexes; none if there is no such.

    May raise ``Unavailable``.
    """
    ti = TaskInstance
    columns = (
        ti.map_index,
        ti.state,
        ti.try_number,
        ti.max_tries,
        ti.queue,
        ti.executor,
        ti.pool,
        ti.hostname,
        ti.queued_dttm.label("queued_at"),
        ti.start_date.label("started_at"),
        ti.end_date.label("ended_at"),
    )
    found = (
        select(*columns)
        .where(ti.dag_id == dag_id, ti.run_id == run_id, ti.task_id == task_id)
        .order_by(ti.map_index)
    )
    with short_session() as session:
        return [TaskView(**row) for row in session.execute(found).mappings()]


@dataclass(frozen=True, slots=True)
class RunGroup:
    """So many instances of one task of a run in one state; each of those that are queued by itself."""

    task_id: str
    #: None for those that are not scheduled yet.
    state: str | None
    #: The attempt of one that is queued.
    attempt_id: str | None
    count: int


def of_run(dag_id: str, run_id: str) -> Select[Any]:
    """The groups of a run: as many as it has tasks, states and what is queued, not as its instances."""
    ti = TaskInstance
    # A constant in the text: PostgreSQL would take an expression with parameters for another one in GROUP BY.
    attempt = case((ti.state == literal_column("'queued'"), ti.external_executor_id))
    key = (ti.task_id, ti.state, attempt)
    return select(*key, func.count()).where(ti.dag_id == dag_id, ti.run_id == run_id).group_by(*key)


def run_groups(dag_id: str, run_id: str) -> list[RunGroup]:
    """All task instances of a run, of one moment; none if there is no such run. May raise ``Unavailable``."""
    with short_session() as session:
        return [RunGroup(*row) for row in session.execute(of_run(dag_id, run_id))]


def live_schedulers(grace_s: float) -> frozenset[str]:
    """Job ids of the schedulers whose heartbeat is no older than the grace; may raise ``Unavailable``."""
    oldest = datetime.now(UTC) - timedelta(seconds=grace_s)
    statement = select(Job.id).where(
        Job.job_type == "SchedulerJob",
        or_(Job.state == JobState.RUNNING, Job.state.is_(None)),
        Job.latest_heartbeat >= oldest,
    )
    with short_session() as session:
        return frozenset(str(job_id) for job_id in session.scalars(statement))


def unfinished_by_executor(engine: Engine) -> dict[str, int]:
    """How many scheduled, queued and running task instances name which executor; for the doctor."""
    named = TaskInstance.executor
    states = (TaskInstanceState.SCHEDULED, TaskInstanceState.QUEUED, TaskInstanceState.RUNNING)
    counted = (
        select(named, func.count()).where(named.is_not(None), TaskInstance.state.in_(states)).group_by(named)
    )
    with engine.connect() as connection:
        return {str(name): int(count) for name, count in connection.execute(counted)}


def unfinished_by_queue(engine: Engine) -> dict[str, int]:
    """How many scheduled, queued and running task instances are on which queue; for the doctor."""
    states = (TaskInstanceState.SCHEDULED, TaskInstanceState.QUEUED, TaskInstanceState.RUNNING)
    counted = (
        select(TaskInstance.queue, func.count())
        .where(TaskInstance.queue.is_not(None), TaskInstance.state.in_(states))
        .group_by(TaskInstance.queue)
    )
    with engine.connect() as connection:
        return {str(queue): int(count) for queue, count in connection.execute(counted)}
