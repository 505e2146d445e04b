"""The load test's own arithmetic: what is offered when, what a run has cost, and what that means for more."""

import base64
import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load import page
from bench.load.api import called
from bench.load.apicalls import calls_of, of_executors, text_of
from bench.load.board import Board, Teller
from bench.load.model import Constants, Costs, Day, Need, needs, schedulers_for, table
from bench.load.node import is_new
from bench.load.picture import lines
from bench.load.plan import (
    CELERY,
    KUBERNETES,
    LOAD,
    SIZES,
    SPREAD,
    Plan,
    first_index,
    lost,
    phase_of,
)
from bench.load.report import costs, faults, markdown, series, spread, summary
from bench.load.sample import kind_of
from bench.load.worker import message_of
from bench.table import with_block

PLAN = Plan(SIZES["small"])
LAST = len(PLAN.phases) - 1
QUEUES = (CELERY, KUBERNETES)


# --- what is offered -----------------------------------------------------------------------


@given(st.floats(0, 10_000), st.sampled_from(QUEUES), st.integers(1, 5))
def test_schedulers_together_offer_the_rate_and_never_run_ahead_of_it(
    elapsed_s: float, queue: str, schedulers: int
) -> None:
    plan = Plan(replace(PLAN.amounts, schedulers=schedulers))
    load = plan.phases[LAST]
    rate = load.pods_a_second if queue == KUBERNETES else load.tasks_a_second
    offered = sum(plan.due(LAST, number, queue, elapsed_s) for number in range(schedulers))
    assert abs(offered - min(elapsed_s, load.offers_s) * rate) <= schedulers


def test_a_phase_of_one_kind_offers_nothing_of_the_other() -> None:
    offers = {
        phase.name: [PLAN.due(number, 0, queue, 1e6) > 0 for queue in QUEUES]
        for number, phase in enumerate(PLAN.phases)
    }
    assert offers == {
        "idle": [False, False],
        "celery": [True, False],
        "pods": [False, True],
        "load": [True, True],
    }


def test_as_many_pods_are_in_flight_as_were_asked_for_once_as_many_end_as_begin() -> None:
    load = PLAN.phases[LAST]
    assert load.pods_a_second * load.pod_life_s == pytest.approx(PLAN.amounts.pods)


@given(st.integers(0, 1_000_000), st.sampled_from(QUEUES))
def test_a_life_is_drawn_once_and_within_its_bounds(number: int, queue: str) -> None:
    index = first_index(LAST, 1) + number
    load = PLAN.phases[LAST]
    mean_s = load.pod_life_s if queue == KUBERNETES else load.task_life_s
    life_s = PLAN.life_s(index, queue)
    assert SPREAD[0] * mean_s <= life_s <= SPREAD[1] * mean_s
    assert Plan.of_text(PLAN.text()).life_s(index, queue) == life_s


def test_a_map_index_says_its_phase_and_belongs_to_one_scheduler() -> None:
    firsts = [first_index(phase, number) for phase in range(4) for number in range(10)]
    assert sorted(set(firsts)) == firsts
    assert [phase_of(first) for first in firsts] == [phase for phase in range(4) for _ in range(10)]
    assert max(firsts) + 10_000_000 < 2**31


def test_a_task_of_which_nobody_was_told_is_lost() -> None:
    assert lost({1: 0.0, 2: 0.0, 3: 0.0}, {1: 1.0, 3: 1.0}) == [2]


# --- what is read --------------------------------------------------------------------------


def test_calls_are_counted_as_a_real_api_server_tells_them() -> None:
    told = """
# TYPE apiserver_request_total counter
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="pods",scope="resource",\
subresource="",verb="POST",version="v1"} 7
apiserver_request_total{code="409",component="apiserver",dry_run="",group="",resource="pods",scope="resource",\
subresource="",verb="POST",version="v1"} 1
apiserver_request_total{code="200",resource="pods",subresource="status",verb="PATCH"} 1.4e+01
apiserver_request_total{code="200",resource="",subresource="/readyz",verb="GET"} 3
apiserver_request_duration_seconds_sum{resource="pods",verb="POST"} 3
"""
    assert calls_of(told) == {"POST pods": 8, "PATCH pods/status": 14}


