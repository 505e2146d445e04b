"""What one change costs as the number of attempts in flight grows."""

from sqlalchemy import text

from bench import airflow_side as side
from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.figures.heartbeat_ends import ended_by_ours, ended_by_stock
from bench.figures.heartbeat_idle import in_flight_ours, in_flight_stock, taken
from bench.meter import Watch

#: In one heartbeat, among those in flight.
CHANGES = 50
#: Over five hundred times the work, and more.
FLAT = Target(at_most=2)
#: A number of round trips may not grow at all.
CONSTANT = Target(at_most=1)

FIGURE = Figure(
    name="growth_inflight",
    title=f"{CHANGES} Celery tasks end and {CHANGES} are handed over, among attempts in flight",
    stocks={"stock": "CeleryExecutor"},
    cases=(
        Case("100", {"count": 100}, frozenset(Size), amount=100),
        Case("1,000", {"count": 1000}, frozenset(Size), amount=1000),
        Case("10,000", {"count": 10_000}, amount=10_000),
        Case("50,000", {"count": 50_000}, amount=50_000),
    ),
    amount_of="attempts in flight",
    readings=(
        Reading(name="ended", unit="ms of a heartbeat for each end", growth=FLAT),
        Reading(name="sent", unit="ms from queue_workload to accepted each", growth=FLAT),
        Reading(name="statements", unit="database statements for the ends", counted=True, growth=CONSTANT),
    ),
    stock_does="reads the state of all that are in flight, whatever has changed; records nothing",
    ours_does=(
        "has heard of the results; records ends and new attempts in the ledger. That in ten seconds all in"
        " flight are compared with Airflow's tables is left out here; `heartbeat_paced` has it in it"
    ),
)


def stock(count: int) -> Turn:
    executor = in_flight_stock(count)
    statements = side.Statements()

    def turn() -> dict[str, float]:
        said = ended_by_stock(executor, CHANGES, statements)
        more = side.add_tasks(CHANGES)
        watch = Watch()
        side.queue(executor, more)
        executor.trigger_tasks(CHANGES)
        sent = watch.wall_ms()
        assert not executor.queued_tasks
        executor.event_buffer.clear()
        side.set_state(more, "running")
        side.store_results(side.task_ids(more), "STARTED")
        side.valkey().delete("default")
        return for_each(said, sent)

    turn()
    return turn


def ours(count: int) -> Turn:
    our = in_flight_ours(count)
    know_the_tasks()
    return changing(our)


def know_the_tasks() -> None:
    """As autovacuum does it within a minute; of the ledger's rows the planner need not know."""
    with side.engine().begin() as connection:
        connection.execute(text("ANALYZE task_instance"))


def changing(our: side.Ours) -> Turn:
    """Rounds in which tasks end, and as many take their places."""
    statements = side.Statements()

    def turn() -> dict[str, float]:
        said = ended_by_ours(our, CHANGES, statements)
        more = side.add_tasks(CHANGES)
        watch = Watch()
        our.send(more)
        sent = watch.wall_ms()
        taken(our, more)
        return for_each(said, sent)

    turn()
    return turn


def for_each(said: dict[str, float], sent_ms: float) -> dict[str, float]:
    return {
        "ended": said["wall"] / CHANGES,
        "sent": sent_ms / CHANGES,
        "statements": said["statements"],
    }
