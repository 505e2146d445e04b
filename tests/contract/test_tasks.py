"""``ports.Tasks``: what the controller believes of Airflow's tables, on the real ones and on the double."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import event, text

from hybrid_executor import contract
from hybrid_executor.airflowtables import A_ROW_PER_TRY, IS_PRESENT, MAP_INDEX, PAST_TRIES
from hybrid_executor.model.attempt import Attempt, BackendName, Route, TaskAddress, WorkloadKind
from hybrid_executor.model.errors import Unavailable
from hybrid_executor.ports import Tasks
from tests.fixtures.airflow_double import FakeTasks, Row
from tests.fixtures.airflow_side import SchedulerSide

ATTEMPT = "8a1c54a0-1111-4222-8333-444455556666"


class Double:
    """The double, with one task instance."""

    def __init__(self) -> None:
        self.fake = FakeTasks()
        self.tasks: Tasks = self.fake
        self.address = TaskAddress(dag_id="many", task_id="work", run_id="r", map_index=0)
        self.fake.rows[self.address] = Row(self.address, "scheduled", "", "7")
        self.ti_id = "ti"

    def set(self, state: str, attempt_id: str = ATTEMPT) -> None:
        self.fake.rows[self.address].state = state
        self.fake.rows[self.address].attempt_id = attempt_id

    def break_it(self) -> None:
        self.fake.away = True


class Real:
    """Airflow's tables in PostgreSQL, with one task instance."""

    def __init__(self, side: SchedulerSide) -> None:
        from airflow.executors.base_executor import BaseExecutor

        self.side = side
        side.serialize(celery=1)
        side.trigger()
        generator = contract.WorkloadTokens(BaseExecutor().jwt_generator, 3600)
        self.tasks: Tasks = contract.AirflowTasks(tokens=generator, scheduler_grace_s=30.0)
        self.sql(
            "insert into job (job_type, state, latest_heartbeat, id)"
            " values ('SchedulerJob', 'running', now(), 7)"
        )
        self.sql("update dag_run set state = 'running'")
        (row,) = [r for r in side.rows() if r.task_id == "work"]
        self.ti_id = str(row.id)
        mapped = f"{MAP_INDEX} = 0, queued_by_job_id = 7"
        self.sql(f"update task_instance set {mapped} where task_id = 'work'")  # noqa: S608
        self.address = TaskAddress(dag_id="many", task_id="work", run_id=row.run_id, map_index=0)

    def sql(self, statement: str, **values: object) -> list:
        from airflow import settings

        with settings.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result.mappings()) if result.returns_rows else []

    def set(self, state: str, attempt_id: str = ATTEMPT) -> None:
        self.sql(
            "update task_instance set state = :s, external_executor_id = :a where task_id = 'work'",
            s=state,
            a=attempt_id,
        )

    def break_it(self) -> None:
        self.sql("alter table task_instance rename to hidden")


@pytest.fixture(params=["double", "airflow"])
def side(request: pytest.FixtureRequest) -> Double | Real:
    if request.param == "double":
        return Double()
    return Real(request.getfixturevalue("scheduler_side"))


def attempt(side: Double | Real, attempt_id: str = ATTEMPT) -> Attempt:
    return Attempt(
        id=attempt_id,
        kind=WorkloadKind.TASK,
        workload_id=side.ti_id,
        address=side.address,
        queue="default",
        priority=1,
        route=Route(backend=BackendName.CELERY, rule="test"),
        queued_at=datetime.now(UTC),
    )


def test_a_witness_says_what_the_row_says_and_a_missing_row_is_left_out(side):
    side.set("running")
    stranger = TaskAddress(dag_id="many", task_id="nobody", run_id="r")
    found = side.tasks.witnesses({ATTEMPT: side.address, "stranger": stranger})
    assert set(found) == {ATTEMPT}
    witness = found[ATTEMPT]
    assert (witness.state, witness.attempt_id, witness.owner) == ("running", ATTEMPT, "7")


