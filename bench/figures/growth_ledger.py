"""What one change costs as the ledger's history grows."""

from bench import airflow_side as side
from bench.figure import Case, Figure, Reading, Size, Turn
from bench.figures.growth_inflight import CHANGES, CONSTANT, FLAT, changing, know_the_tasks
from bench.figures.heartbeat_idle import in_flight_ours
from bench.meter import Watch

IN_FLIGHT = 1000
#: What the autoscaler's pool serves.
QUEUE = "default"

FIGURE = Figure(
    name="growth_ledger",
    title=f"{CHANGES} of {IN_FLIGHT:,} Celery tasks end and {CHANGES} are handed over, ledger with a history",
    stocks={},
    cases=(
        Case("100 rows", {"rows": 100}, frozenset(Size), amount=100),
        Case("100,000 rows", {"rows": 100_000}, frozenset(Size), amount=100_000),
        Case("1,000,000 rows", {"rows": 1_000_000}, amount=1_000_000),
        Case("10,000,000 rows", {"rows": 10_000_000}, amount=10_000_000),
    ),
    amount_of="rows in the ledger",
    readings=(
        Reading(name="ended", unit="ms of a heartbeat for each end", growth=FLAT),
        Reading(name="sent", unit="ms from queue_workload to accepted each", growth=FLAT),
        Reading(name="scaling", unit="ms of the autoscaler's query", growth=FLAT),
        Reading(name="statements", unit="database statements for the ends", counted=True, growth=CONSTANT),
    ),
    stock_does="has no ledger",
    ours_does="keeps a row of each submission; the rows of the history have ended, a second after each other",
)


def ours(rows: int) -> Turn:
    from tests.fixtures.history import fill_history

    fill_history(side.engine(), rows)
    change = changing(in_flight_ours(IN_FLIGHT))
    know_the_tasks()

    def turn() -> dict[str, float]:
        return change() | {"scaling": _scaling_ms()}

    return turn


def _scaling_ms() -> float:
    """As KEDA asks, on a connection that is open."""
    from hybrid_executor.routing import Pool, RoutingTable
    from hybrid_executor.scaling import demand_of, trigger_query

    pool = Pool(name="light", queues=(QUEUE,), concurrency=16)
    query = trigger_query("postgresql", demand_of(pool, RoutingTable(), (), ""))
    with side.engine().connect() as connection:
        plain = connection.execution_options(no_parameters=True)
        watch = Watch()
        workers = plain.exec_driver_sql(query).scalar_one()
        took = watch.wall_ms()
    assert workers == -(-IN_FLIGHT // 16)
    return took
