"""A heartbeat in which 1,000 of 5,000 Celery tasks have ended."""

from typing import Any

from bench import airflow_side as side
from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.figures.heartbeat_idle import in_flight_ours, in_flight_stock, taken
from bench.meter import Watch

FEW, MANY = "20 of 100", "1,000 of 5,000"

FIGURE = Figure(
    name="heartbeat_ends",
    title="heartbeat that ends Celery tasks",
    stocks={"stock": "CeleryExecutor"},
    cases=(
        Case(FEW, {"count": 100, "ends": 20}, frozenset({Size.SMALL})),
        Case(MANY, {"count": 5000, "ends": 1000}),
    ),
    readings=(
        Reading(name="wall", unit="ms", target=Target(times=3), cases=(MANY,)),
        Reading(name="wall", unit="ms", cases=(FEW,)),
        Reading(name="cpu", unit="ms of processor, from the results on"),
        Reading(name="statements", unit="database statements", counted=True, target=Target(at_most=12)),
    ),
    stock_does="reads all states, decodes those that ended; records nothing",
    ours_does=(
        "has heard of the results; asks Airflow's tables about the tasks that ended, closes their rows in the"
        " ledger and tells the live half; processor time holds what its threads do"
        " for it before and after the heartbeat"
    ),
)


def stock(count: int, ends: int) -> Turn:
    from celery.result import AsyncResult

    executor = in_flight_stock(count)
    statements = side.Statements()

    def turn() -> dict[str, float]:
        said = ended_by_stock(executor, ends, statements)
        _refill(executor, side.add_tasks(ends, state="running"), AsyncResult)
        return said

    turn()
    return turn


def ended_by_stock(executor: Any, ends: int, statements: side.Statements) -> dict[str, float]:
    """The heartbeat that hears of so many ends."""
    keys = list(executor.workloads)[:ends]
    ids = [executor.workloads[key].task_id for key in keys]
    watch = Watch()
    side.store_results(ids, "SUCCESS")
    storing, before, beat = watch.cpu_ms(), statements.count, Watch()
    executor.heartbeat()
    wall, cpu = beat.wall_ms(), watch.cpu_ms() - storing
    assert len(executor.event_buffer) == ends
    executor.event_buffer.clear()
    return {"wall": wall, "cpu": cpu, "statements": float(statements.count - before)}


def _refill(executor: Any, workloads: Any, result: Any) -> None:
    for workload in workloads:
        executor.running.add(workload.ti.key)
        executor.workloads[workload.ti.key] = result(
            workload.ti.external_executor_id, app=executor.celery_app
        )
    side.store_results(side.task_ids(workloads), "STARTED")


def ours(count: int, ends: int) -> Turn:
    our = in_flight_ours(count)
    statements = side.Statements()

    def turn() -> dict[str, float]:
        said = ended_by_ours(our, ends, statements)
        more = side.add_tasks(ends)
        our.send(more)
        taken(our, more)
        return said

    turn()
    return turn


def ended_by_ours(our: side.Ours, ends: int, statements: side.Statements) -> dict[str, float]:
    """The same."""
    our.end_round()
    workloads = [flight.parcel for flight in list(our.controller.inflight)[:ends]]
    side.set_state(workloads, "success")
    cost = _cost_of_storing(workloads)
    watch = Watch()
    side.store_results(side.task_ids(workloads), "SUCCESS")
    our.heard(ends, "results")
    our.put_off_round()
    before, beat = statements.count, Watch()
    our.executor.heartbeat()
    wall, sent = beat.wall_ms(), float(statements.count - before)
    our.settle()
    cpu = watch.cpu_ms() - cost
    assert len(our.executor.event_buffer) == ends
    our.executor.event_buffer.clear()
    return {"wall": wall, "cpu": cpu, "statements": sent}


def _cost_of_storing(workloads: Any) -> float:
    """What this file's own part as the worker costs, which is not the executor's."""
    watch = Watch()
    side.store_results([f"nobody-{task_id}" for task_id in side.task_ids(workloads)], "SUCCESS")
    return watch.cpu_ms()
