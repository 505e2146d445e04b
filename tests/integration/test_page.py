"""The page in Airflow's own API server: who sees what, and that it is what the ledger says."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode

from hybrid_executor.backends.celery.roster import Member
from hybrid_executor.model.attempt import BackendName, TaskAddress, WorkloadKind
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, SubmissionRecord
from hybrid_executor.workforce import Workforce
from tests.contract.ledger_suite import a_record
from tests.fixtures.page import Served

PAGES = (
    "/hybrid/",
    "/hybrid/attempts",
    "/hybrid/task?dag_id=etl&run_id=r1&task_id=load",
    "/hybrid/run?dag_id=etl&run_id=r1",
)
JSON = (
    "/hybrid/api/overview",
    "/hybrid/api/attempts",
    "/hybrid/api/task?dag_id=etl&run_id=r1&task_id=load",
    "/hybrid/api/run?dag_id=etl&run_id=r1",
)
#: What is of no DAG.
WORKERS = ("/hybrid/workers", "/hybrid/api/workers")
OWN = ("/hybrid/openapi.json", "/hybrid/static/page.js", "/hybrid/static/page.css")


FORCE = Workforce(
    members={
        "celery@a": Member(queues=("default",), at_hand=0, slots=8),
        "celery@b": Member(queues=(), at_hand=3, slots=8),
        "celery@c": Member(queues=("default",), at_hand=0, slots=8),
    },
    idle=frozenset({"celery@c"}),
)


def minutes_ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


def of_dag(dag_id: str, **values: Any) -> SubmissionRecord:
    address = TaskAddress(dag_id=dag_id, task_id="load", run_id="r1")
    return a_record(**{"address": address, "queued_at": minutes_ago(5)} | values)


@pytest.fixture
def page(served: Served) -> Iterator[Served]:
    served.know("etl", "secret")
    yield served
    served.forget()


@pytest.mark.parametrize("path", [*PAGES, *JSON, *WORKERS, *OWN])
def test_a_stranger_is_answered_401(page: Served, path: str) -> None:
    assert page.client(name="").get(path).status_code == 401


@pytest.mark.parametrize("path", [*PAGES, *JSON, *WORKERS])
def test_who_may_see_no_task_instances_is_answered_403(page: Served, path: str) -> None:
    page.record(of_dag("etl"))
    answer = page.client(role=None).get(path)
    assert answer.status_code == 403
    assert "load" not in answer.text


@pytest.mark.parametrize("path", WORKERS)
def test_who_may_not_see_the_clusters_activity_is_told_of_no_worker(page: Served, path: str) -> None:
    page.workers(FORCE)
    answer = page.one_team().get(path)
    assert answer.status_code == 403
    assert "celery@" not in answer.text
    assert page.client().get(path).status_code == 200
    assert "/hybrid/workers" not in page.one_team().get("/hybrid/").text
    assert "/hybrid/workers" in page.client().get("/hybrid/").text


@pytest.mark.parametrize("path", ["/hybrid/task", "/hybrid/api/task"])
def test_the_task_of_a_dag_that_one_may_not_read_is_answered_403_whether_there_is_one_or_not(
    page: Served, path: str
) -> None:
    page.record(of_dag("secret"))
    for dag_id in ("secret", "never heard of"):
        asked = {"dag_id": dag_id, "run_id": "r1", "task_id": "load"}
        assert page.one_team().get(path, params=asked).status_code == 403
        assert page.client().get(path, params=asked).status_code == 200


@pytest.mark.parametrize("path", ["/hybrid/run", "/hybrid/api/run"])
def test_the_run_of_a_dag_that_one_may_not_read_is_answered_403(page: Served, path: str) -> None:
    page.instances("secret", "r1", ("load", -1, "running", None))
    asked = {"dag_id": "secret", "run_id": "r1"}
    assert page.one_team().get(path, params=asked).status_code == 403
    assert "load" in page.client().get(path, params=asked).text


def test_rows_of_other_dags_are_in_no_list_no_count_and_no_chart(page: Served) -> None:
    ended = {"ended_at": minutes_ago(1), "outcome": Outcome.FAILED, "reason": Reason.OOM_KILLED}
    running = {"started_at": minutes_ago(2), "where": "pod on secret-node"}
    page.record(
        of_dag("etl"),
        of_dag("secret", queue="secret-queue"),
        of_dag("secret", **running),
        of_dag("secret", **running, **ended),
        of_dag("secret", address=None, kind=WorkloadKind.CALLBACK, queue="secret-callbacks"),
    )
    team, admin = page.one_team(), page.client()
    for path in (*PAGES[:2], *JSON[:2]):
        assert "secret" not in team.get(path).text
        assert "secret" in admin.get(path).text
    mine, all_of_it = team.get(JSON[0]).json(), admin.get(JSON[0]).json()
    assert [(one["queued"], one["running"], one["depths"][-1]) for one in mine["queues"]] == [(1, 0, 1)]
    assert (mine["reasons"], mine["places"], mine["cluster"]) == ([], [], None)
    assert len(all_of_it["queues"]) == 3
    assert [one["reason"] for one in all_of_it["reasons"]] == ["OOMKilled"]
    assert team.get(JSON[1], params={"dag_id": "secret"}).json()["attempts"] == []
    assert len(admin.get(JSON[1], params={"dag_id": "secret"}).json()["attempts"]) == 3


def test_nothing_but_reading_is_possible(page: Served) -> None:
    from hybrid_executor.plugin.app import app

    admin = page.client()
    for path in (*PAGES, *JSON, *WORKERS):
        assert admin.post(path).status_code == 405
    methods = {method for route in app.routes for method in getattr(route, "methods", ())}
    assert methods <= {"GET", "HEAD"}


def test_the_overview_says_where_everything_is_and_why_it_waits(page: Served) -> None:
    celery = {"backend": BackendName.CELERY, "queue": "default"}
    quota = {
        "waits_for": Reason.QUOTA,
        "waits_message": "exceeded quota: pods",
        "waits_since": minutes_ago(4),
    }
    page.record(
        of_dag("etl", **quota, submitted_at=minutes_ago(4)),
        of_dag("etl", **quota, queued_at=minutes_ago(9), submitted_at=minutes_ago(4)),
        of_dag("etl", **celery, started_at=minutes_ago(3), where="celery@w1"),
        of_dag(
            "etl",
            **celery,
            started_at=minutes_ago(4),
            ended_at=minutes_ago(1),
            where="celery@w1",
            outcome=Outcome.SUCCEEDED,
        ),
        of_dag("etl", **celery, queued_at=minutes_ago(900), ended_at=minutes_ago(70), outcome=Outcome.FAILED),
    )
    told = page.client().get(JSON[0]).json()
    default, kubernetes = sorted(told["queues"], key=lambda one: one["backend"])
    assert (default["running"], default["ended"]["succeeded"], default["ended"]["failed"]) == (1, 1, 0)
    assert default["waited"]["median_s"] == pytest.approx(60, abs=2)
    assert default["ran"]["count"] == 1
    assert (kubernetes["submitted"], kubernetes["oldest_reason"]) == (2, "QuotaExceeded")
    assert kubernetes["depths"][-1] == 2
    assert kubernetes["depths"][-9:-6] == [1, 1, 1]
    [wait] = told["waits"]
    assert (wait["count"], wait["oldest"]["reason"]) == (2, "QuotaExceeded")
    assert told["places"] == [{"backend": "celery", "where": "celery@w1", "running": 1}]
    assert "no scheduler is alive" in told["cluster"]["problems"][0]
    html = page.client().get("/hybrid/").text
    for words in ("exceeded quota: pods", "raise the quota", "celery@w1", "no scheduler is alive"):
        assert words in html


def test_each_part_of_a_search_narrows_the_ledger(page: Served) -> None:
    one = of_dag("etl", queue="gpu", started_at=minutes_ago(1), queued_at=minutes_ago(50))
    other = of_dag(
        "secret",
        address=TaskAddress(dag_id="secret", task_id="train", run_id="r2", map_index=4),
        backend=BackendName.CELERY,
        ended_at=minutes_ago(1),
        outcome=Outcome.FAILED,
        reason=Reason.WORKER_LOST,
    )
    page.record(one, other)
    client, half_an_hour_ago = page.client(), minutes_ago(30).isoformat()
    for first, second in [
        ({"dag_id": "etl"}, {"dag_id": "secret"}),
        ({"run_id": "r1"}, {"run_id": "r2"}),
        ({"task_id": "load"}, {"task_id": "train"}),
        ({"map_index": "-1"}, {"map_index": "4"}),
        ({"queue": "gpu"}, {"queue": "kubernetes"}),
        ({"backend": "kubernetes"}, {"backend": "celery"}),
        ({"state": "running"}, {"state": "failed"}),
        ({"until": half_an_hour_ago}, {"since": half_an_hour_ago}),
        ({"until": half_an_hour_ago[:16]}, {"reason": "WorkerLost"}),
    ]:
        for asked, expected in ((first, one), (second, other)):
            # A form sends all of its fields.
            form = {"dag_id": "", "state": "", "since": ""} | asked
            found = client.get(JSON[1], params=form).json()["attempts"]
            assert [row["attempt_id"] for row in found] == [expected.id.attempt_id], asked


def test_how_long_each_has_waited_and_run_stands_in_the_ledger(page: Served) -> None:
    queued = minutes_ago(5)
    started, ended = queued + timedelta(minutes=2), queued + timedelta(minutes=3)
    page.record(
        of_dag("etl", queued_at=queued, started_at=started, ended_at=ended, outcome=Outcome.SUCCEEDED)
    )
    html = page.client().get("/hybrid/attempts").text
    for cell in ('data-title="Waited">2m<', 'data-title="Ran">1m<'):
        assert cell in html
    # Its words may be younger than the wait itself.
    wait = {"waits_for": Reason.IN_QUEUE, "waits_message": "next", "waits_since": minutes_ago(4)}
    page.record(of_dag("etl", queue="reports", **wait))
    [told] = page.client().get(JSON[1], params={"queue": "reports"}).json()["attempts"]
    assert told["waits_since"] == wait["waits_since"].isoformat().replace("+00:00", "Z")
    assert "next (for <time" in page.client().get("/hybrid/attempts", params={"queue": "reports"}).text


def test_pages_follow_one_another_without_gap_or_repetition(page: Served) -> None:
    page.record(*(of_dag("etl", queued_at=minutes_ago(number % 7)) for number in range(23)))
    client, found, after = page.client(), [], ""
    while after is not None:
        answer = client.get(JSON[1], params={"limit": 5, "after": after}).json()
        found += [row["attempt_id"] for row in answer["attempts"]]
        after = answer["following"]
    assert len(found) == len(set(found)) == 23


def test_a_page_links_to_the_next_with_the_same_search(page: Served) -> None:
    page.record(*(of_dag("etl", queued_at=minutes_ago(number % 7)) for number in range(7)))
    html = page.client().get("/hybrid/attempts?dag_id=etl&limit=5").text
    link = unescape(html.split('rel="next"')[0].rpartition('href="')[2].partition('"')[0])
    assert link.startswith("/hybrid/attempts?dag_id=etl&limit=5&after=")
    assert page.client().get(link).text.count("data-top") == 2


def test_a_run_is_counted_so_that_the_places_are_all_of_it(page: Served) -> None:
    """200 task instances: each is with Airflow, queued, submitted, running or over."""
    held, sent, starts = of_dag("etl"), of_dag("etl"), of_dag("etl")
    sent = replace(sent, submitted_at=minutes_ago(4))
    starts = replace(starts, submitted_at=minutes_ago(4), started_at=minutes_ago(1))
    page.record(held, sent, starts)
    queued = [("load", "queued", record.id.attempt_id) for record in (held, sent, starts)]
    rest = (
        [("load", "success", None)] * 140 + [("load", "failed", None)] * 2 + [("load", "running", None)] * 9
    )
    rest += [("report", None, None)] * 40 + [("report", "up_for_retry", None)] * 5
    rows = [*queued, *rest, ("other", "queued", str(uuid4()))]
    page.instances(
        "etl", "r1", *((task, at, state, attempt) for at, (task, state, attempt) in enumerate(rows))
    )
    told = page.client().get("/hybrid/api/run", params={"dag_id": "etl", "run_id": "r1"}).json()
    assert told["places"] == {
        "not queued": 45,
        "not in the ledger": 1,
        "queued": 1,
        "submitted": 1,
        "running": 10,
        "ended": 142,
    }
    assert told["total"] == sum(told["places"].values()) == 200
    assert told["states"]["success"] == 140
    assert [one["task_id"] for one in told["tasks"]] == ["report", "load", "other"]
    html = page.client().get("/hybrid/run", params={"dag_id": "etl", "run_id": "r1"}).text
    for words in ("<b>200</b> task instances", "<b>45</b> not queued", "<b>1</b> not in the ledger"):
        assert words in html


def test_all_of_a_run_is_found_however_long_ago_it_was(page: Served) -> None:
    page.record(of_dag("etl", queued_at=minutes_ago(60 * 24 * 40)), of_dag("etl"))
    asked = {"dag_id": "etl", "run_id": "r1"}
    assert len(page.client().get(JSON[1], params=asked).json()["attempts"]) == 2
    assert page.client().get(JSON[1], params=asked | {"run_id": "r2"}).json()["attempts"] == []
    assert len(page.client().get(JSON[1], params={"dag_id": "etl"}).json()["attempts"]) == 1


def test_workers_are_listed_as_the_command_has_them_also_those_without_tasks(page: Served) -> None:
    page.workers(FORCE)
    page.record(
        of_dag("etl", backend=BackendName.CELERY, where="celery@lost", started_at=minutes_ago(1)),
        of_dag("etl", where="load-1 on node-7", started_at=minutes_ago(1)),
    )
    client = page.client()
    told = client.get("/hybrid/api/workers").json()
    assert [(one["worker"], one["load"], one["state"], one["pool"]) for one in told["workers"]] == [
        ("celery@a", "0/8", "live", "light"),
        ("celery@b", "3/8", "draining", ""),
        ("celery@c", "0/8", "idle", "light"),
        ("celery@lost", "1/?", "gone", ""),
    ]
    assert told["states"] == {"live": 1, "draining": 1, "idle": 1, "gone": 1}
    assert told["nodes"] == [{"backend": "kubernetes", "where": "node-7", "running": 1}]
    first = client.get("/hybrid/api/workers", params={"limit": 3}).json()
    rest = client.get("/hybrid/api/workers", params={"after": first["following"]}).json()
    assert [one["worker"] for one in (*first["workers"], *rest["workers"])] == [
        one["worker"] for one in told["workers"]
    ]
    assert rest["following"] is None
    [idle] = client.get("/hybrid/api/workers", params={"state": "idle"}).json()["workers"]
    assert idle["worker"] == "celery@c"
    html = client.get("/hybrid/workers").text
    for words in ("celery@a", "0 of 8", "takes nothing although messages wait", "node-7"):
        assert words in html


def test_workers_that_can_not_be_asked_are_unknown_and_not_gone(page: Served) -> None:
    page.workers(Workforce(members=None, problems=["the broker does not answer: refused"]))
    page.record(of_dag("etl", backend=BackendName.CELERY, where="celery@a", started_at=minutes_ago(1)))
    told = page.client().get("/hybrid/api/workers").json()
    assert [one["state"] for one in told["workers"]] == ["unknown"]
    assert "the broker does not answer" in page.client().get("/hybrid/workers").text


def test_a_task_is_told_with_every_attempt_and_a_way_to_its_log(page: Served) -> None:
    awkward = TaskAddress(
        dag_id="etl", task_id="a.b", run_id="manual__2026-01-01T00:00:00+00:00/x", map_index=2
    )
    attempt = str(uuid4())
    page.record(
        of_dag(
            "etl",
            address=awkward,
            attempt=attempt,
            ended_at=minutes_ago(3),
            outcome=Outcome.REPLACED,
            reason=Reason.IMAGE_PULL,
            message="image ghost:1 is not there",
        ),
        of_dag("etl", address=awkward, attempt=attempt, number=2, queued_at=minutes_ago(2)),
    )
    asked = {"dag_id": "etl", "run_id": awkward.run_id, "task_id": "a.b", "map_index": "2"}
    told = page.client().get("/hybrid/api/task", params=asked).json()
    assert [(one["submission"], one["state"]) for one in told["attempts"]] == [(1, "replaced"), (2, "queued")]
    assert "kubernetes_parallelism" in told["advice"]
    assert told["attempts"][0]["log"] == (
        "/dags/etl/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00%2Fx/tasks/a.b/mapped/2?try_number=1"
    )
    assert page.client().get(told["attempts"][0]["details"]).status_code == 200
    html = page.client().get("/hybrid/task", params=asked).text
    assert "image ghost:1 is not there" in html


def test_a_task_that_is_not_mapped_is_asked_for_as_airflows_tab_does(page: Served) -> None:
    page.record(of_dag("etl"))
    asked = {"dag_id": "etl", "run_id": "r1", "task_id": "load", "map_index": "{MAP_INDEX}"}
    assert len(page.client().get("/hybrid/api/task", params=asked).json()["attempts"]) == 1
    shown = page.client().get("/hybrid/task", params=asked)
    assert shown.url.query == b"dag_id=etl&run_id=r1&task_id=load"
    assert "etl.load" in shown.text


def test_what_nobody_has_changed_is_not_sent_again(page: Served) -> None:
    first = of_dag("etl")
    page.record(first)
    for path in (*PAGES, *JSON):
        client = page.client()
        answer = client.get(path)
        known = {"If-None-Match": answer.headers["ETag"]}
        again = client.get(path, headers=known)
        # The minute is part of the tag.
        if again.status_code != 304:
            known = {"If-None-Match": again.headers["ETag"]}
            again = client.get(path, headers=known)
        assert (again.status_code, again.content) == (304, b"")
        assert page.one_team().get(path, headers=known).status_code == 200
        page.record(of_dag("etl", queued_at=minutes_ago(4)))
        assert client.get(path, headers=known).status_code == 200
        assert "private" in answer.headers["Cache-Control"]


HOSTILE = "<script>alert(1)</script>\"'&amp;{{ 7*7 }}"


def test_what_a_task_says_is_text_and_never_markup(page: Served) -> None:
    page.know(HOSTILE)
    address = TaskAddress(dag_id=HOSTILE, task_id=HOSTILE, run_id=HOSTILE)
    page.record(
        of_dag(
            "etl", address=address, queue=HOSTILE, waits_for=Reason.QUOTA, waits_message=HOSTILE, rule=HOSTILE
        )
    )
    client = page.client()
    [row] = client.get(JSON[1]).json()["attempts"]
    for path in ("/hybrid/", "/hybrid/attempts", row["details"]):
        answer = client.get(path)
        assert "<script>alert" not in answer.text
        assert "&lt;script&gt;alert" in answer.text
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "asked",
    [
        {"state": "sleeping"},
        {"since": "yesterday"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"until": "9999-12-31T23:59:59-12:00"},
        {"after": "nowhere"},
        {"limit": "51"},
        {"dag_id": "nul\x00"},
        {"queue": "x" * 251},
        {"map_index": str(2**40)},
        {"whatever": "1"},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_is_no_question_is_answered_422_and_said_why(page: Served, asked: dict[str, str]) -> None:
    assert page.client().get("/hybrid/api/attempts", params=asked).status_code == 422
    html = page.client().get("/hybrid/attempts", params=asked)
    assert html.status_code == 422
    assert next(iter(asked)) in html.text


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(
    ("path", "page_path"),
    [
        ("/api/overview", "/"),
        ("/api/attempts", "/attempts"),
        ("/api/task", "/task"),
        ("/api/run", "/run"),
        ("/api/workers", "/workers"),
    ],
)
def test_no_question_is_answered_500(page: Served, path: str, page_path: str, mode: GenerationMode) -> None:
    """By schemathesis: questions that the schema allows, and such that it does not."""
    from hybrid_executor.plugin.app import app

    page.record(of_dag("etl"), of_dag("etl", started_at=minutes_ago(1)))
    page.workers(FORCE)
    assert path in app.openapi()["paths"]
    client, question = page.client(), schemathesis.openapi.from_dict(app.openapi())[path]["GET"]

    @settings(
        max_examples=20, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
    )
    @given(question.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        asked = case.as_transport_kwargs(base_url="http://testserver")["params"]
        for one in (path, page_path):
            assert client.get(f"/hybrid{one}", params=asked).status_code in (200, 422)

    ask()


def test_no_answer_is_large_however_long_everything_is(page: Served) -> None:
    """Ids as long as Airflow takes them, and a message as long as the ledger does."""
    dags = [f"mine-{number:03}" + "d" * 230 for number in range(60)]
    page.know(*dags)
    page.record(
        *(
            a_record(
                address=TaskAddress(dag_id=dag, task_id="t" * 250, run_id="r" * 250),
                queue=f"{dag[:8]}" + "q" * 240,
                queued_at=minutes_ago(number % 50),
                waits_for=Reason.QUOTA,
                waits_message="m" * 16_000,
                rule="u" * 2_000,
                external_name="n" * 300,
            )
            for number, dag in enumerate(dags)
        ),
        *(
            a_record(
                address=TaskAddress(dag_id=dags[0], task_id="t" * 250, run_id="r" * 250, try_number=number),
                queued_at=minutes_ago(90),
                ended_at=minutes_ago(1),
                outcome=Outcome.FAILED,
                reason=Reason.ERROR,
                message="m" * 16_000,
            )
            for number in range(40)
        ),
    )
    task = f"task?dag_id={dags[0]}&run_id={'r' * 250}&task_id={'t' * 250}"
    run = f"run?dag_id={dags[0]}&run_id={'r' * 250}"
    page.instances(
        dags[0], "r" * 250, *((f"{number:03}" + "t" * 247, -1, "queued", None) for number in range(60))
    )
    large = Member(queues=tuple(f"{number}" + "q" * 240 for number in range(20)), at_hand=1, slots=8)
    page.workers(Workforce(members={f"celery@{number:03}" + "w" * 240: large for number in range(90)}))
    paths = ("attempts", task, run, "workers")
    for path in ("", *paths, "api/overview", *(f"api/{path}" for path in paths)):
        answer = page.client().get(f"/hybrid/{path}")
        assert answer.status_code == 200
        assert len(answer.content) < 200_000, path


def test_a_ledger_that_is_not_there_says_what_to_do(page: Served) -> None:
    from sqlalchemy import text

    with page.engine.begin() as connection:
        connection.execute(text("ALTER TABLE hybrid_submission RENAME TO away"))
    try:
        assert page.client().get(JSON[0]).status_code == 503
        html = page.client().get("/hybrid/")
        assert html.status_code == 503
        assert "airflow db migrate" in html.text
    finally:
        with page.engine.begin() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO hybrid_submission"))


def test_airflow_knows_the_page_and_the_tabs_that_lead_to_it(page: Served) -> None:
    [plugin] = [
        one
        for one in page.client().get("/api/v2/plugins").json()["plugins"]
        if one["name"] == "hybrid_executor"
    ]
    views = plugin["external_views"]
    assert {view["destination"] for view in views} == {"nav", "dag", "dag_run", "task", "task_instance"}
    # Airflow looks for a view by its route, whatever its destination.
    assert len({view["url_route"] for view in views}) == len(views)
    assert plugin["fastapi_apps"][0]["url_prefix"] == "/hybrid"
