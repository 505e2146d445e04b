"""From what Airflow offers after a scheduler's death to the executor knowing where each of it is."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from bench import airflow_side as side
from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.meter import Watch, until

DEAD = "99"

FIGURE = Figure(
    name="restart",
    title="adopt running Celery tasks of a dead scheduler",
    stocks={"stock": "CeleryExecutor"},
    cases=(
        Case("100", {"count": 100}, frozenset({Size.SMALL})),
        Case("5,000", {"count": 5000}),
    ),
    readings=(
        Reading(name="wall", unit="ms", target=Target(times=5)),
        Reading(name="cpu", unit="ms of processor"),
        Reading(name="statements", unit="database statements", counted=True, target=Target(at_most=60)),
        Reading(name="commands", unit="Redis commands"),
    ),
    stock_does="asks for each task's try number and result, one by one",
    ours_does=(
        "reads the ledger and looks every result up in bulk, subscribes to each, and writes who answers for"
        " it now; the live half in Redis follows"
    ),
    fresh=True,
    rounds=3,
)


def _offered(session: Any) -> Sequence[Any]:
    """The query of ``adopt_or_reset_orphaned_tasks``, with the columns that it loads."""
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select
    from sqlalchemy.orm import lazyload, load_only

    ti = TaskInstance
    columns = (ti.id, ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.state, ti.external_executor_id)
    query = select(ti).options(lazyload(ti.dag_run), load_only(*columns)).where(ti.state == "running")
    return list(session.scalars(query.with_for_update(of=ti, skip_locked=True)))


def _adoption(executor: Any, count: int, known: Callable[[], None]) -> Turn:
    statements = side.Statements()

    def turn() -> dict[str, float]:
        with side.scheduler_session() as session:
            tis = _offered(session)
            before, commands, watch = statements.count, side.commands(), Watch()
            left = executor.try_adopt_task_instances(tis)
            assert not left
            assert len(tis) == count
            session.commit()
            known()
            wall, cpu = watch.wall_ms(), watch.cpu_ms()
        return {
            "wall": wall,
            "cpu": cpu,
            "statements": float(statements.count - before),
            "commands": float(side.commands() - commands - 1),
        }

    return turn


def stock(count: int) -> Turn:
    executor = side.stock_celery()
    workloads = side.add_tasks(count, state="running")
    side.store_results(side.task_ids(workloads), "STARTED")

    def known() -> None:
        executor.heartbeat()
        assert len(executor.workloads) == count

    return _adoption(executor, count, known)


def ours(count: int) -> Turn:
    our = side.Ours()
    workloads = side.add_tasks(count, state="running")
    _record(our, workloads)
    side.store_results(side.task_ids(workloads), "STARTED")
    our.executor.heartbeat()

    def known() -> None:
        until(lambda: _is_known(our, count), "all to be looked up", pause_s=0.005)

    return _adoption(our.executor, count, known)


def _is_known(our: side.Ours, count: int) -> bool:
    our.executor.heartbeat()
    flights = list(our.controller.inflight)
    return len(flights) == count and not any(flight.looked_up for flight in flights)


def _record(our: side.Ours, workloads: Sequence[Any]) -> None:
    """What the dead scheduler has recorded."""
    from dataclasses import replace

    from hybrid_executor import contract
    from hybrid_executor.inflight import Flight

    table = our.executor._routing
    now = datetime.now(UTC)
    records = []
    for workload in workloads:
        attempt = contract.attempt_of(
            workload, route=table.route, callback_route=table.route, default_queue="default"
        )
        row = our.controller.row_of(Flight(attempt=attempt, key=workload.key))
        records.append(
            replace(row, scheduler_job=DEAD, submitted_at=now, started_at=now, where="celery@bench")
        )
    our.executor._ledger.record(records, [])
    with side.engine().begin() as connection:
        connection.execute(text("ANALYZE"))