@given(
    st.dictionaries(
        st.sampled_from(["POST pods", "PATCH pods/status", "WATCH secrets"]), st.integers(1, 10**9)
    )
)
def test_what_the_counting_api_writes_is_read_back(counted: dict[str, int]) -> None:
    assert calls_of(text_of(counted)) == Counter(counted)


def test_what_nodes_say_is_no_call_of_an_executors() -> None:
    assert of_executors({"POST pods": 2, "PATCH pods/status": 4, "PATCH nodes": 9, "POST secrets": 2}) == {
        "POST pods": 2,
        "POST secrets": 2,
    }


@pytest.mark.parametrize(
    ("method", "path", "is_watch", "name"),
    [
        ("POST", "/api/v1/namespaces/a/pods", False, "POST pods"),
        ("GET", "/api/v1/namespaces/a/pods", False, "LIST pods"),
        ("GET", "/api/v1/namespaces/a/pods", True, "WATCH pods"),
        ("GET", "/api/v1/namespaces/a/pods/b", False, "GET pods"),
        ("PATCH", "/api/v1/namespaces/a/pods/b/status", False, "PATCH pods/status"),
        ("DELETE", "/api/v1/namespaces/a/pods", False, "DELETECOLLECTION pods"),
        ("GET", "/readyz", False, None),
    ],
)
def test_the_counting_api_calls_requests_what_a_real_one_calls_them(
    method: str, path: str, is_watch: bool, name: str | None
) -> None:
    assert called(method, path, is_watch=is_watch) == name


def test_a_worker_finds_the_task_in_a_celery_message() -> None:
    workload = json.dumps({"ti": {"id": "instance", "map_index": 7}})
    body = base64.b64encode(json.dumps([[workload], {}, {"callbacks": None}]).encode()).decode()
    raw = json.dumps({"headers": {"id": "attempt"}, "body": body, "properties": {"delivery_tag": "tag"}})
    message = message_of(raw.encode())
    assert (message.task_id, message.instance, message.index, message.tag) == (
        "attempt",
        "instance",
        7,
        "tag",
    )


@pytest.mark.parametrize(
    ("phase", "seen", "starts"),
    [("Pending", set(), True), ("Pending", {"one"}, False), ("Running", set(), False)],
)
def test_a_node_starts_a_pod_once(phase: str, seen: set[str], starts: bool) -> None:
    assert is_new({"metadata": {"name": "one"}, "status": {"phase": phase}}, seen) is starts


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    board = Board(tmp_path)
    teller = Teller(board, "one")
    teller.tell(count=1)
    with (tmp_path / "one.lines").open("a") as file:
        file.write('{"at": 1, "cou')
    assert [line["count"] for line in board.lines("one")] == [1]
    assert board.lines("nobody") == []


def test_what_a_process_leaves_is_there_once_it_is_whole(tmp_path: Path) -> None:
    board = Board(tmp_path)
    assert board.left("node") is None
    board.leave("node", {"ended": {7: 1.0}})
    assert board.left("node") == {"ended": {"7": 1.0}}


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("{hybrid:1}:attempt:a", "attempt"),
        ("celery-task-meta-a", "result"),
        ("{hybrid:1}:inflight:celery:default", "inflight"),
        ("_kombu.binding.celery", "other"),
    ],
)
def test_a_key_is_known_by_its_name(key: str, kind: str) -> None:
    assert kind_of(key) == kind


# --- what a run has cost -------------------------------------------------------------------


def sample(at: float, **told: Any) -> dict[str, Any]:
    return {
        "at": at,
        "cpu_s": {"scheduler-0": 0.0, "scheduler-1": 0.0, "valkey": 0.0},
        "pss_mib": {"scheduler-0": 100.0 + at},
        "calls": {},
        "commands": {},
        "tables": {},
        "database": {},
        **told,
    }


def line(at: float, phase: int, statements: int = 0, **told: Any) -> dict[str, Any]:
    known = {"beat_ms": 1.0, "worst_beat_ms": 2.0, "handing_ms": 3.0, "ledger_lag_s": 0.0, "inflight": 1}
    return {"at": at, "phase": phase, "statements": statements, "own_cpu_s": 0.0, **known, **told}


def phase(name: str, begin: float, end: float) -> dict[str, Any]:
    return {"name": name, "from": begin, "began": begin, "offered": end - 1, "drained": end, "to": end}


