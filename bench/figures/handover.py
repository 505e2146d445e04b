"""From ``queue_workload`` to the broker's word, with everything that either executor does between."""

from collections.abc import Sequence
from typing import Any

from bench import airflow_side as side
from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.meter import Watch, until

FIGURE = Figure(
    name="handover",
    title="queue_workload to accepted, Celery",
    stocks={"stock": "CeleryExecutor"},
    cases=(
        Case("1", {"count": 1}),
        Case("16", {"count": 16}, frozenset(Size)),
        Case("1,000", {"count": 1000}),
    ),
    readings=(
        Reading(name="wall", unit="ms", target=Target(times=2), cases=("1", "16")),
        Reading(name="wall", unit="ms", target=Target(times=3), cases=("1,000",)),
        Reading(name="cpu", unit="ms of processor"),
        # The row, and what the first heartbeat after it records; each a transaction.
        Reading(name="statements", unit="database statements", counted=True, target=Target(at_most=12)),
    ),
    stock_does="commits an empty transaction; records nothing",
    ours_does=(
        "writes the ledger's row in the scheduler's transaction, hands over to its publishing thread, records"
        " the broker's word in a second transaction, tells the ledger's live half in Redis, and subscribes to"
        " the result; processor time holds all of it, wall time ends with the second transaction"
    ),
    rounds=7,
)


def stock(count: int) -> Turn:
    executor = side.stock_celery()
    statements = side.Statements()

    def turn() -> dict[str, float]:
        workloads = side.add_tasks(count)
        before, watch = statements.count, Watch()
        side.queue(executor, workloads)
        executor.trigger_tasks(count)
        wall, cpu = watch.wall_ms(), watch.cpu_ms()
        assert len(executor.workloads) == count
        for kept in (executor.running, executor.workloads, executor.event_buffer):
            kept.clear()
        # ``side.queue`` asks once itself.
        return {"wall": wall, "cpu": cpu, "statements": statements.count - before - 1.0}

    turn()
    return turn


def ours(count: int) -> Turn:
    our = side.Ours()
    statements = side.Statements()
    our.send(side.add_tasks(count))
    finish(our)

    def turn() -> dict[str, float]:
        workloads = side.add_tasks(count)
        our.end_round()
        our.put_off_round()
        before, watch = statements.count, Watch()
        our.send(workloads)
        wall = watch.wall_ms()
        sent = statements.count - before - 1.0
        our.settle()
        cpu = watch.cpu_ms()
        finish(our)
        return {"wall": wall, "cpu": cpu, "statements": sent}

    return turn


def finish(our: side.Ours) -> None:
    """Everything in flight succeeds, as workers and the Execution API say it."""
    flights = list(our.controller.inflight)
    end([flight.parcel for flight in flights])
    until(lambda: _is_empty(our), "everything to end", pause_s=0.01)
    our.settle()
    side.valkey().delete("default")


def end(workloads: Sequence[Any]) -> None:
    """Workers and the Execution API say so."""
    side.set_state(workloads, "success")
    side.store_results(side.task_ids(workloads), "SUCCESS")


def _is_empty(our: side.Ours) -> bool:
    our.executor.heartbeat()
    our.executor.event_buffer.clear()
    return not len(our.controller.inflight)
