"""What the benchmark makes of its readings: order, medians, targets, table; the README shows the newest."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import page
from bench.figure import LIMIT, OURS, Case, Figure, Reading, Size, Target
from bench.figures import ALL, NAMES
from bench.plan import chosen, rounds_of, turns
from bench.table import BEGIN, END, Spread, markdown, missed, number, rows, with_block

#: What the issue promises of each row.
KEYS = {"figure", "unit", "stock", "ours", "limit", "ratio", "target", "meets"}


def figure(*readings: Reading, **more: Any) -> Figure:
    given = {"stocks": {"stock": "Stock"}, "cases": [Case("few")], "stock_does": "", "ours_does": ""} | more
    return Figure(name="f", title="a figure", readings=readings, **given)


def row(reading: Reading, **measured: list[float]) -> dict[str, Any]:
    rounds = {side: [{reading.name: value} for value in values] for side, values in measured.items()}
    [found] = rows(figure(reading), Case("few"), rounds)
    return found


def test_sides_take_turns_so_that_a_slow_moment_slows_all_of_them() -> None:
    assert list(turns(("stock", OURS, LIMIT), 2)) == [
        (0, "stock"), (0, OURS), (0, LIMIT), (1, "stock"), (1, OURS), (1, LIMIT)
    ]  # fmt: skip


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30))
def test_the_median_lies_between_the_least_and_the_most(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread.low <= spread.median <= spread.high
    assert (spread.low, spread.high) == (min(values), max(values))


def test_a_row_has_what_was_promised_and_medians_of_all_rounds() -> None:
    found = row(
        Reading(name="wall", unit="ms", target=Target(times=3)), stock=[9, 90, 12], ours=[3, 1, 2], limit=[1]
    )
    assert found.keys() >= KEYS
    assert (found["stock"], found["ours"], found["limit"]) == (12, 2, 1)
    assert (found["ratio"], found["of_limit"]) == (6, 0.5)
    assert found["meets"] is True
    assert found["spread"] == {"stock": [9, 90], "ours": [1, 3], "limit": [1, 1]}
    assert json.loads(json.dumps(found)) == found


def test_a_rate_is_better_the_higher_it_is() -> None:
    rate = Reading(name="rate", unit="pods a second", more_is_better=True, target=Target(of_limit=0.8))
    assert row(rate, stock=[10], ours=[90], limit=[100])["ratio"] == 9
    assert row(rate, stock=[10], ours=[90], limit=[100])["meets"] is True
    assert row(rate, stock=[10], ours=[70], limit=[100])["meets"] is False


@pytest.mark.parametrize(
    ("target", "meets"),
    [
        (Target(times=2), True),
        (Target(times=2.5), False),
        (Target(at_most=5), True),
        (Target(at_most=4.9), False),
        (Target(at_least=5), True),
        (Target(at_least=5.1), False),
        (Target(times=2, at_most=4), False),
        (Target(of_limit=0.1), False),
    ],
)
def test_a_target_is_met_where_every_bound_of_it_holds(target: Target, meets: bool) -> None:
    """Stock takes 10, ours 5; the limit was not measured, which meets nothing."""
    assert row(Reading(name="wall", unit="ms", target=target), stock=[10], ours=[5])["meets"] is meets


def test_nothing_is_infinitely_better_than_nothing() -> None:
    found = row(Reading(name="statements", unit="statements", target=Target(at_most=0)), stock=[0], ours=[0])
    assert found["ratio"] is None
    assert found["meets"] is True


def test_each_stock_setup_has_a_row_of_its_own_beside_the_same_number_of_ours() -> None:
    tuned = figure(Reading(name="wall", unit="ms"), stocks={"stock": "defaults", "tuned": "batch 100"})
    measured = {"stock": [{"wall": 9.0}], "tuned": [{"wall": 4.0}], OURS: [{"wall": 1.0}]}
    found = rows(tuned, Case("few"), measured)
    assert [(one["against"], one["stock"], one["ours"]) for one in found] == [
        ("defaults", 9, 1),
        ("batch 100", 4, 1),
    ]


def test_only_what_is_counted_can_fail_a_run() -> None:
    slow = row(Reading(name="wall", unit="ms", target=Target(at_most=1)), ours=[5], stock=[5])
    chatty = row(
        Reading(name="calls", unit="calls", counted=True, target=Target(at_most=1)), ours=[5], stock=[5]
    )
    assert missed([slow]) == []
    assert missed([slow, chatty]) == ["a figure: few: 5 calls, wanted ≤ 1"]


def test_a_missed_target_is_plain_to_see() -> None:
    found = row(Reading(name="wall", unit="ms", target=Target(times=10)), stock=[10], ours=[5])
    assert "| ≥ 10 times better | **missed** |" in markdown([found])


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0234, "0.023"), (1.5, "1.5"), (12.34, "12.3"), (1234.6, "1,235")]
)
def test_a_number_has_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_a_figure_that_is_none_is_named() -> None:
    assert chosen(ALL, []) == ALL
    assert [one.name for one in chosen(ALL, ["publish"])] == ["publish"]
    with pytest.raises(ValueError, match="no figure pubish; there are "):
        chosen(ALL, ["pubish"])


@pytest.mark.parametrize("figure", ALL, ids=NAMES)
def test_every_figure_says_who_does_what_and_has_something_small_for_ci(figure: Figure) -> None:
    assert figure.stock_does
    assert figure.ours_does
    assert figure.chosen(Size.FULL)
    assert 1 <= rounds_of(figure, Size.SMALL, None) <= 2
    names = {case.name for case in figure.cases}
    assert {name for reading in figure.readings for name in reading.cases} <= names


def test_a_block_of_a_page_is_replaced_and_nothing_else() -> None:
    page_ = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_block(page_, "new\n") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_the_readme_shows_the_newest_whole_run() -> None:
    readme = page.README.read_text(encoding="utf-8")
    assert with_block(readme, page.readme_block()) == readme, "run python -m bench readme"
    assert readme.count(BEGIN) == readme.count(END) == 1