def found() -> dict[str, Any]:
    """Ten idle seconds, and then ten in which ten Celery tasks ran; the two others as empty as the first."""
    indexes = [first_index(1, 0) + number for number in range(10)]
    rows = {"hybrid_submission": {"inserted": 10, "updated": 20, "in_place": 5, "deleted": 0}}
    busy: dict[str, Any] = {"tables": rows, "calls": {"GET pods": 20}}
    samples = [
        sample(0, commands={"lpush": 0, "setex": 0}),
        # An idle scheduler says one command a second.
        sample(10, commands={"lpush": 0, "setex": 0, "get": 20}, calls={"GET pods": 20}),
        sample(20, commands={"lpush": 10, "setex": 20, "get": 40}, **busy),
        sample(30, commands={"lpush": 10, "setex": 20, "get": 60}, **busy),
        sample(40, commands={"lpush": 10, "setex": 20, "get": 80}, **busy),
    ]
    schedulers = [line(at, at // 10, statements=at) for at in (0, 10, 20, 30, 40)]
    return {
        "phases": [phase(p.name, 10 * n, 10 * n + 10) for n, p in enumerate(PLAN.phases)],
        "samples": samples,
        "lines": {
            "scheduler-0": schedulers,
            "scheduler-1": schedulers,
            "worker": [line(9, 0, commands={"setex": 0}), line(19, 1, commands={"setex": 20})],
        },
        "observed": dict.fromkeys(indexes, 15.5),
        "ended": dict.fromkeys(indexes, 15.0),
        "begun": dict.fromkeys(indexes, 12.0),
        "keys": {"attempt": {"keys": 10, "bytes": 9000}, "result": {"keys": 10, "bytes": 2500}},
        "ledger": {
            "rows": 10,
            "table_bytes": 5000,
            "index_bytes": 4000,
            "waits": [[first_index(LAST, 0), "celery", 35.0, 0.25]],
        },
        "checks": {
            "offered": 10,
            "lost": 0,
            "failed": 0,
            "sent_again": 0,
            "without_a_row": 0,
            "left": {"pods": 0, "messages": 0},
        },
    }


def test_a_task_costs_what_its_phase_has_cost_less_what_idle_schedulers_do() -> None:
    run = found()
    idle = costs(PLAN, run, run["phases"][0])
    # Two schedulers, each with one command and one API call a second.
    assert (idle["commands"], idle["calls"]) == ({"get": 1.0}, {"GET pods": 1.0})
    celery = costs(PLAN, run, run["phases"][1], idle=idle)
    assert celery["tasks"] == 10
    assert celery["rows"] == {"submission inserted": 1.0, "submission updated": 2.0}


def test_what_workers_say_to_redis_is_no_cost_of_the_executors() -> None:
    run = found()
    idle = costs(PLAN, run, run["phases"][0])
    assert costs(PLAN, run, run["phases"][1], idle=idle)["commands"] == {"lpush": 1.0}


def test_a_run_says_its_costs_sizes_and_lags() -> None:
    run = found()
    said = summary(PLAN, run)
    assert said["bytes"] == {"row": 500.0, "row in indexes": 400.0, "key attempt": 900.0, "key result": 250.0}
    assert said["lags"]["queued to accepted, celery, s"] == {"p50": 0.25, "p95": 0.25, "most": 0.25}
    assert said["memory_mib"] == {"scheduler-0": 140.0}
    assert "10 tasks in all" in markdown(PLAN, said).replace("\n", " ")


def test_a_picture_shows_rates_by_the_second() -> None:
    rows = series(found())
    assert [row["commands"] for row in rows] == [2.0, 5.0, 2.0, 2.0]
    assert rows[0]["inflight"] == 2
    assert lines(rows, ("cpu",)).keys() == {"scheduler-0", "scheduler-1", "valkey"}
    assert lines(rows, ("accepted_s", "told_s")).keys() == {"queued to accepted", "ended to told"}


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_the_most_is_the_most_and_the_median_no_more(values: list[float]) -> None:
    told = spread(values)
    assert told["most"] == pytest.approx(max(values), abs=1e-4)
    assert told["p50"] <= told["p95"] <= told["most"]


@pytest.mark.parametrize("what", ["lost", "failed", "sent_again", "without_a_row"])
def test_a_run_that_loses_or_repeats_a_task_is_wrong(what: str) -> None:
    checks = found()["checks"]
    assert faults(checks) == []
    assert len(faults(checks | {what: 1})) == 1


def test_a_run_that_leaves_anything_is_wrong() -> None:
    assert faults(found()["checks"] | {"left": {"pods": 3, "messages": 0}}) == ["3 pods left"]


# --- what it means for more ----------------------------------------------------------------


NOTHING = Costs(0, 0, 0, 0, 0, 0, 0)
CONSTANTS = Constants(
    scheduler=Costs(0.1, 1, 0, 1, 10, 2, 1),
    celery=Costs(0, 20, 4, 2, 4, 2, 0.3),
    pod=Costs(5, 15, 5, 2, 8, 3, 0.2),
    row_bytes=1000,
    attempt_bytes=900,
    result_bytes=300,
)


def need(day: Day, part: str) -> Need:
    [found] = [one for one in needs(CONSTANTS, day) if one.part == part]
    return found


@given(st.floats(1e3, 1e9), st.floats(0, 1))
def test_twice_the_tasks_need_twice_as_much_but_for_what_schedulers_cost_by_themselves(
    tasks: float, share: float
) -> None:
    one, two = (
        need(Day(tasks=n * tasks, pods_share=share), "PostgreSQL, for the ledger").need for n in (1, 2)
    )
    fixed = CONSTANTS.scheduler.postgres_ms * 2 / 1000
    assert two - fixed == pytest.approx(2 * (one - fixed))


def test_tasks_in_flight_are_their_rate_times_their_life() -> None:
    day = Day(tasks=86_400, peak=1, pods_share=0.25, celery_life_s=60, pod_life_s=300)
    assert need(day, "attempts in flight").need == pytest.approx(0.75 * 60 + 0.25 * 300)
    assert need(day, "pods in flight").need == pytest.approx(75)


def test_what_breaks_first_stands_first_and_is_marked() -> None:
    day = Day(tasks=1e8)
    found = needs(CONSTANTS, day)
    shares = [one.share for one in found if one.share is not None]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 1
    first = table(CONSTANTS, [Day(tasks=1e6), day]).splitlines()[2]
    assert first.startswith(f"| {found[0].part}")
    assert "**" in first


def test_more_schedulers_bear_what_one_cannot() -> None:
    day = Day(tasks=1e8)
    count = schedulers_for(CONSTANTS, day)
    bears = need(replace(day, schedulers=count), "executor, in all schedulers")
    short = need(replace(day, schedulers=count - 1), "executor, in all schedulers")
    assert bears.share is not None
    assert short.share is not None
    assert bears.share <= 1 < short.share


def test_a_cost_below_what_a_run_can_tell_is_none() -> None:
    said = {
        "calls": {},
        "commands": {"get": -0.5},
        "rows": {},
        "statements": {},
        "cpu_ms": {"executor": -1.0},
    }
    assert Costs.of(said) == NOTHING


def test_constants_are_those_of_the_run() -> None:
    constants = Constants.of(summary(PLAN, found()))
    assert constants.row_bytes == 900
    assert constants.celery.rows == pytest.approx(3.0)
    assert constants.scheduler.commands == pytest.approx(1.0)


def test_the_load_is_the_last_phase() -> None:
    assert PLAN.phases[LAST].name == LOAD


def test_the_page_of_the_model_is_made_from_the_newest_run() -> None:
    written = page.PAGE.read_text(encoding="utf-8")
    assert written == with_block(written, page.newest()), "run python -m bench.load page"


def test_the_page_says_what_breaks_first_and_of_which_run_it_is() -> None:
    run = found()
    said = summary(PLAN, run) | {"size": "small", "api": "embedded", "plan": asdict(PLAN.amounts)}
    said["machine"] = {"at": "now", "cores": 2, "memory_gib": 8, "load": [1.0], "linux": "6", "python": "3"}
    told = page.block(said | {"machine": said["machine"] | {"packages": {}}})
    assert "size `small` on the embedded API: 10 tasks under 2 schedulers" in told.replace("\n", " ")
    assert "| ledger rows written | 3.0 (2.0 submission updated, 1.0 submission inserted) |" in told
