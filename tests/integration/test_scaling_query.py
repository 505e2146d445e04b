"""The autoscaler's query on real databases says what router, ledger and Airflow say together.

Seeded worlds of task instances, callbacks and submissions are counted by the
query and, in plain Python, by the executor's own rules.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Index,
    MetaData,
    Table,
    create_engine,
    insert,
    text,
    true,
)

from hybrid_executor.airflowtables import A_ROW_PER_TRY, MAP_INDEX
from hybrid_executor.comparison import gone_on
from hybrid_executor.ledger.rows import row_of
from hybrid_executor.ledger.tables import metadata, submission
from hybrid_executor.lifecycle import Witness
from hybrid_executor.model.attempt import BackendName, SubmissionId, TaskAddress, WorkloadKind
from hybrid_executor.model.record import SubmissionRecord
from hybrid_executor.routing import Pool, RoutingTable, kubernetes_rules
from hybrid_executor.scaling import Dialect, demand_of, in_flight_query, trigger_query
from tests.fixtures.mariadb import MariadbServer
from tests.fixtures.servers import SharedPostgres

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OURS, ALIAS = "hybrid_executor.HybridExecutor", "CeleryExecutor"
STATES = (
    *("queued", "running") * 4,
    *(None, "scheduled", "restarting", "deferred", "up_for_reschedule", "up_for_retry"),
    *("success", "failed", "skipped", "upstream_failed", "removed"),
)
EXECUTORS = (*(None,) * 6, OURS, ALIAS, "HybridExecutor", "KubernetesExecutor", "other.Executor")
#: ``Default`` is another queue than ``default``, and ``kubernetes`` may be one of a callback.
QUEUES = ("default", "default", "light", "it's", "Default", "kubernetes", "gpu", "nobody's")
TABLE = RoutingTable(kubernetes_rules(["kubernetes", "gpu"], "test"))
POOLS = (
    Pool(name="light", queues=("default", "light", "kubernetes"), concurrency=16),
    Pool(name="odd", queues=("it's", "Default"), concurrency=3),
    Pool(name="idle", queues=("nothing here",), concurrency=1),
)
COLUMNS = ("dag_id", "task_id", "run_id", MAP_INDEX, "state", "queue", "executor", "external_executor_id")
#: What tells the present try of Airflow 3.4 from the past ones, which are rows as well.
WORKING_SET = "working_set"


@dataclass
class World:
    """What stands in both tables."""

    tasks: list[dict[str, Any]] = field(default_factory=list)
    rows: list[SubmissionRecord] = field(default_factory=list)

    def task(self, dice: random.Random, **values: Any) -> dict[str, Any]:
        """One more task instance; mapped ones share their task."""
        number = len(self.tasks)
        task = {
            "id": UUID(int=dice.getrandbits(128), version=4),
            "dag_id": "etl",
            "task_id": f"load{number // 3}",
            "run_id": "r",
            MAP_INDEX: number % 3,
            "state": "queued",
            "queue": "default",
            "executor": None,
            "external_executor_id": str(UUID(int=dice.getrandbits(128), version=4)),
            WORKING_SET: True,
        } | values
        self.tasks.append(task)
        return task

    def submit(self, task: dict[str, Any], attempt: str | None = None, **values: Any) -> None:
        """One more row of the ledger, for a task instance."""
        attempt = attempt or task["external_executor_id"]
        number = 1 + sum(row.id.attempt_id == attempt for row in self.rows)
        given = {"queue": task["queue"], "backend": TABLE.route(task["queue"]).backend} | values
        address = TaskAddress(
            dag_id="etl", task_id=task["task_id"], run_id="r", map_index=task[MAP_INDEX], try_number=1
        )
        self.rows.append(
            SubmissionRecord(
                id=SubmissionId(attempt, number),
                kind=WorkloadKind.TASK,
                workload_id=str(task["id"]),
                address=address,
                rule="test",
                # The scheduler that answers for it may well be dead: its tasks are adopted.
                scheduler_job="1",
                queued_at=NOW,
                **given,
            )
        )

    def other(self, dice: random.Random, kind: WorkloadKind, **values: Any) -> None:
        """A callback or a connection test, which go to Celery whatever queue they name."""
        name = str(UUID(int=dice.getrandbits(128), version=4))
        given = {"queue": "default", "backend": BackendName.CELERY} | values
        self.rows.append(
            SubmissionRecord(
                id=SubmissionId(name, 1),
                kind=kind,
                workload_id=name,
                address=None,
                rule="test",
                scheduler_job="1",
                queued_at=NOW,
                **given,
            )
        )


def a_world(seed: int) -> World:
    """Anything that may stand there at one time."""
    dice, world = random.Random(seed), World()
    for _ in range(dice.randrange(40)):
        task = world.task(
            dice,
            state=dice.choice(STATES),
            queue=dice.choice(QUEUES),
            executor=dice.choice(EXECUTORS),
            # A task that is cleared while it is queued leaves that try as it was.
            working_set=dice.choice((True, True, True, None)),
        )
        if dice.random() < 0.1:
            # Another executor's name for it, or none.
            task["external_executor_id"] = dice.choice((None, f"job-{len(world.tasks)}"))
            continue
        if dice.random() < 0.1:
            # An attempt that the task instance has gone on without.
            world.submit(task, str(UUID(int=dice.getrandbits(128), version=4)), **_fate(dice))
        if dice.random() < 0.7:
            for _ in range(dice.choice((1, 1, 1, 2))):
                # Since it was queued, routes may have changed.
                moved = {"backend": dice.choice(list(BackendName))} if dice.random() < 0.1 else {}
                world.submit(task, **moved, **_fate(dice))
    for _ in range(dice.randrange(6)):
        kind = dice.choice((WorkloadKind.CALLBACK, WorkloadKind.CONNECTION_TEST))
        world.other(dice, kind, queue=dice.choice(QUEUES), **_fate(dice))
    return world


def _fate(dice: random.Random) -> dict[str, Any]:
    times = ("submitted_at", "started_at", "worker_leaves_at", "ended_at")
    return {name: NOW for name in times if dice.random() < (0.7 if name == "submitted_at" else 0.2)}


def counted(pool: Pool, world: World, *, a_row_per_try: bool) -> int:
    """What the pool has in flight, by the rules of the executor itself."""
    present = [task for task in world.tasks if task[WORKING_SET] or not a_row_per_try]
    known = {row.id.attempt_id for row in world.rows}
    of_ledger = {row.id.attempt_id for row in world.rows if _is_for(pool, row, present)}
    strangers = [
        task
        for task in present
        if task["external_executor_id"] not in known
        and task["state"] in ("queued", "running", "restarting")
        and task["queue"] in pool.queues
        and TABLE.route(task["queue"]).backend is BackendName.CELERY
        and task["executor"] in (None, OURS, ALIAS, "HybridExecutor")
    ]
    return len(of_ledger) + len(strangers)


def _is_for(pool: Pool, row: SubmissionRecord, present: Sequence[Mapping[str, Any]]) -> bool:
    if row.ended_at or row.worker_leaves_at or row.backend is not BackendName.CELERY:
        return False
    if row.queue not in pool.queues:
        return False
    if row.kind is not WorkloadKind.TASK:
        return True
    task = next((task for task in present if str(task["id"]) == row.workload_id), None)
    witness = task and Witness(state=task["state"], attempt_id=task["external_executor_id"])
    return gone_on(witness, row.id.attempt_id) is None


@dataclass(frozen=True)
class Database:
    """Airflow's table and ours."""

    engine: Engine
    dialect: Dialect
    tasks: Any

    @property
    def a_row_per_try(self) -> bool:
        return WORKING_SET in self.tasks.c

    @contextmanager
    def holding(self, world: World) -> Iterator[Connection]:
        """The world, until the end of the block."""
        with self.engine.connect() as connection:
            if self.dialect == "postgresql":
                # No DAG runs are needed: what refers to them is not looked at.
                connection.exec_driver_sql("SET session_replication_role = replica")
            if world.tasks:
                pool = {"pool": "default_pool"} if "pool" in self.tasks.c else {}
                known = [{k: v for k, v in task.items() if k in self.tasks.c} for task in world.tasks]
                connection.execute(insert(self.tasks), [task | pool for task in known])
            if world.rows:
                connection.execute(insert(submission), [row_of(row) for row in world.rows])
            yield connection
            connection.rollback()

    def answers(self, connection: Connection, pool: Pool) -> tuple[Any, Any]:
        """What is in flight, and the replicas that the autoscaler is told."""
        demand = demand_of(pool, TABLE, (ALIAS, OURS), ALIAS)
        plain = connection.execution_options(no_parameters=True)
        return tuple(
            plain.exec_driver_sql(query(self.dialect, demand)).scalar_one()
            for query in (in_flight_query, trigger_query)
        )