@pytest.mark.parametrize(
    ("state", "carried", "owner"),
    [
        ("running", ATTEMPT, "9"),
        ("running", "another", "7"),
        ("running", None, "7"),
        ("running", ATTEMPT.upper(), "9"),
        ("queued", ATTEMPT, "7"),
        ("success", ATTEMPT, "7"),
        (None, ATTEMPT, "7"),
    ],
)
def test_whoever_does_not_run_as_he_should_is_told_with_what_the_row_says(side, state, carried, owner):
    side.set(state, carried)
    asked = {ATTEMPT: side.address}
    found = side.tasks.not_running(asked, owner)
    assert found == side.tasks.witnesses(asked)
    assert found[ATTEMPT].state == state


def test_whoever_runs_as_he_should_is_not_told_and_a_missing_row_is(side):
    side.set("running")
    nowhere = TaskAddress(dag_id="many", task_id="nobody", run_id="r")
    assert side.tasks.not_running({ATTEMPT: side.address, "stranger": nowhere}, "7") == {"stranger": None}


def test_whoever_runs_and_nobody_queued_is_not_told(scheduler_side):
    """Another scheduler's word alone takes an attempt away."""
    side = Real(scheduler_side)
    side.set("running")
    side.sql("update task_instance set queued_by_job_id = null")
    assert side.tasks.not_running({ATTEMPT: side.address}, "8") == {}


def many(side: Real, count: int) -> dict[str, TaskAddress]:
    """Copies of its task instance by an attempt of each, the first itself; they run."""
    names = side.sql("select column_name from information_schema.columns where table_name = 'task_instance'")
    copied = {name: name for name in (row["column_name"] for row in names)}
    columns, values = ", ".join(copied), ", ".join((copied | {"id": "uuidv7()", MAP_INDEX: "n"}).values())
    side.sql(
        f"insert into task_instance ({columns}) select {values}"  # noqa: S608
        " from task_instance, generate_series(1, :last) as n where task_id = 'work'",
        last=count - 1,
    )
    side.sql(
        "update task_instance set state = 'running',"
        " external_executor_id = gen_random_uuid() where task_id = 'work'"
    )
    rows = side.sql(
        f"select {MAP_INDEX} as at, external_executor_id as name"  # noqa: S608
        " from task_instance where task_id = 'work'"
    )
    return {row["name"]: replace(side.address, map_index=row["at"]) for row in rows}


def test_of_two_thousand_that_run_the_database_sends_the_one_that_does_not(scheduler_side):
    """What runs as it should costs a heartbeat no row, and no work of its own."""
    from airflow import settings

    side = Real(scheduler_side)
    attempts = many(side, 2000)
    stopped = next(iter(attempts))
    side.sql("update task_instance set state = 'failed' where external_executor_id = :name", name=stopped)
    brought = []

    def fetched(connection, cursor, *_):
        brought.append(cursor.rowcount)

    event.listen(settings.engine, "after_cursor_execute", fetched)
    try:
        found = side.tasks.not_running(attempts, "7")
    finally:
        event.remove(settings.engine, "after_cursor_execute", fetched)
    assert {name: witness.state for name, witness in found.items()} == {stopped: "failed"}
    assert brought == [1, 1], "its name, and what its row says"


