"""A heartbeat while nothing happens to the Celery tasks in flight."""

import statistics
import time
from typing import Any

from bench import airflow_side as side
from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.meter import Watch

BEATS = 20

FIGURE = Figure(
    name="heartbeat_idle",
    title="heartbeat without a change, Celery tasks in flight",
    stocks={"stock": "CeleryExecutor"},
    cases=(
        Case("100", {"count": 100}, frozenset(Size), amount=100),
        Case("5,000", {"count": 5000}, amount=5000),
        Case("50,000", {"count": 50000}, amount=50000),
    ),
    amount_of="Celery tasks in flight",
    readings=(
        Reading(name="wall", unit="ms", target=Target(at_most=2), growth=Target(at_most=2)),
        Reading(name="commands", unit="Redis commands a heartbeat", counted=True, target=Target(at_most=1)),
    ),
    stock_does="asks the result store for the state of every task",
    ours_does=(
        "hears of results by itself; in ten seconds it compares what is in flight with Airflow's tables, a"
        " share in each heartbeat (`heartbeat_paced` has that in it)"
    ),
    rounds=3,
)


def in_flight_stock(count: int) -> Any:
    """A CeleryExecutor with so many tasks that run, as publishing them leaves it."""
    from celery.result import AsyncResult

    executor = side.stock_celery()
    workloads = side.add_tasks(count, state="running")
    for workload in workloads:
        executor.running.add(workload.ti.key)
        executor.workloads[workload.ti.key] = AsyncResult(
            workload.ti.external_executor_id, app=executor.celery_app
        )
    side.store_results(side.task_ids(workloads), "STARTED")
    return executor


def in_flight_ours(count: int) -> side.Ours:
    """The same."""
    our = side.Ours()
    workloads = side.add_tasks(count)
    for start in range(0, count, 5000):
        batch = workloads[start : start + 5000]
        our.send(batch)
        # At once: what stays in a queue is looked for there, and told of, again and again.
        taken(our, batch)
    return our


def taken(our: side.Ours, workloads: Any) -> None:
    """Workers have them, and the queue no longer."""
    side.set_state(workloads, "running")
    our.start_all(workloads)
    side.valkey().delete("default")


def stock(count: int) -> Turn:
    return beating(in_flight_stock(count), min(BEATS, max(3, 20000 // count)))


def ours(count: int) -> Turn:
    our = in_flight_ours(count)
    our.executor.heartbeat()
    return beating(our.executor, BEATS)


def beating(executor: Any, beats: int, pause_s: float = 0.0) -> Turn:
    """Rounds of so many heartbeats."""
    executor.heartbeat()

    def turn() -> dict[str, float]:
        took, commands, watch = [], side.commands(), Watch()
        for _ in range(beats):
            began_s = time.perf_counter()
            executor.heartbeat()
            took.append((time.perf_counter() - began_s) * 1000)
            time.sleep(pause_s)
        cpu = watch.cpu_ms()
        return {
            "wall": statistics.median(took),
            "worst": max(took),
            "cpu": cpu / beats,
            "commands": (side.commands() - commands - 1) / beats,
        }

    return turn
