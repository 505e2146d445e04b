"""What a user sees of how things stand is summed from their own DAGs, and told backwards from now."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.ledger.survey import Ended, Move, Open, Running, Survey
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.record import Outcome, Stage
from hybrid_executor.overview import STEP, overview, spread
from hybrid_executor.plugin import charts

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
HOUR_AGO = NOW - timedelta(hours=1)
CELERY, PODS = BackendName.CELERY, BackendName.KUBERNETES


def at(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def move(
    queued: float, started: float | None = None, ended: float | None = None, dag_id: str = "etl"
) -> Move:
    times = [None if minutes is None else at(minutes) for minutes in (queued, started, ended)]
    return Move(CELERY, "default", dag_id, times[0] or NOW, times[1], times[2], f"{queued}", 1)


def survey(moves: Sequence[Move], complete_since: datetime = HOUR_AGO) -> Survey:
    """What the ledger says after these moves."""
    stages = {Stage.QUEUED: 0, Stage.RUNNING: 0}
    for one in moves:
        if one.ended_at is None:
            stages[Stage.RUNNING if one.started_at else Stage.QUEUED] += 1
    return Survey(
        at=NOW,
        since=HOUR_AGO,
        complete_since=complete_since,
        opens=[Open(CELERY, "default", "etl", stage, count, at(50)) for stage, count in stages.items()],
        ends=[Ended(CELERY, "default", "etl", Outcome.SUCCEEDED, None, 1)],
        waits=[],
        running=[],
        moves=moves,
    )


minutes = st.integers(0, 59)
lives = st.lists(
    st.lists(minutes, min_size=1, max_size=3).map(lambda times: sorted(times, reverse=True)), max_size=30
)


@given(lives)
def test_a_curve_counts_what_had_been_queued_and_had_not_started(lives: list[list[int]]) -> None:
    moves = [move(*life) for life in lives]
    seen = overview(survey(moves), {"etl"})
    [queue] = seen.queues

    def waiting(time: datetime) -> int:
        return sum(
            one.queued_at <= time and (one.started_at is None or one.started_at > time) for one in moves
        )

    assert list(queue.depths) == [waiting(time) for time in seen.times]
    assert (seen.times[0], seen.times[-1]) == (HOUR_AGO, NOW)


def test_a_curve_begins_where_every_move_is_known() -> None:
    seen = overview(survey([move(5)], complete_since=at(9.5)), {"etl"})
    assert seen.times == [NOW - STEP * back for back in range(9, -1, -1)]


def test_nothing_of_another_dag_is_in_any_number() -> None:
    whole = survey([move(5), move(9, 4, dag_id="secret")])
    seen = overview(whole, {"other"})
    assert (seen.queues, seen.waits, seen.places, seen.reasons) == ([], [], [], [])


def test_pods_are_counted_by_their_nodes_and_the_busiest_is_first() -> None:
    whole = Survey(
        at=NOW,
        since=HOUR_AGO,
        complete_since=HOUR_AGO,
        opens=[],
        ends=[],
        waits=[],
        running=[
            Running(CELERY, "celery@w on tuesday", "etl", 2),
            Running(PODS, "a on node-1", "etl", 1),
            Running(PODS, "b on node-1", "etl", 2),
        ],
        moves=[],
    )
    assert overview(whole, {"etl"}).places == [(PODS, "node-1", 3), (CELERY, "celery@w on tuesday", 2)]


@given(st.lists(st.floats(-1, 1e6), min_size=1))
def test_half_are_no_longer_than_the_median_and_nineteen_of_twenty_than_the_95th(values: list[float]) -> None:
    told = spread(values)
    assert told
    assert 0 <= told.median_s <= told.p95_s
    assert sum(value <= told.median_s for value in values) >= len(values) / 2
    assert sum(value <= told.p95_s for value in values) >= 0.95 * len(values)
    assert spread([]) is None


@pytest.mark.parametrize(
    ("value", "top"), [(0, 2), (1, 2), (3, 5), (10, 10), (11, 20), (99, 100), (501, 1000)]
)
def test_an_axis_ends_at_a_round_number_that_holds_all(value: int, top: int) -> None:
    assert charts.round_up(value) == top