@pytest.mark.parametrize("asked", ["witnesses", "not_running"])
def test_thousands_of_witnesses_are_found_by_a_join(scheduler_side, asked):
    """A list of rows would be compared with each row of the table: seconds, in a heartbeat."""
    from airflow import settings

    side = Real(scheduler_side)
    many(side, 4000)  # half of them nobody asks for
    plans = []

    def explained(connection, cursor, sql, values, *_):
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values)
        plans.append(json.dumps(cursor.fetchone()[0]))

    event.listen(settings.engine, "before_cursor_execute", explained)
    try:
        attempts = {str(n): replace(side.address, map_index=n) for n in range(2000)}
        found = {
            "witnesses": lambda: side.tasks.witnesses(attempts),
            "not_running": lambda: side.tasks.not_running(attempts, "7"),
        }[asked]()
    finally:
        event.remove(settings.engine, "before_cursor_execute", explained)
    assert len(found) == 2000
    found_plans = [plan for plan in plans if "task_instance" in plan]
    assert len(found_plans) == ["witnesses", "not_running"].index(asked) + 1
    for plan in found_plans:
        assert set(re.findall(r'"Rows Removed by [^"]+": (\d+)', plan)) <= {"0"}, plan


def test_what_is_known_of_an_address_is_known_of_each_attempt_there(side):
    side.set("running")
    found = side.tasks.witnesses({ATTEMPT: side.address, "earlier": side.address})
    assert [found[name].attempt_id for name in (ATTEMPT, "earlier")] == [ATTEMPT, ATTEMPT]


@pytest.mark.skipif(not A_ROW_PER_TRY, reason="an address is unique before Airflow 3.4")
def test_of_several_rows_at_one_address_the_one_that_carries_the_attempt_speaks(scheduler_side):
    """Mapped tasks in a loop: each pass has a region of its own, and the same indexes."""
    side = Real(scheduler_side)
    side.set("running")
    other = str(uuid4())
    names = side.sql("select column_name from information_schema.columns where table_name = 'task_instance'")
    copied = {name: name for name in (row["column_name"] for row in names)}
    pass_of_its_own = {"id": "uuidv7()", "region_id": ":region", "external_executor_id": ":other"}
    columns, values = ", ".join(copied), ", ".join((copied | pass_of_its_own).values())
    region = side.sql("select region_id from task_instance where task_id = 'work'")[0]["region_id"]
    side.sql(
        f"insert into task_instance ({columns}) select {values}"  # noqa: S608
        " from task_instance where task_id = 'work'",
        region=uuid4().bytes if isinstance(region, bytes | memoryview) else str(uuid4()),
        other=other,
    )
    found = side.tasks.witnesses({ATTEMPT: side.address, other: side.address})
    assert {name: witness.attempt_id for name, witness in found.items()} == {ATTEMPT: ATTEMPT, other: other}


def test_only_an_attempt_that_is_still_queued_and_carried_is_to_be_run_again(side):
    side.set("queued")
    assert side.tasks.parcel(attempt(side)) is not None
    assert side.tasks.parcel(attempt(side, str(uuid4()))) is None
    side.set("running")
    assert side.tasks.parcel(attempt(side)) is None


def test_nothing_to_ask_is_answered_with_nothing(side):
    assert side.tasks.witnesses({}) == {}
    side.tasks.refresh_queued([])


def test_a_database_that_does_not_answer_is_unavailable_and_nothing_else(side):
    side.break_it()
    with pytest.raises(Unavailable):
        side.tasks.witnesses({ATTEMPT: side.address})
    with pytest.raises(Unavailable):
        side.tasks.refresh_queued([attempt(side)])


def test_the_clock_of_a_queued_task_starts_anew_and_that_of_no_other(scheduler_side):
    side = Real(scheduler_side)
    then = datetime.now(UTC) - timedelta(hours=1)
    for state, attempt_id, refreshed in (
        ("queued", ATTEMPT, True),
        ("running", ATTEMPT, False),
        ("queued", str(uuid4()), False),
    ):
        side.set(state, attempt_id)
        side.sql("update task_instance set queued_dttm = :then", then=then)
        side.tasks.refresh_queued([attempt(side)])
        (row,) = side.sql("select queued_dttm from task_instance where task_id = 'work'")
        assert (row["queued_dttm"] > then) is refreshed


