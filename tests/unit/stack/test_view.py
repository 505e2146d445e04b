"""The verdict over what ran where."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from hybrid_executor.standalone.stack.view import WIDE, Line, asked_backend, lines_of, table, verdict

RUN = ("etl", "run-1")
RUNS = {RUN: "success"}
LINE = Line(
    run=RUN, task="load", queue="default", backend="celery", where="celery@host", state="success",
    seconds=1.0, is_last=True, attempt=1,
)  # fmt: skip
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROW = {
    "dag_id": "etl", "run_id": "run-1", "task_id": "load", "map_index": -1, "state": "success",
    "asked_queue": "default", "external_executor_id": "a", "start_date": NOW - timedelta(seconds=3),
    "end_date": NOW, "attempt_id": "a", "submission": 1, "queue": "default", "backend": "celery",
    "ran_on": "celery@host", "external_name": "a", "outcome": "succeeded", "reason": None, "waits_for": None,
    "started_at": NOW - timedelta(seconds=9), "ended_at": NOW - timedelta(seconds=5), "try_number": 1,
}  # fmt: skip


def test_all_is_well_if_every_task_succeeded_where_its_queue_asks() -> None:
    pod = replace(LINE, task="heavy", queue="kubernetes", backend="kubernetes")
    assert verdict([LINE, pod], RUNS) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (replace(LINE, backend="kubernetes"), "queue default asks for celery, but it ran on kubernetes"),
        (replace(LINE, queue="kubernetes"), "queue kubernetes asks for kubernetes, but it ran on celery"),
        (replace(LINE, state="upstream_failed"), "is upstream_failed"),
        (replace(LINE, backend=None), "the ledger knows no submission"),
    ],
)
def test_a_task_that_went_wrong_is_named_with_its_reason(line: Line, words: str) -> None:
    [problem] = verdict([line], RUNS)
    assert problem.startswith("etl.load: ")
    assert words in problem


def test_a_run_that_did_not_succeed_or_has_no_tasks_is_a_problem() -> None:
    assert verdict([LINE], {RUN: "running"}) == ["etl (run-1): the run is running"]
    assert verdict([], RUNS) == ["etl (run-1): has no tasks"]


def test_lines_of_other_runs_are_not_judged() -> None:
    other = replace(LINE, run=("etl", "old"), state="failed")
    assert verdict([LINE, other], RUNS) == []


def test_an_earlier_try_is_shown_but_the_last_one_decides() -> None:
    first, last = lines_of(
        [ROW, ROW | {"queue": "kubernetes", "backend": "kubernetes", "try_number": 2}], NOW
    )
    assert (first.is_last, first.state, first.seconds) == (False, "tried again", 4.0)
    assert (last.is_last, last.state, last.seconds) == (True, "success", 3.0)
    assert verdict([first, last], RUNS) == []


def test_a_mapped_task_is_shown_with_its_index_and_a_waiting_one_with_its_reason() -> None:
    [line] = lines_of(
        [ROW | {"map_index": 2, "state": "queued", "waits_for": "Quota", "start_date": None}], NOW
    )
    assert (line.task, line.state, line.seconds) == ("load[2]", "queued: Quota", None)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [("succeeded", "tried again"), ("failed", "tried again"), ("replaced", "sent again"), (None, "open")],
)
def test_an_earlier_submission_says_what_came_of_it(outcome: str | None, words: str) -> None:
    first, _ = lines_of([ROW | {"outcome": outcome}, ROW | {"submission": 2, "try_number": 2}], NOW)
    assert first.state == words


def test_a_deferred_task_that_was_resumed_is_no_second_try() -> None:
    first, last = lines_of([ROW, ROW | {"attempt_id": "b"}], NOW)
    assert (first.state, first.is_last, last.state) == ("paused", False, "success")


@pytest.mark.parametrize("width", [60, 80, 120, WIDE])
def test_a_line_is_one_row_on_any_terminal_and_keeps_what_names_its_pod(width: int) -> None:
    pod = replace(
        LINE, queue="kubernetes", backend="kubernetes", where=f"{'a-long-name-' * 3}ov4uihuuwi5dw-1"
    )
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table([LINE, pod], width=width))
    rows = [row for row in capture.get().splitlines() if row.strip()]
    assert len(rows) == 4  # heading, rule, two lines
    assert width < 80 or "ov4uihuuwi5dw-1" in rows[-1]


def test_a_pod_is_named_before_it_starts_and_a_message_in_its_queue_has_no_place() -> None:
    waiting = ROW | {"state": "queued", "ran_on": None}
    [message] = lines_of([waiting], NOW)
    [pod] = lines_of([waiting | {"backend": "kubernetes", "external_name": "default/a-pod-1"}], NOW)
    assert (message.where, pod.where) == (None, "default/a-pod-1")


def test_queues_may_be_globs() -> None:
    assert asked_backend("gpu-large", ["kubernetes", "gpu-*"]) == "kubernetes"
    assert asked_backend("gpu", ["kubernetes", "gpu-*"]) == "celery"