#: Kinds of database, each with task instances as Airflow 3.3 has them, and as 3.4 has.
KINDS: tuple[tuple[Dialect, bool], ...] = (
    *(() if A_ROW_PER_TRY else (("postgresql", False),)),
    ("postgresql", True),
    ("mysql", False),
    ("mysql", True),
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            kind,
            marks=[pytest.mark.mariadb] if kind[0] == "mysql" else [],
            id=kind[0] + ("_row_per_try" if kind[1] else ""),
        )
        for kind in KINDS
    ],
)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    dialect, a_row_per_try = request.param
    if dialect == "postgresql":
        server: SharedPostgres = request.getfixturevalue("postgres")
        with server.fresh_database(request.getfixturevalue("airflow_template")) as dsn:
            engine = create_engine(dsn)
            tasks: Any = TaskInstance.__table__
            if a_row_per_try and not A_ROW_PER_TRY:
                tasks = _with_working_set(engine)
            yield Database(engine, "postgresql", tasks)
            engine.dispose()
        return
    mariadb: MariadbServer = request.getfixturevalue("mariadb")
    with mariadb.fresh_database() as dsn:
        engine = create_engine(dsn)
        metadata.create_all(engine)
        tasks = _airflows_table(a_row_per_try=a_row_per_try)
        tasks.create(engine)
        yield Database(engine, "mysql", tasks)
        engine.dispose()


