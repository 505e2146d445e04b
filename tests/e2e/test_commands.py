"""``airflow hybrid`` against a stack that runs: it exits with 0 and says what then happens."""

import json
import os
import subprocess
from typing import Any

from hybrid_executor.airflowtables import A_ROW_PER_TRY
from tests.e2e.examples import Examples
from tests.fixtures.stack import RunningStack


def hybrid(stack: RunningStack, *arguments: str, code: int = 0) -> Any:
    """Run a command as a person beside the stack does, which ends with this code; what it prints as JSON."""
    done = subprocess.run(
        [stack.stack.setup.command, "hybrid", *arguments],
        # Where OpenTelemetry is on, Airflow says so on standard output, before each command's own words.
        env={"PATH": os.environ["PATH"], "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_explain_says_where_each_task_ran(examples: Examples) -> None:
    run = examples.runs["mixed_etl"]
    told = {row["task_id"]: row for row in hybrid(run.stack, "explain", "mixed_etl", "--output", "json")}
    ran = {task: rows[0] for task, rows in run.submissions().items()}
    assert {task: row["backend"] for task, row in told.items()} == {
        task: row.backend for task, row in ran.items()
    }
    assert {task: row["rule"] for task, row in told.items()} == {task: row.rule for task, row in ran.items()}


def test_explain_says_where_a_second_try_ran(examples: Examples) -> None:
    run = examples.runs["retry_crosses_backends"]
    [told] = hybrid(run.stack, "explain", run.dag_id, "--try-number", "2", "--output", "json")
    second = run.submissions()["outgrows_its_worker"][1]
    assert (told["backend"], told["queue"], told["rule"]) == (second.backend, second.queue, second.rule)


def test_why_tells_both_tries_of_a_retry_that_moved_to_a_pod(examples: Examples) -> None:
    run = examples.runs["retry_crosses_backends"]
    told = hybrid(run.stack, "why", run.dag_id, run.run_id, "outgrows_its_worker", "--json")
    assert told["task_instance"]["state"] == "success"
    first, second = told["attempts"]
    assert (first["backend"], second["backend"]) == ("celery", "kubernetes")
    rows = run.submissions()["outgrows_its_worker"]
    for attempt, row in zip((first, second), rows, strict=True):
        events = [moment["event"] for moment in attempt["story"] if moment["event"] != "waits"]
        # Whether a Celery task that has ended had been seen to start, the examples' own test says.
        started = ["started"] if row.started_at else []
        assert events == ["queued", "submitted", *started, "ended"]


def test_advise_knows_what_the_tasks_in_pods_took(examples: Examples) -> None:
    run = examples.runs["retry_crosses_backends"]
    [told] = hybrid(run.stack, "pods", "advise", "--dag", run.dag_id, "--json")
    assert (told["task_id"], told["measured"]) == ("outgrows_its_worker", told["runs"])
    assert 32 << 20 < told["memory"]["highest"] < 4 << 30
    assert told["cpu"]["highest"] > 0


def test_status_counts_every_task_of_the_examples(examples: Examples, stack: RunningStack) -> None:
    ended = {"celery": 0, "kubernetes": 0}
    for queue in hybrid(stack, "status", "--json")["queues"]:
        ended[queue["backend"]] += queue["ended_last_hour"]["succeeded"]
    ran = [row for run in examples.runs.values() for rows in run.submissions().values() for row in rows]
    for backend, count in ended.items():
        assert count >= len([row for row in ran if row.backend == backend and row.outcome == "succeeded"]) > 0


def test_the_live_half_is_on_without_a_setting_and_agrees_with_the_database(
    examples: Examples, stack: RunningStack
) -> None:
    live = hybrid(stack, "status", "--json")["live"]
    assert (live["state"], live["silent_schedulers"]) == ("on", [])
    assert live["in_flight"] == live["in_database"]
    assert live["lag_s"] < 60


def test_routes_holds_every_rule_that_was_used(examples: Examples, stack: RunningStack) -> None:
    rules = {row["rule"]: row["backend"] for row in hybrid(stack, "routes", "--output", "json")}
    used = {
        row.rule: row.backend
        for run in examples.runs.values()
        for rows in run.submissions().values()
        for row in rows
    }
    assert used.items() <= rules.items()
    assert set(used.values()) == {"celery", "kubernetes"}


def test_doctor_finds_a_running_stack_sound(stack: RunningStack) -> None:
    stack.wait_healthy()
    # A beta of the next Airflow is outside the package's own pin, and it is right to say so.
    unsound = ["versions"] if A_ROW_PER_TRY else []
    findings = hybrid(stack, "doctor", "--json", code=len(unsound))
    assert [finding["check"] for finding in findings if not finding["ok"]] == unsound, findings
    checked = {finding["check"].partition(" in ")[0] for finding in findings}
    assert checked >= {
        "settings", "token key", "versions", "routes", "broker", "result backend", "Kubernetes API",
        "Kubernetes permissions", "metadata database", "ledger", "task instances",
    }  # fmt: skip
