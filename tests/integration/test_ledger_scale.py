"""With a long history behind it, no statement of the ledger reads more than what it is about."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Executable, create_engine, event, text

from hybrid_executor.ledger import queries, retention, statements, survey
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.ledger.history import SLICE
from hybrid_executor.ledger.rows import change_row_of
from hybrid_executor.ledger.tables import metadata
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Change, Stage
from hybrid_executor.routing import Pool, RoutingTable
from hybrid_executor.scaling import demand_of, trigger_query
from tests.fixtures.history import fill_history
from tests.fixtures.servers import SharedPostgres

ROWS, OPEN = 1_000_000, 2_000


@pytest.fixture(scope="module")
def history(postgres: SharedPostgres) -> Iterator[Engine]:
    with postgres.fresh_database() as dsn:
        engine = create_engine(dsn)
        metadata.create_all(engine)
        fill_history(engine, ROWS, OPEN)
        yield engine
        engine.dispose()


def ids(engine: Engine, count: int) -> list[str]:
    """Attempts that are open, spread over the open rows."""
    query = text("SELECT attempt_id FROM hybrid_submission WHERE ended_at IS NULL ORDER BY 1 LIMIT :count")
    with engine.connect() as connection:
        return list(connection.scalars(query, {"count": count}))


def plan(connection: Connection, statement: Executable, parameters: Any = None) -> dict[str, Any]:
    """Run the statement under EXPLAIN ANALYZE and return the plan's root."""

    def explained(_connection: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> tuple[str, Any]:
        return f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values

    event.listen(connection, "before_cursor_execute", explained, retval=True)
    try:
        answer = connection.execute(statement, parameters)
        rows = answer.cursor.fetchone()[0]
    finally:
        event.remove(connection, "before_cursor_execute", explained)
    connection.rollback()
    return (json.loads(rows) if isinstance(rows, str) else rows)[0]["Plan"]


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from nodes(child)


def rows_read(root: dict[str, Any]) -> float:
    """Rows of the table that the plan has looked at."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes(root)
        if node.get("Relation Name") == "hybrid_submission" and "Scan" in node["Node Type"]
    )


def assert_bounded(root: dict[str, Any], at_most: int) -> None:
    assert not [node for node in nodes(root) if node["Node Type"] == "Seq Scan"], json.dumps(root, indent=1)
    assert rows_read(root) <= at_most, json.dumps(root, indent=1)


@pytest.mark.parametrize("count", [1, 16, 1_000])
def test_a_look_up_reads_what_it_looks_up(history: Engine, count: int) -> None:
    attempts = ids(history, count)
    with history.connect() as connection:
        assert_bounded(plan(connection, statements.by_attempt(attempts)), count)


@pytest.mark.parametrize("count", [1, 16, 1_000])
def test_a_change_reads_the_rows_that_it_changes(history: Engine, count: int) -> None:
    rows = [
        change_row_of(Change(id=SubmissionId(attempt, 1), exit_code=0)) for attempt in ids(history, count)
    ]
    keys = statements.parameters("postgresql", rows, statements.KEY)
    values = statements.parameters("postgresql", rows, (*statements.KEY, "exit_code"))
    with history.connect() as connection:
        assert_bounded(plan(connection, statements.locking(), keys), count)
        assert_bounded(plan(connection, statements.changing("postgresql", ("exit_code",)), values), count)


def test_a_change_reads_no_more_where_the_planner_knows_of_a_quieter_hour(postgres: SharedPostgres) -> None:
    """Tasks come faster than the server renews its statistics."""
    count = 16
    with postgres.fresh_database() as dsn:
        engine = create_engine(dsn)
        metadata.create_all(engine)
        fill_history(engine, 20_000)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE hybrid_submission SET (autovacuum_enabled = off)"))
            connection.execute(text("UPDATE hybrid_submission SET ended_at = NULL"))
        rows = [change_row_of(Change(id=SubmissionId(one, 1), exit_code=0)) for one in ids(engine, count)]
        keys = statements.parameters("postgresql", rows, statements.KEY)
        values = statements.parameters("postgresql", rows, (*statements.KEY, "exit_code"))
        with engine.connect() as connection:
            # Of each there is an older version, which nobody has cleaned up yet.
            assert_bounded(plan(connection, statements.locking(), keys), 2 * count)
            changing = statements.changing("postgresql", ("exit_code",))
            assert_bounded(plan(connection, changing, values), 2 * count)
        engine.dispose()


@pytest.mark.parametrize("dag_id", [None, "dag7", "no such DAG"])
def test_what_pods_took_is_read_by_the_time_in_which_it_was_queued(
    history: Engine, dag_id: str | None
) -> None:
    """Each query of the command reads its own slice of the past and no more."""
    until = datetime.now(UTC) - timedelta(hours=12)
    query = queries.pod_runs(until - SLICE, until, dag_id)
    with history.connect() as connection:
        assert_bounded(plan(connection, query), round(SLICE.total_seconds()) + 1)


@pytest.mark.parametrize("owners", [[], ["1", "2"], ["0", "1", "2", "3", "4"]])
def test_the_rows_of_dead_schedulers_are_found_without_their_history(
    history: Engine, owners: list[str]
) -> None:
    """The fewer are asked for, the sooner a planner hopes to find them by walking through all of it."""
    with history.connect() as connection:
        for limit in (1, 20, 500):
            assert_bounded(plan(connection, statements.open_of_others(owners, limit)), OPEN)


def test_a_schedulers_own_open_rows_are_paged_without_their_history(history: Engine) -> None:
    """Each row once, whatever the length of a page."""
    ledger, found, after = DatabaseLedger(history), [], None
    while page := ledger.open_of("1", after, 150):
        found += page
        after = page[-1]
    assert len({row.id for row in found}) == len(found) == OPEN // 5
    place = (found[100].queued_at, *found[100].id)
    with history.connect() as connection:
        assert_bounded(plan(connection, statements.open_of("1", place, 150)), OPEN)


def test_what_is_open_with_one_scheduler_is_found_without_the_history(history: Engine) -> None:
    with history.connect() as connection:
        assert_bounded(plan(connection, queries.stages_of("3")), OPEN)


HOUR = 3_600


def an_hour_ago() -> datetime:
    return datetime.now(UTC) - timedelta(seconds=HOUR)


#: What a user may read.
SOME_DAGS = frozenset({None, *(f"dag{number}" for number in range(60))})


@pytest.mark.parametrize(
    "ask",
    [
        lambda: queries.newest(queries.Wanted(since=an_hour_ago()), 50),
        lambda: queries.newest(queries.Wanted(since=an_hour_ago(), reason=Reason.OOM_KILLED), 50),
        lambda: queries.newest(
            queries.Wanted(since=an_hour_ago() - timedelta(days=30)),
            50,
            queries.Place(an_hour_ago() - timedelta(days=1), "a", 1),
        ),
        lambda: queries.newest(queries.Wanted(since=an_hour_ago(), state=Stage.RUNNING), 50),
        lambda: queries.of_task("dag7", "run50", "task7", None, 1_000),
        queries.open_counts,
        lambda: queries.end_counts(an_hour_ago()),
        queries.waits,
        queries.places,
        queries.owners,
        queries.oldest,
        lambda: retention.old(datetime.now(UTC) - timedelta(days=2), 100),
        survey.opens,
        lambda: survey.ends(an_hour_ago()),
        survey.waits,
        survey.running,
        lambda: survey.queued(an_hour_ago()),
        lambda: survey.started(an_hour_ago()),
        lambda: survey.ended(an_hour_ago()),
        survey.marking,
        lambda: queries.newest(
            queries.Wanted(since=an_hour_ago(), until=datetime.now(UTC), dag_ids=SOME_DAGS), 51
        ),
        lambda: queries.newest(
            queries.Wanted(since=an_hour_ago() - timedelta(days=300), dag_ids=SOME_DAGS),
            51,
            queries.Place(an_hour_ago() - timedelta(days=5), "a", 1),
        ),
        lambda: queries.newest(
            queries.Wanted(
                since=an_hour_ago() - timedelta(days=300),
                until=datetime.now(UTC),
                dag_ids=frozenset({"dag7"}),
                dag_id="dag7",
                run_id="run400",
            ),
            41,
        ),
        lambda: queries.stages_of_run("dag7", "run0"),
        lambda: queries.span_of_run("dag7", "run400"),
    ],
    ids=[
        "newest",
        "rare",
        "far page",
        "running",
        "task",
        "open",
        "ends",
        "waits",
        "places",
        "owners",
        "oldest",
        "trim",
        "page: open",
        "page: ends",
        "page: waits",
        "page: running",
        "page: queued",
        "page: started",
        "page: ended",
        "page: tag",
        "page: some DAGs",
        "page: some DAGs long ago",
        "page: one run",
        "page: what is open of a run",
        "page: when a run was",
    ],
)
def test_what_people_ask_reads_open_rows_or_the_time_that_they_name(
    history: Engine, ask: Callable[[], Executable]
) -> None:
    with history.connect() as connection:
        assert_bounded(plan(connection, ask()), HOUR + OPEN)


#: One for each open row, all but a tenth of them running, and what has ended of Airflow's own history.
TASKS = f"""
CREATE TABLE task_instance
    (id uuid PRIMARY KEY, state varchar(20), queue varchar(256), executor varchar(1000),
     external_executor_id text, dag_id varchar(250), run_id varchar(250), task_id varchar(250));
INSERT INTO task_instance
SELECT md5('w' || g)::uuid,
       CASE WHEN g > {OPEN} THEN 'success' WHEN g % 10 = 0 THEN 'queued' ELSE 'running' END,
       'default', NULL, md5(g::text)::uuid::text, 'dag' || g % 100, 'run' || g / 2000, 'task' || g % 20
FROM generate_series(1, {ROWS // 5}) AS g;
CREATE INDEX ti_state ON task_instance (state);
CREATE INDEX ti_dag_run ON task_instance (dag_id, run_id);
"""  # noqa: S608


@pytest.fixture(scope="module")
def tasks(history: Engine) -> Engine:
    """Airflow's own table beside the ledger, with the indexes that Airflow gives it."""
    with history.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(TASKS))
        connection.exec_driver_sql("VACUUM ANALYZE task_instance")
    return history


def test_the_task_instances_of_a_run_are_counted_without_those_of_others(tasks: Engine) -> None:
    from hybrid_executor.contract.views import of_run

    with tasks.connect() as connection:
        root = plan(connection, of_run("dag7", "run50"))
    scans = [node for node in nodes(root) if "Scan" in node["Node Type"]]
    assert not [node for node in scans if node["Node Type"] == "Seq Scan"], json.dumps(root, indent=1)
    # Of 2,000 that were made one after the other each hundredth is of this DAG.
    assert max(node["Actual Rows"] for node in scans) == 20


def test_an_autoscaler_reads_what_is_in_flight_and_nothing_of_the_past(tasks: Engine) -> None:
    """Each open row at most twice, and one entry of the key for each task instance that is not over."""
    pool = Pool(name="light", queues=("default",), concurrency=16)
    query = trigger_query("postgresql", demand_of(pool, RoutingTable(), (), ""))
    with tasks.connect() as connection:
        assert connection.exec_driver_sql(query).scalar_one() == OPEN // 16
        assert_bounded(plan(connection, text(query)), 3 * OPEN)