def test_a_scheduler_lives_as_long_as_it_beats(scheduler_side):
    side = Real(scheduler_side)
    assert "7" in side.tasks.live_owners()
    side.sql("update job set latest_heartbeat = now() - interval '1 hour' where id = 7")
    assert "7" not in side.tasks.live_owners()


def test_a_parcel_made_anew_carries_a_token_for_this_task_instance(scheduler_side):
    import json

    import jwt

    side = Real(scheduler_side)
    side.set("queued")
    parcel = side.tasks.parcel(attempt(side))
    payload = json.loads(side.tasks.payload(parcel, fresh_token=True))
    claims = jwt.decode(payload["token"], options={"verify_signature": False})
    assert claims["sub"] == payload["ti"]["id"] == side.ti_id
    assert claims["exp"] - claims["iat"] == 3600


def test_a_witness_knows_when_and_where_the_task_started(scheduler_side):
    side = Real(scheduler_side)
    side.set("running")
    side.sql("update task_instance set start_date = now(), hostname = 'worker-7'")
    witness = side.tasks.witnesses({ATTEMPT: side.address})[ATTEMPT]
    assert witness.host == "worker-7"
    assert abs(witness.started_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_only_a_task_that_runs_as_this_attempt_is_made_to_run_again(side):
    for state, attempt_id in (("queued", ATTEMPT), ("failed", ATTEMPT), ("running", str(uuid4()))):
        side.set(state, attempt_id)
        assert not side.tasks.restart(attempt(side), "Evicted", 1.0)
        assert side.tasks.witnesses({ATTEMPT: side.address})[ATTEMPT].state == state
    side.set("running")
    assert side.tasks.restart(attempt(side), "Evicted: drained", 1.0)
    witness = side.tasks.witnesses({ATTEMPT: side.address})[ATTEMPT]
    if A_ROW_PER_TRY and isinstance(side, Real):
        assert (witness.state, witness.attempt_id) == ("up_for_retry", None), "the next try waits already"
    else:
        assert (witness.state, witness.attempt_id) == ("restarting", ATTEMPT)
    assert witness.retry_reason == "Evicted: drained"
    assert not side.tasks.restart(attempt(side), "Evicted", 1.0), "once is enough"


def test_a_database_that_is_away_restarts_nothing(side):
    side.break_it()
    with pytest.raises(Unavailable):
        side.tasks.restart(attempt(side), "Evicted", 1.0)


def test_a_restart_keeps_the_try_in_the_history_and_the_retries_as_they_were(scheduler_side):
    side = Real(scheduler_side)
    side.set("running")
    side.sql("update task_instance set try_number = 2, max_tries = 3, start_date = now()")
    assert side.tasks.restart(attempt(side), "x" * 1000, 2.5)
    (row,) = side.sql(f"select * from task_instance ti where task_id = 'work' and {IS_PRESENT}")  # noqa: S608
    assert (row["max_tries"], row["retry_delay_override"]) == (4, 2.5)
    # One row is of the next try only when Airflow has been told of the failure.
    assert row["try_number"] == (3 if A_ROW_PER_TRY else 2)
    assert str(row["id"]) != side.ti_id, "a process that lives on is refused from now on"
    (past,) = side.sql(f"select * from {PAST_TRIES} where task_id = 'work'")  # noqa: S608
    assert (past["try_number"], past["state"], past["retry_reason"]) == (2, "failed", "x" * 500)
    assert str(past["id" if A_ROW_PER_TRY else "task_instance_id"]) == side.ti_id


def test_a_row_that_somebody_has_locked_is_restarted_later(scheduler_side):
    from airflow import settings

    side = Real(scheduler_side)
    side.set("running")
    with settings.engine.begin() as other:
        other.execute(text("select 1 from task_instance where task_id = 'work' for update"))
        with pytest.raises(Unavailable):
            side.tasks.restart(attempt(side), "Evicted", 1.0)
    assert side.tasks.restart(attempt(side), "Evicted", 1.0)