def _with_working_set(engine: Engine) -> Table:
    """The table of this Airflow with what the next one adds to it."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE task_instance ADD {WORKING_SET} boolean DEFAULT TRUE")
    table = TaskInstance.__table__.to_metadata(MetaData())
    table.append_column(Column(WORKING_SET, Boolean))
    return table


def _airflows_table(*, a_row_per_try: bool) -> Table:
    """Airflow's migrations don't run on MariaDB: of its table the columns that the query reads."""
    theirs = TaskInstance.__table__.c
    columns = [Column(name, theirs[name].type) for name in COLUMNS]
    if a_row_per_try:
        columns.append(Column(WORKING_SET, Boolean, server_default=true()))
    key = Column("id", theirs["id"].type, primary_key=True)
    return Table("task_instance", MetaData(), key, *columns, Index("ti_state", "state"))


@pytest.mark.parametrize("seed", range(60))
def test_the_query_counts_what_router_and_ledger_say(database: Database, seed: int) -> None:
    world = a_world(seed)
    with database.holding(world) as connection:
        for pool in POOLS:
            in_flight, workers = database.answers(connection, pool)
            assert in_flight == counted(pool, world, a_row_per_try=database.a_row_per_try), pool
            assert float(workers) == math.ceil(in_flight / pool.concurrency)


@pytest.mark.parametrize(("tasks", "workers"), [(0, 0), (1, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_a_worker_more_begins_with_the_first_task_that_none_has_a_slot_for(
    database: Database, tasks: int, workers: int
) -> None:
    dice, world = random.Random(1), World()
    for _ in range(tasks):
        world.submit(world.task(dice, state="running"))
    with database.holding(world) as connection:
        assert database.answers(connection, POOLS[0]) == (tasks, workers)


def test_tasks_of_pods_start_no_workers_whatever_their_queue_is_af49001(database: Database) -> None:
    """The chart's query looked at the queue alone, which is Celery's for many a task that runs in a pod."""
    dice, world = random.Random(2), World()
    for queue in ("kubernetes", "gpu", "default"):
        world.submit(world.task(dice, state="running", queue=queue), backend=BackendName.KUBERNETES)
    world.task(dice, state="queued", queue="kubernetes")
    with database.holding(world) as connection:
        assert [database.answers(connection, pool) for pool in POOLS] == [(0, 0)] * 3


def test_tasks_that_name_another_executor_start_no_workers_af52840(database: Database) -> None:
    dice, world = random.Random(3), World()
    world.task(dice, state="running", executor="KubernetesExecutor")
    world.task(dice, state="queued", executor=ALIAS)
    with database.holding(world) as connection:
        assert database.answers(connection, POOLS[0]) == (1, 1)


def test_tasks_that_name_no_executor_keep_their_workers_af55559(database: Database) -> None:
    """Their ``executor`` is NULL, with which no comparison is true: that sent all workers away."""
    dice, world = random.Random(4), World()
    world.task(dice, state="running", executor=None)
    world.submit(world.task(dice, state="queued", executor=None))
    with database.holding(world) as connection:
        assert database.answers(connection, POOLS[0]) == (2, 1)


def test_a_try_that_airflow_has_archived_while_it_was_queued_starts_no_worker(database: Database) -> None:
    """Airflow 3.4 leaves its state as it was, also when the ledger has long trimmed the attempt."""
    dice, world = random.Random(6), World()
    world.task(dice, state="queued", working_set=None)
    world.submit(world.task(dice, state="queued", working_set=None))
    world.submit(world.task(dice, state="queued"))
    world.task(dice, state="queued")
    with database.holding(world) as connection:
        assert database.answers(connection, POOLS[0]) == ((2, 1) if database.a_row_per_try else (4, 1))


def test_passes_of_a_loop_that_share_an_address_count_each_by_itself(database: Database) -> None:
    """Airflow 3.4 tells them apart by a region, which the ledger does not know; 3.3 has no loops."""
    dice, world = random.Random(7), World()
    for index in range(3):
        place: dict[str, Any] = {MAP_INDEX: index}
        if "region_id" in database.tasks.c:
            place = {"task_id": "body", MAP_INDEX: 0, "region_id": UUID(int=index + 1)}
        world.submit(world.task(dice, state="running", **place))
    with database.holding(world) as connection:
        assert database.answers(connection, POOLS[0]) == (3, 1)


def test_replicas_do_not_rise_while_a_leaving_worker_finishes(database: Database) -> None:
    dice, world = random.Random(5), World()
    for leaves in (None, NOW, NOW):
        world.submit(world.task(dice, state="running"), started_at=NOW, worker_leaves_at=leaves)
    with database.holding(world) as connection:
        assert database.answers(connection, POOLS[0]) == (1, 1)


def test_the_query_names_only_what_airflow_has(database: Database) -> None:
    """A release of Airflow that renames a column is found here and not by an autoscaler."""
    assert set(COLUMNS) | {"id"} <= set(TaskInstance.__table__.c.keys())
    assert (WORKING_SET in TaskInstance.__table__.c) == A_ROW_PER_TRY
    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM task_instance")).scalar_one() == 0


#: As ``test_ledger_scale`` has it for PostgreSQL: what is in flight, and a history behind it.
IN_FLIGHT, LEDGER, TASKS = 2_000, 300_000, 100_000
MARIADB_HISTORY = (
    f"""
