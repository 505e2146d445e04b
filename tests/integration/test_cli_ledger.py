"""``airflow hybrid status``, ``why`` and ``attempts`` as a user runs them, on a real database."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from hybrid_executor.backends.celery.app import TASK_NAME
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.model.attempt import BackendName, TaskAddress
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, SubmissionRecord
from tests.contract.ledger_suite import a_record
from tests.fixtures.celery import celery_app, light_worker
from tests.fixtures.live import until
from tests.fixtures.site import MakeSite, Site
from tests.integration.test_celery_idle_worker import make_deaf

DAG = """
from airflow.sdk import DAG, task

with DAG("etl", schedule=None):

    @task(queue="kubernetes", retries=3)
    def load(): ...

    @task
    def report(x): ...

    load()
    report.expand(x=[1, 2])
"""
RUN = "manual__1"
#: Until a worker does what is waited for, on a busy machine.
PATIENCE_S = 90.0


def submissions() -> list[SubmissionRecord]:
    """A task that died of its memory and waits for an image now; mapped ones that run on a worker."""
    now = datetime.now(UTC)

    def ago(**span: float) -> datetime:
        return now - timedelta(**span)

    load = TaskAddress(dag_id="etl", task_id="load", run_id=RUN)
    died = a_record(
        address=load,
        queued_at=ago(hours=2),
        submitted_at=ago(hours=2) + timedelta(seconds=0.19),
        started_at=ago(minutes=119),
        ended_at=ago(minutes=30),
        external_name="default/etl-load-1",
        where="etl-load-1 on node-7",
        outcome=Outcome.FAILED,
        reason=Reason.OOM_KILLED,
        message="container base: limit 512Mi",
        exit_code=137,
    )
    waiting = a_record(
        address=replace(load, try_number=2),
        queued_at=ago(minutes=12),
        submitted_at=ago(minutes=12),
        external_name="default/etl-load-2",
        waits_for=Reason.IMAGE_PULL,
        waits_message="base: image [nowhere]/app:1",
        waits_since=ago(minutes=11),
    )
    held = a_record(address=replace(load, dag_id="other"), queued_at=ago(minutes=1))
    reports = [
        a_record(
            address=TaskAddress(dag_id="etl", task_id="report", run_id=RUN, map_index=index),
            backend=BackendName.CELERY,
            queue="default",
            rule="default",
            queued_at=ago(minutes=5),
            submitted_at=ago(minutes=5),
            started_at=ago(minutes=4),
            external_name=str(uuid4()),
            where="celery@w1",
        )
        for index in range(2)
    ]
    return [died, waiting, held, *reports]


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Iterator[Site]:
    site = make_site(DAG)
    done = site.run("dags", "trigger", "etl", "--run-id", RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    engine = create_engine(site.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    DatabaseLedger(engine).record(submissions(), [])
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE task_instance SET state = 'queued', try_number = 2 WHERE task_id = 'load'")
        )
    engine.dispose()
    return site


def as_json(site: Site, *command: str) -> Any:
    done = site.run("hybrid", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


# --- why ----------------------------------------------------------------------------------


def test_why_tells_every_try_and_what_to_do(site: Site) -> None:
    done = site.run("hybrid", "why", "etl", RUN, "load", AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER="False")
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    for words in (
        f"etl.load of {RUN}: queued in Airflow (try 2 of 4)",
        "failed, exit code 137: OOMKilled: container base: limit 512Mi",
        "goes to kubernetes by routes.yaml rule 2: queue kubernetes",
        "0.190s later",
        "submitted as default/etl-load-1",
        "started: etl-load-1 on node-7",
        "not started: ImagePull: base: image [nowhere]/app:1",
        "the pod can't be looked at",
        f"-> {Reason.IMAGE_PULL.hint}",
    ):
        assert words in told, told
    assert told.index("OOMKilled") < told.index("ImagePull")


def test_why_has_all_of_it_as_json(site: Site) -> None:
    told = as_json(site, "why", "etl", RUN, "load", "--json", "--try-number", "1")
    assert told["task_instance"]["state"] == "queued"
    [attempt] = told["attempts"]
    assert (attempt["state"], attempt["reason"], attempt["exit_code"]) == ("failed", "OOMKilled", 137)
    assert [moment["event"] for moment in attempt["story"]] == ["queued", "submitted", "started", "ended"]
    assert attempt["advice"] == Reason.OOM_KILLED.hint


def test_why_tells_mapped_instances_apart(site: Site) -> None:
    told = site.run("hybrid", "why", "etl", RUN, "report").stdout
    assert "is mapped" in told
    assert told.count("running for") == 2
    one = site.run("hybrid", "why", "etl", RUN, "report", "--map-index", "1").stdout
    assert "started on celery@w1" in one


def test_why_says_what_it_can_not_find(site: Site) -> None:
    done = site.run("hybrid", "why", "etl", RUN, "nothing")
    assert done.returncode == 1
    assert "there is no task instance etl.nothing in run 'manual__1'" in done.stderr


# --- attempts -----------------------------------------------------------------------------


def test_attempts_are_filtered_and_shown_in_pages(site: Site) -> None:
    assert {row["reason"] for row in site.rows("hybrid", "attempts", "--reason", "oomkilled")} == {
        "OOMKilled"
    }
    running = site.rows("hybrid", "attempts", "--state", "running", "--backend", "celery")
    assert {row["where"] for row in running} == {"celery@w1"}
    first = site.run("hybrid", "attempts", "--limit", "4", "--output", "json")
    assert len(json.loads(first.stdout)) == 4
    mark = first.stderr.rpartition("--after ")[2].strip()
    [last] = site.rows("hybrid", "attempts", "--limit", "4", "--after", mark)
    assert last["reason"] == "OOMKilled"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--after", "x"), "--after: 'x' is no place that this command has named"),
        (("--reason", "Sad"), "'Sad' is no reason; there are Held"),
        (("--since", "soon"), "'soon' is no duration"),
    ],
)
def test_attempts_say_what_is_wrong_with_an_option(site: Site, option: tuple[str, str], words: str) -> None:
    done = site.run("hybrid", "attempts", *option)
    assert done.returncode != 0
    assert words in done.stderr


# --- status -------------------------------------------------------------------------------


def test_status_counts_what_is_open_and_says_why_it_waits(site: Site) -> None:
    told = as_json(site, "status", "--json")
    queues = {(queue["backend"], queue["queue"]): queue for queue in told["queues"]}
    pods, workers = queues["kubernetes", "kubernetes"], queues["celery", "default"]
    assert (pods["queued"], pods["submitted"], pods["running"]) == (1, 1, 0)
    assert pods["ended_last_hour"]["failed"] == 1
    assert workers["running"] == 2
    assert told["running"] == [{"backend": "celery", "where": "celery@w1", "count": 2}]
    assert [wait["oldest"]["waits_for"] for wait in told["waits"]] == ["ImagePull", None]
    assert told["orphans"] == 4
    shown = site.run("hybrid", "status").stdout
    for words in ("scheduler jobs: none lives", "4 open submissions wait", "[nowhere]/app:1", "celery@w1"):
        assert words in shown, shown


def test_status_shows_workers_with_their_load_and_the_one_that_takes_nothing_celery8030(
    site: Site, valkey_url: str, tmp_path: Path
) -> None:
    broker = {"AIRFLOW__CELERY__BROKER_URL": valkey_url, "AIRFLOW__CELERY__RESULT_BACKEND": valkey_url}
    app = celery_app(valkey_url, valkey_url)
    with ExitStack() as workers:
        for name in ("deaf", "busy"):
            (tmp_path / name).mkdir()
            workers.enter_context(light_worker(valkey_url, valkey_url, tmp_path / name))
            if name == "deaf":
                until(lambda: app.control.ping(timeout=0.5), PATIENCE_S)
                make_deaf(tmp_path / "deaf", valkey_url)
        until(lambda: len(app.control.ping(timeout=0.5)) == 2, PATIENCE_S)
        # More than a worker holds: only the other could take the rest.
        for _ in range(9):
            app.send_task(TASK_NAME, ('{"gate": "/none"}',), queue="default")
        until(
            lambda: sum(map(len, (app.control.inspect(timeout=0.5).active() or {}).values())) == 4, PATIENCE_S
        )
        told: dict[str, Any] = {}

        def loads() -> dict[str, str]:
            told.update(json.loads(site.run("hybrid", "status", "--json", **broker).stdout))
            return {row["state"]: row["load"] for row in told["workers"]}

        # The ledger has two tasks on a worker that is not there. A worker that answers late is not shown.
        until(lambda: loads() == {"idle": "0/4", "live": "4/4", "gone": "2/?"}, PATIENCE_S)
        assert told["workers_problems"] == []
        shown = until(
            lambda: (text := site.run("hybrid", "status", **broker).stdout) and "0/4" in text and text,
            PATIENCE_S,
        )
    lines = shown[shown.index("who runs tasks") :].splitlines()
    assert "4/4" in lines[-1], "what somebody should look at comes first"
    assert any("0/4" in line and "idle although messages wait (celery#8030)" in line for line in lines)


def test_status_without_a_broker_says_so_and_calls_nobody_gone(site: Site) -> None:
    away = {"AIRFLOW__CELERY__BROKER_URL": "redis://:hunter2@127.0.0.1:1/0"}
    done = site.run("hybrid", "status", "--json", **away)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [(row["worker"], row["state"]) for row in told["workers"]] == [("celery@w1", "unknown")]
    [problem] = told["workers_problems"]
    shown = site.run("hybrid", "status", **away).stdout
    assert problem.startswith("the broker does not answer")
    assert problem in shown
    assert "hunter2" not in shown + done.stdout


def test_status_says_how_the_live_half_stands_and_no_password(site: Site, valkey_url: str) -> None:
    def live(url: str) -> tuple[str, Any]:
        set_ = {"AIRFLOW__HYBRID_EXECUTOR__LIVE_URL": url}
        shown = site.run("hybrid", "status", **set_)
        [line] = [line for line in shown.stdout.splitlines() if line.startswith("live ledger: ")]
        told = json.loads(site.run("hybrid", "status", "--json", **set_).stdout)["live"]
        assert "hunter2" not in shown.stdout + shown.stderr + json.dumps(told)
        return line, told

    line, told = live("off")
    assert (line, told["state"]) == ("live ledger: off", "off")
    line, told = live("redis://:hunter2@127.0.0.1:1/0")
    assert line.startswith("live ledger: away (ConnectionError")
    assert (told["state"], told["in_flight"], told["in_database"]) == ("away", None, 4)
    line, told = live(valkey_url)
    assert line == "live ledger: 0 in flight, 4 in the database"
    assert (told["state"], told["in_flight"], told["lag_s"]) == ("on", 0, None)
