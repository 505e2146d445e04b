"""A real KEDA scales a pool's Deployment by the product's own query on a real ledger, as the guide has it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
import yaml
from airflow.models.taskinstance import TaskInstance

from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.ledger.live.store import LiveStore, item_change, item_new
from hybrid_executor.ledger.tables import metadata
from hybrid_executor.model.attempt import BackendName, SubmissionId, TaskAddress, WorkloadKind
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord
from hybrid_executor.routing import Pool, RoutingTable
from hybrid_executor.scaling import demand_of, trigger_query
from hybrid_executor.standalone.stack.ports import LOOPBACK
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.cluster.keda import Keda
from tests.cluster.plane import ControlPlane
from tests.cluster.test_keda import moves
from tests.fixtures.kube import until

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "size-pools.md"
OURS = "hybrid_executor.HybridExecutor"
#: Those of Airflow's table that the query reads.
TASK_COLUMNS = {
    "state": sa.String(20),
    "queue": sa.String(256),
    "executor": sa.String(1000),
    "external_executor_id": sa.Text(),
}
POOL = Pool(name="light", queues=("default", "light"), concurrency=16)


class Work:
    """Attempts that run, each with its task instance."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._engine = sa.create_engine(dsn, poolclass=sa.NullPool)
        self._ledger = DatabaseLedger(self._engine)
        self._tasks: Any = TaskInstance.__table__
        self._open: list[SubmissionId] = []

    def set(self, count: int, **values: Any) -> None:
        """So many are to run; what is new has these values, what is too much ends."""
        while len(self._open) > count:
            change = Change(id=self._open.pop(), ended_at=_now(), outcome=Outcome.SUCCEEDED)
            self._ledger.record([], [change])
        new = [_record(number, values) for number in range(len(self._open), count)]
        self._insert(new)
        self._ledger.record(new, [])
        self._open += [record.id for record in new]

    def leave(self, count: int) -> None:
        """The workers of so many are on their way out."""
        self._ledger.record([], [Change(id=one, worker_leaves_at=_now()) for one in self._open[:count]])

    def end_tasks(self) -> None:
        """Airflow has all of them as over; the ledger does not know it yet."""
        with self._engine.begin() as connection:
            connection.execute(sa.update(self._tasks).values(state="success"))

    def _insert(self, records: list[SubmissionRecord]) -> None:
        with self._engine.begin() as connection:
            # No DAG runs are needed: what refers to them is not looked at.
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for record in records:
                assert record.address
                row = {
                    "id": UUID(record.workload_id),
                    "dag_id": "etl",
                    "task_id": record.address.task_id,
                    "run_id": "r",
                    "map_index": -1,
                    "pool": "default_pool",
                    "state": "running",
                    "queue": record.queue,
                    "external_executor_id": record.id.attempt_id,
                }
                connection.execute(sa.insert(self._tasks).values(row))


def _now() -> datetime:
    return datetime.now(UTC)


def _record(number: int, values: dict[str, Any]) -> SubmissionRecord:
    name = str(uuid4())
    given = {"queue": "default", "backend": BackendName.CELERY} | values
    return SubmissionRecord(
        id=SubmissionId(name, 1),
        kind=WorkloadKind.TASK,
        workload_id=str(uuid4()),
        address=TaskAddress(
            dag_id="etl", task_id=f"t{number}-{name}", run_id="r", map_index=-1, try_number=1
        ),
        rule="default",
        scheduler_job="1",
        queued_at=_now(),
        started_at=_now(),
        **given,
    )