INSERT INTO hybrid_submission
    (attempt_id, submission, kind, workload_id, queue, backend, rule, scheduler_job, queued_at, ended_at)
SELECT CONCAT('a', seq), 1, 'task', seq, 'default', 'celery', '', '1', NOW() - INTERVAL seq SECOND,
       IF(seq > {IN_FLIGHT}, NOW() - INTERVAL seq SECOND, NULL)
FROM seq_1_to_{LEDGER}
""",  # noqa: S608
    f"""
INSERT INTO task_instance (id, state, queue, external_executor_id, dag_id, task_id, run_id, {MAP_INDEX})
SELECT CONCAT('00000000-0000-4000-8000-', LPAD(seq, 12, '0')), IF(seq > {IN_FLIGHT}, 'success', 'running'),
       'default', CONCAT('a', seq), 'd', 't', 'r', -1
FROM seq_1_to_{TASKS}
""",  # noqa: S608
)


@pytest.mark.mariadb
@pytest.mark.parametrize("a_row_per_try", [False, True])
def test_mysqls_planner_reads_what_is_in_flight_and_nothing_of_the_past(
    mariadb_url: str, a_row_per_try: bool
) -> None:
    engine = create_engine(mariadb_url)
    metadata.create_all(engine)
    _airflows_table(a_row_per_try=a_row_per_try).create(engine)
    query = trigger_query("mysql", demand_of(POOLS[0], TABLE, (), ""))
    with engine.begin() as connection:
        for statement in MARIADB_HISTORY:
            connection.execute(text(statement))
    with engine.connect().execution_options(no_parameters=True) as connection:
        connection.exec_driver_sql("ANALYZE TABLE hybrid_submission, task_instance")
        assert connection.exec_driver_sql(query).scalar_one() == IN_FLIGHT // 16
        plan = connection.exec_driver_sql(f"EXPLAIN {query}").mappings().all()
    engine.dispose()
    steps = [row for row in plan if row["table"] in ("s", "ti")]
    assert len(steps) == 5
    assert [row for row in steps if row["key"] is None or int(row["rows"]) > 2 * IN_FLIGHT] == []
