"""What the benchmark makes of its readings: order, medians, targets, table; the README shows the newest."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import page
from bench import run as run_module
from bench.figure import LIMIT, OURS, Case, Figure, Reading, Size, Target
from bench.figures import ALL, NAMES
from bench.paper_node import status_of, success_of, take_in
from bench.plan import chosen, is_whole, rounds_of, turns
from bench.plot import FORMATS, GROWTH, RATIOS, Bar, Point, bars, curves, draw
from bench.stacks import MESSAGE_ID, percentile
from bench.table import BEGIN, END, Spread, growth_rows, markdown, missed, number, rows, with_block

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


def test_a_figure_that_fails_in_whatever_way_costs_no_other_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(world: Any, figure: Figure, case: Case, rounds: int) -> dict[str, list[dict[str, float]]]:
        if case.name == "broken":
            raise OSError("the server is gone")
        return {OURS: [{"time": 1.0}]}

    monkeypatch.setattr(run_module, "measure", measure)
    reading, said = Reading(name="time", unit="ms"), []
    figures = [figure(reading, cases=[Case("broken", {}, frozenset(Size))]), figure(reading)]
    with pytest.raises(run_module.Incomplete, match="f, broken: OSError: the server is gone") as failed:
        run_module.run(None, figures, Size.FULL, None, said.append)  # type: ignore[arg-type]
    assert [found["ours"] for found in failed.value.table] == [1.0]
    assert said[0] == "failed: f, broken: OSError: the server is gone"


def side_process(code: str, tmp_path: Path) -> run_module.Side:
    """A side that runs this instead of a figure."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    (tmp_path / "bench" / "side.py").write_text(code)
    return run_module.Side(figure(), Case("few"), OURS, dict(os.environ), tmp_path / "log")


def test_a_side_that_has_ended_is_a_failure_whenever_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "ROOT", tmp_path)
    one = side_process("print('{}', flush=True)", tmp_path)
    assert one.answer() == {}
    for _ in range(2):
        with pytest.raises(run_module.SideFailed, match="ours ended"):
            one.turn()
    one.close()


def test_a_side_that_says_nothing_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "ROOT", tmp_path)
    monkeypatch.setattr(run_module, "ANSWER_S", 0.5)
    one = side_process("import os, time\nos.fork()\ntime.sleep(600)", tmp_path)
    with pytest.raises(run_module.SideFailed, match="ours ended"):
        one.answer()
    one.close()


def test_a_run_in_which_a_figure_failed_is_no_whole_one() -> None:
    assert is_whole(ALL, ALL, Size.FULL, failed=False)
    assert not is_whole(ALL, ALL, Size.FULL, failed=True)
    assert not is_whole(ALL, ALL, Size.SMALL, failed=False)
    assert not is_whole(ALL[1:], ALL, Size.FULL, failed=False)


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


#: A figure that was read at three amounts, the least of them not first.
GROWING = (Case("100", amount=100), Case("10", amount=10), Case("1,000", amount=1000))


def growing(reading: Reading, **medians: list[float]) -> tuple[Figure, dict[str, Any]]:
    """The rounds of each case, of one number for each side: in the order of ``GROWING``."""
    measured = {
        case.name: {side: [{reading.name: values[place]}] for side, values in medians.items()}
        for place, case in enumerate(GROWING)
    }
    return figure(reading, cases=GROWING, amount_of="tasks"), measured


def test_growth_is_how_often_the_least_amounts_number_the_highest_is() -> None:
    wall = Reading(name="wall", unit="ms", growth=Target(at_most=2))
    # Ours is highest in between: 30 at 100, and 12 at 1,000.
    [found] = growth_rows(*growing(wall, ours=[30, 10, 12], stock=[50, 5, 500]))
    assert found["figure"] == "a figure: growth from 10 to 1,000"
    assert (found["stock"], found["ours"]) == (100, 3)
    assert (found["meets"], found["target"]) == (False, "≤ 2")
    assert missed([found]) == []


def test_a_number_of_round_trips_that_grows_fails_a_run() -> None:
    calls = Reading(name="calls", unit="calls", counted=True, growth=Target(at_most=1))
    assert missed(growth_rows(*growing(calls, ours=[5, 5, 5]))) == []
    assert missed(growth_rows(*growing(calls, ours=[5, 5, 6]))) != []


def test_what_was_read_once_has_not_grown() -> None:
    wall = Reading(name="wall", unit="ms", growth=Target(at_most=2))
    some, measured = growing(wall, ours=[30, 10, 12])
    assert growth_rows(some, {"10": measured["10"]}) == []
    assert growth_rows(*growing(Reading(name="wall", unit="ms"), ours=[30, 10, 12])) == []


def table_of(some: Figure, measured: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for case in some.cases for row in rows(some, case, measured[case.name])]


def test_a_picture_of_growth_has_a_line_for_each_side_by_amount() -> None:
    wall = Reading(name="wall", unit="ms")
    [found] = curves(table_of(*growing(wall, ours=[3, 1, 2], stock=[30, 10, 20])))
    assert (found.title, found.amount_of, found.unit) == ("a figure", "tasks", "ms")
    assert list(found.lines) == ["ours", "stock: Stock"]
    assert found.lines["ours"] == [Point(10, 1, 1, 1), Point(100, 3, 3, 3), Point(1000, 2, 2, 2)]


def test_what_is_counted_or_read_at_one_amount_is_no_curve() -> None:
    counted = Reading(name="calls", unit="calls", counted=True)
    assert curves(table_of(*growing(counted, ours=[1, 1, 1]))) == []
    some, measured = growing(Reading(name="wall", unit="ms"), ours=[3, 1, 2])
    assert curves(rows(some, some.cases[0], measured["100"])) == []


