"""The same once a second, as an idle scheduler beats: what threads do between heartbeats counts."""

from bench.figure import Case, Figure, Reading, Size, Turn
from bench.figures.heartbeat_idle import beating, in_flight_ours, in_flight_stock

#: One more than a round of reconciliation and of repairing pushes takes.
BEATS = 11

FIGURE = Figure(
    name="heartbeat_paced",
    title="heartbeats without a change, one each second, Celery tasks in flight",
    stocks={"stock": "CeleryExecutor"},
    cases=(
        Case("100", {"count": 100, "beats": 2}, frozenset({Size.SMALL})),
        Case("5,000", {"count": 5000, "beats": BEATS}),
    ),
    readings=(
        Reading(name="wall", unit="ms, the median one"),
        Reading(name="worst", unit="ms, the longest one"),
        Reading(name="cpu", unit="ms of processor a second"),
    ),
    stock_does="asks the result store for the state of every task",
    ours_does=(
        "reads all results once in ten seconds for what a push has missed, compares all with Airflow's tables"
        " in that time, and with its live half in Redis"
    ),
    rounds=2,
)


def stock(count: int, beats: int) -> Turn:
    return beating(in_flight_stock(count), beats, 1.0)


def ours(count: int, beats: int) -> Turn:
    return beating(in_flight_ours(count).executor, beats, 1.0)