def blocks(beginning: str) -> list[dict[str, Any]]:
    """The guide's YAML that begins so."""
    pattern = rf"^```yaml\n({beginning}.*?)^```"
    found = re.findall(pattern, GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [one for block in found for one in yaml.safe_load_all(block)]


def objects(dsn: str, namespace: str) -> list[dict[str, Any]]:
    """The guide's own, with its waits cut short: a test has no two minutes."""
    by_kind = {one["kind"]: one for one in blocks("apiVersion")}
    for one in by_kind.values():
        one["metadata"]["namespace"] = namespace
    connection = dsn.replace("postgresql+psycopg2", "postgresql")
    # As behind a PgBouncer.
    options = "?sslmode=disable&default_query_exec_mode=simple_protocol"
    by_kind["Secret"]["stringData"]["connection"] = connection + options
    spec = by_kind["ScaledObject"]["spec"]
    demand = demand_of(POOL, RoutingTable(), (OURS,), OURS)
    spec["triggers"][0]["metadata"]["query"] = trigger_query("postgresql", demand)
    spec |= {"pollingInterval": 1, "cooldownPeriod": 3}
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    policy = {"type": "Pods", "value": 100, "periodSeconds": 1}
    for direction in ("scaleUp", "scaleDown"):
        behavior[direction] |= {"stabilizationWindowSeconds": 0, "policies": [policy]}
    order = ("Secret", "TriggerAuthentication", "ScaledObject")
    return [by_kind[kind] for kind in order]


def objects_for_redis(valkey: ValkeyServer, namespace: str) -> list[dict[str, Any]]:
    """The same, with what the guide changes where Redis is asked."""
    secret, authentication, scaled = objects("", namespace)
    secret["stringData"] = {"password": valkey.password}
    authentication["spec"]["secretTargetRef"][0] |= {"parameter": "password", "key": "password"}
    [changed] = blocks("spec:")
    scaled["spec"]["advanced"] |= changed["spec"].pop("advanced")
    scaled["spec"] |= changed["spec"]
    for trigger in scaled["spec"]["triggers"]:
        trigger["metadata"]["address"] = f"{LOOPBACK}:{valkey.port}"
    return [secret, authentication, scaled]


@pytest.fixture
def work(airflow_database_url: str) -> Work:
    return Work(airflow_database_url)


@pytest.fixture
def pool(plane: ControlPlane, keda: Keda, namespace: str, work: Work) -> Iterator[str]:
    """The path of the pool's Deployment, scaled as the guide says."""
    here = f"--namespace={namespace}"
    plane.kubectl("create", "deployment", "light", "--image=any", "--replicas=0", here)
    plane.apply(*objects(work.dsn, namespace))
    yield f"/apis/apps/v1/namespaces/{namespace}/deployments/light"
    # Its finalizer is the operator's to remove.
    plane.kubectl("delete", "scaledobject", "light", here, "--timeout=120s")


def test_replicas_are_exact_at_every_edge_and_go_from_none_to_none(
    plane: ControlPlane, keda: Keda, pool: str, work: Work
) -> None:
    """Two workers of 16 have 32 tasks in hand: the 33rd gets a third, and its end takes that away."""
    for tasks, replicas in ((17, 2), (16, 1), (33, 3), (32, 2), (160, 10), (1, 1), (0, 0)):
        work.set(tasks)
        seconds = moves(plane, pool, replicas, keda)
        print(f"{tasks} tasks: {replicas} replicas after {seconds:.1f} s")


def test_a_pool_shrinks_by_what_is_not_its_own_to_do(
    plane: ControlPlane, keda: Keda, pool: str, work: Work
) -> None:
    """Not for what finishes on workers that leave; not for tasks that are over; not for those of pods."""
    work.set(48)
    moves(plane, pool, 3, keda)
    work.leave(20)
    moves(plane, pool, 2, keda)
    work.set(100, backend=BackendName.KUBERNETES)
    work.end_tasks()
    moves(plane, pool, 0, keda)


def test_workers_stay_while_the_database_gives_no_answer(
    plane: ControlPlane, keda: Keda, pool: str, namespace: str, work: Work
) -> None:
    work.set(33)
    moves(plane, pool, 3, keda)
    path = f"/apis/keda.sh/v1alpha1/namespaces/{namespace}/scaledobjects/light"

    def has_fallen_back() -> bool:
        conditions = plane.request("GET", path)[1]["status"]["conditions"]
        return any(one["type"] == "Fallback" and one["status"] == "True" for one in conditions)

    engine = sa.create_engine(work.dsn, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE hybrid_submission RENAME TO away"))
    until(has_fallen_back, "KEDA never fell back", 60.0)
    assert plane.request("GET", pool)[1]["spec"]["replicas"] == 3
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO hybrid_submission"))
    work.set(0)
    moves(plane, pool, 0, keda)


def test_redis_gives_the_sum_of_the_queues_of_a_pool_and_the_last_worker_stays(
    plane: ControlPlane, keda: Keda, namespace: str, valkey: ValkeyServer, valkey_url: str
) -> None:
    here = f"--namespace={namespace}"
    plane.kubectl("create", "deployment", "light", "--image=any", "--replicas=0", here)
    wanted = objects_for_redis(valkey, namespace)
    for trigger in wanted[-1]["spec"]["triggers"]:
        trigger["metadata"]["databaseIndex"] = valkey_url.rpartition("/")[2]
    plane.apply(*wanted)
    pool = f"/apis/apps/v1/namespaces/{namespace}/deployments/light"
    records = [_record(number, {"queue": "light" if number % 3 else "default"}) for number in range(33)]
    store = LiveStore(LiveConfig(url=valkey_url, prefix="airflow"), "1")
    try:
        moves(plane, pool, 1, keda)
        assert store.write("1", None, [item_new(record) for record in records], anew=True) == []
        moves(plane, pool, 3, keda)
        ends = [Change(id=one.id, ended_at=_now(), outcome=Outcome.SUCCEEDED) for one in records]
        assert store.write("2", "1", [item_change(end) for end in ends[:1]]) == []
        moves(plane, pool, 2, keda)
        assert store.write("3", "2", [item_change(end) for end in ends[1:]]) == []
        moves(plane, pool, 1, keda)
    finally:
        plane.kubectl("delete", "scaledobject", "light", here, "--timeout=120s")


@pytest.mark.mariadb
def test_mysqls_trigger_and_connection_are_as_the_guide_says(
    plane: ControlPlane, keda: Keda, namespace: str, mariadb_url: str
) -> None:
    """``make test-cluster ARGS="-m mariadb"``, where ``make test-mariadb`` has run."""
    engine = sa.create_engine(mariadb_url, poolclass=sa.NullPool)
    metadata.create_all(engine)
    columns = [sa.Column(name, kind) for name, kind in TASK_COLUMNS.items()]
    sa.Table("task_instance", sa.MetaData(), *columns).create(engine)
    url = engine.url
    secret, authentication, scaled = objects("", namespace)
    secret["stringData"]["connection"] = (
        f"{url.username}:{url.password}@tcp({url.host}:{url.port})/{url.database}"
    )
    authentication["spec"]["secretTargetRef"][0]["parameter"] = "connectionString"
    query = trigger_query("mysql", demand_of(POOL, RoutingTable(), (OURS,), OURS))
    scaled["spec"]["triggers"][0] |= {"type": "mysql", "metadata": {"query": query, "queryValue": "1"}}
    here = f"--namespace={namespace}"
    plane.kubectl("create", "deployment", "light", "--image=any", "--replicas=0", here)
    plane.apply(secret, authentication, scaled)
    pool = f"/apis/apps/v1/namespaces/{namespace}/deployments/light"
    try:
        for tasks, replicas in ((33, 3), (16, 1), (0, 0)):
            with engine.begin() as connection:
                connection.execute(sa.text("DELETE FROM task_instance"))
                for _ in range(tasks):
                    row = "INSERT INTO task_instance (state, queue) VALUES ('running', 'default')"
                    connection.execute(sa.text(row))
            moves(plane, pool, replicas, keda)
    finally:
        plane.kubectl("delete", "scaledobject", "light", here, "--timeout=120s")