def test_a_bar_is_a_row_with_a_target_and_a_ratio() -> None:
    wall = Reading(name="wall", unit="ms", target=Target(times=2))
    assert bars([row(wall, stock=[10], ours=[5])]) == [Bar("a figure: few\nms, Stock", 2)]
    assert bars([row(wall, ours=[5])]) == []
    assert bars([row(Reading(name="wall", unit="ms"), stock=[10], ours=[5])]) == []


def test_what_is_counted_or_has_grown_is_no_bar() -> None:
    some, measured = growing(
        Reading(name="wall", unit="ms", growth=Target(at_most=2)), ours=[3, 1, 2], stock=[30, 10, 20]
    )
    assert bars(growth_rows(some, measured)) == []
    calls = Reading(name="calls", unit="calls", counted=True, target=Target(times=2))
    assert bars([row(calls, stock=[10], ours=[5])]) == []


def test_the_pictures_of_a_table_are_png_and_svg_and_the_same_each_time(tmp_path: Path) -> None:
    wall = Reading(name="wall", unit="ms", target=Target(times=2))
    table = table_of(*growing(wall, ours=[3, 1, 2], stock=[30, 10, 20]))
    files = draw(table, tmp_path)
    assert {file.name for file in files} == {
        f"{name}.{ending}" for name in (GROWTH, RATIOS) for ending in FORMATS
    }
    first = {file: file.read_bytes() for file in files}
    for file, content in first.items():
        if file.suffix == ".svg":
            assert "times better than stock" in content.decode() or "tasks" in content.decode()
            assert ET.fromstring(content).tag.endswith("svg")  # noqa: S314 - our own
        else:
            assert content.startswith(b"\x89PNG")
    assert {file: file.read_bytes() for file in draw(table, tmp_path)} == first


def test_a_picture_of_an_older_run_does_not_stay_beside_a_newer_table(tmp_path: Path) -> None:
    wall = Reading(name="wall", unit="ms", target=Target(times=2))
    draw(table_of(*growing(wall, ours=[3, 1, 2])), tmp_path)
    assert draw([row(wall, ours=[5])], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("figure", ALL, ids=NAMES)
def test_every_figure_says_who_does_what_and_has_something_small_for_ci(figure: Figure) -> None:
    assert figure.stock_does
    assert figure.ours_does
    assert figure.chosen(Size.FULL)
    assert 1 <= rounds_of(figure, Size.SMALL, None) <= 2
    names = {case.name for case in figure.cases}
    assert {name for reading in figure.readings for name in reading.cases} <= names


def test_the_node_without_processes_names_the_tasks_of_its_pods_and_leaves_other_pods_alone() -> None:
    notes = {"dag_id": "d", "task_id": "t", "run_id": "r"}
    pods = [
        {"metadata": {"annotations": noted}}
        for noted in (notes, notes | {"map_index": "7"}, {"a": "b"}, None)
    ]
    assert success_of(pods) == {"dag": ["d", "d"], "task": ["t", "t"], "run": ["r", "r"], "index": [-1, 7]}


async def test_the_node_without_processes_ends_a_pod_once_that_a_second_list_shows_again() -> None:
    pods = [{"metadata": {"uid": name}} for name in ("first", "second")]
    seen: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    class EndingWatch:
        """Lists what there is, and ends; the first time before the second pod was made."""

        listed = 0

        async def events(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
            self.listed += 1
            for pod in pods[: self.listed]:
                yield "ADDED", pod
            await asyncio.sleep(0)

    watching = asyncio.create_task(take_in(EndingWatch(), seen))  # type: ignore[arg-type]
    assert [await seen.get(), await seen.get()] == pods
    watching.cancel()


def test_the_node_without_processes_says_what_a_kubelet_would_say() -> None:
    pod = {"spec": {"containers": [{"name": "base", "image": "i"}]}}
    for phase, state in (("Running", "running"), ("Succeeded", "terminated")):
        status = json.loads(status_of(phase, pod, "2026-01-01T00:00:00Z"))["status"]
        [container] = status["containerStatuses"]
        assert (status["phase"], container["name"], list(container["state"])) == (phase, "base", [state])
    assert container["state"]["terminated"]["exitCode"] == 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.sampled_from((0.5, 0.95)))
def test_a_percentile_lies_among_its_values_with_its_share_of_them_below(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert min(values) - 1e-6 <= found <= max(values) + 1e-6
    assert sum(value <= found + 1e-6 for value in values) >= share * len(values) - 1


def test_a_message_is_known_by_its_task_id_in_what_redis_shows_of_it() -> None:
    attempt = "0b0f4d1e-0c56-4f0c-8f6e-4c7d1a2b3c4d"
    message = {"body": "e30=", "headers": {"lang": "py", "id": attempt, "root_id": attempt[::-1]}}
    shown = f"LPUSH default {json.dumps(message)}"
    assert MESSAGE_ID.findall(shown) == [attempt]
    assert MESSAGE_ID.findall(shown.replace('"', '\\"')) == [attempt]


def test_a_block_of_a_page_is_replaced_and_nothing_else() -> None:
    page_ = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_block(page_, "new\n") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_the_readme_shows_the_newest_whole_run() -> None:
    readme = page.README.read_text(encoding="utf-8")
    assert with_block(readme, page.readme_block()) == readme, "run python -m bench readme"
    assert readme.count(BEGIN) == readme.count(END) == 1
