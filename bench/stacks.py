"""A whole stack as a side of a figure: all of Airflow, with one executor or another, on servers of its own.

Used inside a side's process. Times are those that Airflow and the servers have
noted themselves, so that they mean the same for every executor.
"""

import asyncio
import os
import re
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa

from bench.bare import pods_of
from bench.figure import Turn
from hybrid_executor.standalone.stack.environment import EXECUTOR, airflow_environment, option
from hybrid_executor.standalone.stack.stack import Stack
from hybrid_executor.standalone.stack.supervisor import Service
from tests.fixtures.stack import RunningStack, running_stack

DAGS = Path(__file__).parent / "dags"
SLOTS = 16
#: Runs of the DAG with so many tasks in a round, so that each gives many numbers; and how tasks run then.
RUNS = {1: 8, 16: 2}
NAMES = {1: "alone", 16: "together"}
#: Of a run, on a machine that does other things as well.
RUN_S = 600.0
#: The demo looks for dead schedulers in a hurry; here none dies, and Airflow's own pace costs less.
CALM = {
    option("scheduler", name): value
    for name, value in (
        ("scheduler_heartbeat_sec", "5"),
        ("job_heartbeat_sec", "5"),
        ("scheduler_health_check_threshold", "120"),
        ("orphaned_tasks_check_interval", "300"),
    )
}
#: The stack has settings of ours for its worker; a stock worker has its own.
STOCK_WORKER = {
    option(
        "celery", "celery_config_options"
    ): "airflow.providers.celery.executors.default_celery.DEFAULT_CELERY_CONFIG"
}
#: The folder of the cluster policy that maps a queue to an executor.
POLICY = {"PYTHONPATH": str(Path(__file__).parent / "policy")}
#: The id of a message, in what MONITOR shows of it.
MESSAGE_ID = re.compile(r'\\*"id\\*":\s*\\*"([0-9a-f-]{36})')
#: Stacks that were started; they end with the process.
_kept: list[AbstractContextManager[RunningStack]] = []


class PaperNodeStack(Stack):
    """Pods end without processes."""

    def _runner(self) -> Service:
        command = self._command("runner", ("-m", "bench.paper_node"), lambda: airflow_environment(self.setup))
        return Service(name="runner", command=command, after=("kubernetes", "postgres"), stop_rank=1)


class PaperStack(PaperNodeStack):
    """There is no worker besides."""

    def _celery(self) -> list[Service]:
        return []


def started(
    executor: str = EXECUTOR, *, kind: type[Stack] = Stack, extra: Mapping[str, str] | None = None
) -> RunningStack:
    """A stack that is up; it ends with this process."""
    state = Path(os.environ["AIRFLOW_HOME"]) / "stack"
    settings = CALM | dict(extra or {})
    stack = running_stack(state, DAGS, kind=kind, executor=executor, worker_slots=SLOTS, extra=settings)
    _kept.append(stack)
    return stack.__enter__()


@dataclass(frozen=True, slots=True)
class TaskTimes:
    """Of one task instance; seconds since 1970."""

    run_id: str
    task_id: str
    attempt_id: str
    queued_s: float
    started_s: float


#: Milliseconds that one task has waited, by what for.
Waits = Callable[[TaskTimes], dict[str, float]]


def waiting(stack: RunningStack, queue: str, waits: Waits) -> Turn:
    """Rounds of runs with one task, and with sixteen at once: percentiles of what their tasks waited for.

    A reading is called ``p50_`` or ``p95_``, what was waited for, and ``_alone`` or ``_together``.
    """

    def turn() -> dict[str, float]:
        said = {}
        for count, runs in RUNS.items():
            found = [waits(times) for _ in range(runs) for times in ran(stack, f"starting_{queue}_{count}")]
            for name in found[0]:
                values = [one[name] for one in found]
                said[f"p50_{name}_{NAMES[count]}"] = percentile(values, 0.5)
                said[f"p95_{name}_{NAMES[count]}"] = percentile(values, 0.95)
        return said

    for count in RUNS:
        ran(stack, f"starting_{queue}_{count}")
    return turn


def ran(stack: RunningStack, dag_id: str) -> list[TaskTimes]:
    """Run a DAG; the times of its tasks."""
    run_id = _run(stack, dag_id)
    query = sa.text(
        "SELECT run_id, task_id, external_executor_id, queued_dttm, start_date FROM task_instance"
        " WHERE dag_id = :dag AND run_id = :run"
    )
    with stack.db.connect() as connection:
        rows = connection.execute(query, {"dag": dag_id, "run": run_id}).all()
    return [
        TaskTimes(run, task, attempt, queued.timestamp(), begun.timestamp())
        for run, task, attempt, queued, begun in rows
    ]


def run_s(stack: RunningStack, dag_id: str) -> float:
    """Run a DAG; how long that took, as Airflow notes it."""
    run_id = _run(stack, dag_id)
    query = sa.text("SELECT start_date, end_date FROM dag_run WHERE dag_id = :dag AND run_id = :run")
    with stack.db.connect() as connection:
        begun, ended = connection.execute(query, {"dag": dag_id, "run": run_id}).one()
    return (ended - begun).total_seconds()


def _run(stack: RunningStack, dag_id: str) -> str:
    run_id = stack.trigger(dag_id)
    states = stack.wait_run(dag_id, run_id, RUN_S)
    assert set(states.values()) == {"success"}, states
    return run_id


@dataclass
class Noted:
    """When something outside was first seen, by its key; filled by a thread."""

    at_s: dict[Any, float] = field(default_factory=dict)

    def note(self, key: Any, at_s: float) -> None:
        self.at_s.setdefault(key, at_s)


def messages(stack: RunningStack) -> Noted:
    """When each Celery message was in Redis, by its task id, on the clock of the server."""
    noted, listening = Noted(), threading.Event()
    client = redis.Redis.from_url(stack.stack.setup.broker_url, socket_timeout=None)

    def follow() -> None:
        with client.monitor() as monitor:
            listening.set()
            for command in monitor.listen():
                if "LPUSH" in command["command"][:16].upper():
                    for task_id in MESSAGE_ID.findall(command["command"]):
                        noted.note(task_id, float(command["time"]))

    _in_thread(follow, listening)
    return noted


def pods(stack: RunningStack) -> Noted:
    """When a watch told of each pod, by run and task."""
    noted, listening = Noted(), threading.Event()

    async def follow() -> None:
        async with pods_of(str(stack.kubeconfig), stack.namespace) as cluster:
            listening.set()
            async for kind, pod in cluster.events():
                notes = pod["metadata"].get("annotations") or {}
                if kind == "ADDED":
                    noted.note((notes.get("run_id"), notes.get("task_id")), time.time())

    _in_thread(lambda: asyncio.run(follow()), listening)
    return noted


def _in_thread(follow: Callable[[], None], listening: threading.Event) -> None:
    threading.Thread(target=follow, daemon=True).start()
    assert listening.wait(30)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which so much of all lies, between its neighbours where none lies there."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]
