"""Airflow's side: its workloads, its tables, its tokens. The one module that knows its versions.

Holds every SQL statement on Airflow's own tables (but for the autoscaler's, which
is text for others to run: ``scaling.query``) and everything that differs between
Airflow versions (written for 3.3). ``AirflowTasks`` implements ``ports.Tasks``;
the rest turns Airflow's workloads into attempts. It decides nothing.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard, TypeVar
from uuid import UUID, uuid4

from airflow import __version__, settings
from airflow.api_fastapi.auth.tokens import JWTGenerator
from airflow.executors.workloads import ExecuteCallback, ExecuteTask, TestConnection
from airflow.executors.workloads.types import state_class_for_key
from airflow.jobs.job import Job, JobState
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    Text,
    and_,
    cast,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from hybrid_executor.lifecycle import Witness
from hybrid_executor.model.attempt import Attempt, BackendName, Route, TaskAddress, WorkloadKind
from hybrid_executor.model.errors import Unavailable
from hybrid_executor.model.reason import Reason

log = logging.getLogger("hybrid_executor")

AIRFLOW_VERSION: str = __version__
#: Task instances named in one statement; SQLite refuses more than 32,766 variables.
ROWS_AT_ONCE = 2000

#: The key of a task instance that people know, unique in its table.
_KEY = (TaskInstance.dag_id, TaskInstance.task_id, TaskInstance.run_id, TaskInstance.map_index)
TaskKey = tuple[str, str, str, int]
#: Length of the column ``retry_reason``.
RETRY_REASON_MAX = 500

T = TypeVar("T")

Workload = ExecuteTask | ExecuteCallback | TestConnection


class MetadataUnavailable(Unavailable):
    """The metadata database does not answer."""

    reason = Reason.LEDGER_UNAVAILABLE


class WorkloadTokens(JWTGenerator):
    """Signs workload tokens with a life of their own, with the key and claims of another generator.

    Airflow gives them ``[scheduler] task_queued_timeout``, so a task that waits
    longer than that for a worker or a node could never start. For task
    instances the scope admits ``/run`` alone, which swaps the token for a
    short-lived one, so a long life widens nothing else.
    """

    def __init__(self, generator: JWTGenerator, workload_life_s: float) -> None:
        # Airflow's class reads its key from files when constructed: this one only delegates.
        self._generator = generator
        self._workload_life_s = workload_life_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def generate(
        self,
        extras: dict[str, Any] | None = None,
        headers: dict[str, Any] | None = None,
        valid_for: float | None = None,
    ) -> str:
        """Sign; a token of scope ``workload`` lives ``workload_life_s`` seconds."""
        if (extras or {}).get("scope") == "workload":
            valid_for = self._workload_life_s
        return self._generator.generate(extras=extras, headers=headers, valid_for=valid_for)


#: The route of an adopted attempt until the ledger has said which one it took.
ROUTE_UNKNOWN = Route(backend=BackendName.CELERY, rule="unknown")


def attempt_of(
    workload: Workload,
    route: Callable[[str], Route],
    callback_route: Callable[[str], Route],
    default_queue: str,
) -> Attempt:
    """Describe what Airflow handed over.

    ``route`` chooses the backend of tasks; callbacks and connection tests go to
    Celery workers whatever queue they name, because a pod can run neither.
    """
    if isinstance(workload, ExecuteTask):
        return _task_attempt(workload, route)
    if isinstance(workload, ExecuteCallback):
        data = workload.callback.data
        queue = data.get("queue") if isinstance(data, dict) else None
        return _other_attempt(
            WorkloadKind.CALLBACK, workload.callback.id, queue or default_queue, callback_route
        )
    return _other_attempt(
        WorkloadKind.CONNECTION_TEST,
        str(workload.connection_test_id),
        workload.queue or default_queue,
        callback_route,
    )


def _task_attempt(workload: ExecuteTask, route: Callable[[str], Route]) -> Attempt:
    ti = workload.ti
    return Attempt(
        id=str(UUID(ti.external_executor_id)),
        kind=WorkloadKind.TASK,
        workload_id=str(ti.id),
        address=_address(ti),
        queue=ti.queue,
        priority=ti.priority_weight,
        route=route(ti.queue),
        queued_at=datetime.now(UTC),
    )


def _other_attempt(
    kind: WorkloadKind, workload_id: str, queue: str, route: Callable[[str], Route]
) -> Attempt:
    return Attempt(
        id=str(UUID(workload_id)),
        kind=kind,
        workload_id=workload_id,
        address=None,
        queue=queue,
        # Callbacks complete work that is done: Airflow dispatches them before any task.
        priority=2**31,
        route=route(queue),
        queued_at=datetime.now(UTC),
    )


def _address(ti: Any) -> TaskAddress:
    return TaskAddress(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
    )


def key_of(address: TaskAddress) -> TaskInstanceKey:
    """Airflow's key of a task instance."""
    return TaskInstanceKey(
        dag_id=address.dag_id,
        task_id=address.task_id,
        run_id=address.run_id,
        try_number=address.try_number,
        map_index=address.map_index,
    )


def next_try(key: Any) -> TaskInstanceKey:
    """The key of the try that follows a task instance's."""
    return TaskInstanceKey(*key)._replace(try_number=key.try_number + 1)


def is_task(workload: Any) -> TypeGuard[ExecuteTask]:
    """Whether it is a task instance, and no callback or connection test."""
    return isinstance(workload, ExecuteTask)


def succeeded_state(key: Any) -> Any:
    """The state that says to Airflow: the process of this workload ended well."""
    return state_class_for_key(key).SUCCESS


def failed_state(key: Any) -> Any:
    """The state that says to Airflow: this workload failed."""
    return state_class_for_key(key).FAILED


def metadata_engine() -> Engine:
    """Airflow's own engine, with its pool and its settings."""
    engine = settings.engine
    if engine is None:
        raise RuntimeError("Airflow's settings are not initialised: airflow.settings.configure_orm()")
    return engine


def own_session() -> AbstractContextManager[Session]:
    """A session of its own, committed at the end of the block."""
    return create_session(scoped=False)


def ensure_attempt_id(workload: ExecuteTask, session: Session) -> None:
    """Give the attempt a name where the scheduler gave none, in the scheduler's own transaction.

    It does so for a task that names this executor by its class while several
    are configured, and in ``dag.test(use_executor=True)``.
    """
    if workload.ti.external_executor_id:
        return
    workload.ti.external_executor_id = str(uuid4())
    session.execute(
        update(TaskInstance)
        .where(TaskInstance.id == workload.ti.id)
        .values(external_executor_id=workload.ti.external_executor_id)
        .execution_options(synchronize_session=False)
    )


def reapply_mutation_hook(workload: ExecuteTask, session: Session) -> None:
    """Let the site's ``task_instance_mutation_hook`` choose the queue of a retry.

    Airflow 3.3 calls the hook when a task instance is created or cleared and no
    more when it is retried, so a policy such as "the second try runs in a pod",
    which its documentation names, has no effect there. Only the queue is taken
    over. Costs one query per retried task, and nothing where no hook is
    installed. A hook that raises leaves the queue as it was.
    """
    hook = settings.task_instance_mutation_hook
    if workload.ti.try_number < 2 or getattr(hook, "is_noop", False):
        return
    ti = session.get(TaskInstance, workload.ti.id)
    if ti is None:
        return
    try:
        with session.no_autoflush:
            hook(ti, dag_run=ti.dag_run)
        queue = ti.queue
    except Exception:  # a site's hook may raise anything, and must not stop the scheduler
        log.warning(
            "task_instance_mutation_hook failed for %s; its queue stays", workload.ti.key, exc_info=True
        )
        return
    finally:
        session.expunge(ti)
    if queue and queue != workload.ti.queue:
        workload.ti.queue = queue
        session.execute(
            update(TaskInstance)
            .where(TaskInstance.id == workload.ti.id)
            .values(queue=queue)
            .execution_options(synchronize_session=False)
        )


def read_adoptable(tis: Sequence[TaskInstance], session: Session) -> dict[str, Attempt]:
    """The attempts of task instances offered for adoption, by task instance id.

    One query: the rows that Airflow offers have few columns loaded, and each
    other one that is touched costs a query per row. The route is not known
    here: ``route`` of these attempts comes from the ledger.
    """
    columns = (
        TaskInstance.id,
        TaskInstance.dag_id,
        TaskInstance.task_id,
        TaskInstance.run_id,
        TaskInstance.map_index,
        TaskInstance.try_number,
        TaskInstance.queue,
        TaskInstance.priority_weight,
        TaskInstance.external_executor_id,
        TaskInstance.queued_dttm,
    )
    found: dict[str, Attempt] = {}
    for ids in _chunks([ti.id for ti in tis]):
        for row in session.execute(select(*columns).where(TaskInstance.id.in_(ids))):
            attempt_id = _uuid_or_none(row.external_executor_id)
            if attempt_id:
                found[str(row.id)] = Attempt(
                    id=attempt_id,
                    kind=WorkloadKind.TASK,
                    workload_id=str(row.id),
                    address=_address(row),
                    queue=row.queue,
                    priority=row.priority_weight,
                    route=ROUTE_UNKNOWN,
                    queued_at=row.queued_dttm or datetime.now(UTC),
                )
    return found


def has_process(ti: TaskInstance) -> bool:
    """Whether the process of an adoptable task instance has reported itself to Airflow and not its end."""
    return ti.state in (TaskInstanceState.RUNNING, TaskInstanceState.RESTARTING)


def name_running(tis: Iterable[TaskInstance], session: Session) -> frozenset[TaskInstance]:
    """Name the attempts of those that run without a name; Airflow commits it, with the adoption.

    Executors that take no UUID from the scheduler, as the stock Kubernetes
    executor, leave none or their own job's id.
    """
    named = frozenset(ti for ti in tis if has_process(ti) and not _uuid_or_none(ti.external_executor_id))
    for ti in named:
        ti.external_executor_id = str(uuid4())
    # Airflow's sessions don't flush by themselves before a query.
    session.flush()
    return named


def restart_wait(tis: Iterable[TaskInstance]) -> None:
    """Start the clock of ``task_queued_timeout`` anew for adopted ones that are queued; Airflow commits it.

    While no scheduler lived nothing could bring them on, and the scheduler that
    adopts them may look for stuck ones before the executor's next heartbeat.
    """
    for ti in tis:
        if ti.state == TaskInstanceState.QUEUED:
            ti.queued_dttm = datetime.now(UTC)


class AirflowTasks:
    """``ports.Tasks`` over the metadata database, each call in a short transaction of its own."""

    def __init__(self, *, tokens: WorkloadTokens, scheduler_grace_s: float) -> None:
        self._tokens = tokens
        self._scheduler_grace_s = scheduler_grace_s

    def witnesses(self, addresses: Collection[TaskAddress]) -> Mapping[TaskAddress, Witness]:
        """See ``ports.Tasks``."""
        by_key = {(a.dag_id, a.task_id, a.run_id, a.map_index): a for a in addresses}
        found: dict[TaskAddress, Witness] = {}
        with _short_session() as session:
            for keys in _chunks(list(by_key)):
                statement = select(
                    *_KEY,
                    TaskInstance.state,
                    TaskInstance.external_executor_id,
                    TaskInstance.queued_by_job_id,
                    TaskInstance.start_date,
                    TaskInstance.hostname,
                    TaskInstance.retry_reason,
                )
                for row in session.execute(_with_keys(statement, keys, session.get_bind().dialect.name)):
                    found[by_key[row.dag_id, row.task_id, row.run_id, row.map_index]] = Witness(
                        state=str(row.state) if row.state else None,
                        attempt_id=_uuid_or_none(row.external_executor_id),
                        owner=None if row.queued_by_job_id is None else str(row.queued_by_job_id),
                        started_at=row.start_date,
                        host=row.hostname or None,
                        retry_reason=row.retry_reason,
                    )
        return found

    def refresh_queued(self, attempts: Collection[Attempt]) -> None:
        """See ``ports.Tasks``; rows that somebody has locked are passed over: their turn comes again."""
        for chunk in _chunks(sorted(attempts, key=lambda a: a.workload_id)):
            locked = (
                select(TaskInstance.id)
                .where(TaskInstance.id.in_([UUID(a.workload_id) for a in chunk]))
                .where(TaskInstance.state == TaskInstanceState.QUEUED)
                .where(TaskInstance.external_executor_id.in_([a.id for a in chunk]))
                .with_for_update(skip_locked=True)
            )
            with _short_session() as session:
                session.execute(
                    update(TaskInstance)
                    .where(TaskInstance.id.in_(list(session.scalars(locked))))
                    .values(queued_dttm=datetime.now(UTC))
                    .execution_options(synchronize_session=False)
                )

    def restart(self, attempt: Attempt, reason: str, after_s: float) -> bool:
        """See ``ports.Tasks``; raises ``Unavailable`` too while somebody has locked the row.

        It does what Airflow does with a running task that is cleared. The
        failure that follows makes it a try of its own, in RESTARTING without
        looking at retries; ``max_tries`` grows with it, so none is used up.
        """
        running = (
            select(TaskInstance)
            .where(TaskInstance.id == UUID(attempt.workload_id))
            .where(TaskInstance.state == TaskInstanceState.RUNNING)
            .where(TaskInstance.external_executor_id == attempt.id)
            .with_for_update(of=TaskInstance, nowait=True)
        )
        with _short_session() as session:
            ti = session.scalar(running)
            if ti is None:
                return False
            ti.retry_reason = reason[:RETRY_REASON_MAX]
            ti.retry_delay_override = after_s
            ti.prepare_db_for_next_try(session)
            ti.max_tries += 1
            ti.state = TaskInstanceState.RESTARTING
            return True

    def live_owners(self) -> frozenset[str]:
        """See ``ports.Tasks``."""
        return live_schedulers(self._scheduler_grace_s)

    def parcel(self, attempt: Attempt) -> ExecuteTask | None:
        """See ``ports.Tasks``; only a task instance that is still queued as this attempt is to run."""
        if attempt.kind is not WorkloadKind.TASK:
            return None
        with _short_session() as session:
            ti = session.get(TaskInstance, UUID(attempt.workload_id))
            if ti is None or ti.state != TaskInstanceState.QUEUED:
                return None
            if _uuid_or_none(ti.external_executor_id) != attempt.id:
                return None
            return ExecuteTask.make(ti, generator=self._tokens)

    def payload(self, parcel: Workload, *, fresh_token: bool) -> str:
        """See ``ports.Tasks``."""
        if fresh_token:
            subject = {
                ExecuteTask: lambda w: w.ti.id,
                ExecuteCallback: lambda w: w.callback.id,
                TestConnection: lambda w: w.connection_test_id,
            }[type(parcel)](parcel)
            token = type(parcel).generate_token(str(subject), self._tokens)
            parcel = parcel.model_copy(update={"token": token})
        return parcel.model_dump_json()

    def executor_config(self, parcel: Workload) -> Mapping[str, Any] | None:
        """See ``ports.Tasks``."""
        return parcel.ti.executor_config if isinstance(parcel, ExecuteTask) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task instance as Airflow has it, for people. Times are UTC."""

    map_index: int
    #: None for one that is not scheduled yet.
    state: str | None
    try_number: int
    max_tries: int
    queue: str
    #: The executor that it names; None for the default one.
    executor: str | None
    pool: str
    hostname: str | None
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


def task_views(dag_id: str, run_id: str, task_id: str) -> list[TaskView]:
    """The instances of a task in a run, in the order of their map indexes; none if there is no such.

    May raise ``Unavailable``.
    """
    ti = TaskInstance
    columns = (
        ti.map_index,
        ti.state,
        ti.try_number,
        ti.max_tries,
        ti.queue,
        ti.executor,
        ti.pool,
        ti.hostname,
        ti.queued_dttm.label("queued_at"),
        ti.start_date.label("started_at"),
        ti.end_date.label("ended_at"),
    )
    found = (
        select(*columns)
        .where(ti.dag_id == dag_id, ti.run_id == run_id, ti.task_id == task_id)
        .order_by(ti.map_index)
    )
    with _short_session() as session:
        return [TaskView(**row) for row in session.execute(found).mappings()]


def live_schedulers(grace_s: float) -> frozenset[str]:
    """Job ids of the schedulers whose heartbeat is no older than the grace; may raise ``Unavailable``."""
    oldest = datetime.now(UTC) - timedelta(seconds=grace_s)
    statement = select(Job.id).where(
        Job.job_type == "SchedulerJob",
        or_(Job.state == JobState.RUNNING, Job.state.is_(None)),
        Job.latest_heartbeat >= oldest,
    )
    with _short_session() as session:
        return frozenset(str(job_id) for job_id in session.scalars(statement))


def unfinished_by_executor(engine: Engine) -> dict[str, int]:
    """How many scheduled, queued and running task instances name which executor; for the doctor."""
    named = TaskInstance.executor
    states = (TaskInstanceState.SCHEDULED, TaskInstanceState.QUEUED, TaskInstanceState.RUNNING)
    counted = (
        select(named, func.count()).where(named.is_not(None), TaskInstance.state.in_(states)).group_by(named)
    )
    with engine.connect() as connection:
        return {str(name): int(count) for name, count in connection.execute(counted)}


def unfinished_by_queue(engine: Engine) -> dict[str, int]:
    """How many scheduled, queued and running task instances are on which queue; for the doctor."""
    states = (TaskInstanceState.SCHEDULED, TaskInstanceState.QUEUED, TaskInstanceState.RUNNING)
    counted = (
        select(TaskInstance.queue, func.count())
        .where(TaskInstance.queue.is_not(None), TaskInstance.state.in_(states))
        .group_by(TaskInstance.queue)
    )
    with engine.connect() as connection:
        return {str(queue): int(count) for queue, count in connection.execute(counted)}


@contextmanager
def _short_session() -> Iterator[Session]:
    """A transaction of our own, apart from the scheduler's thread-local session."""
    try:
        with create_session(scoped=False) as session:
            yield session
    except SQLAlchemyError as error:
        raise MetadataUnavailable(f"the metadata database does not answer: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _uuid_or_none(text: str | None) -> str | None:
    """The attempt's name; None for what another executor wrote there."""
    try:
        return str(UUID(text)) if text else None
    except ValueError:
        return None


def _with_keys(query: Any, keys: Sequence[TaskKey], dialect: str) -> Any:
    """A SELECT from ``task_instance``, for the rows with these keys."""
    if dialect != "postgresql":
        return query.where(tuple_(*_KEY).in_(keys))
    # A list of rows is compared with every row of the table, one after the other, wherever the planner does
    # not know the table well: seconds for 2,000. Another table is joined by the index.
    kinds = (Text, Text, Text, Integer)
    arrays: list[Any] = [
        cast(literal(list(values), postgresql.ARRAY(kind)), postgresql.ARRAY(kind))
        for values, kind in zip(zip(*keys, strict=True), kinds, strict=True)
    ]
    columns = [Column(column.name, kind) for column, kind in zip(_KEY, kinds, strict=True)]
    asked = func.unnest(*arrays).table_valued(*columns).render_derived(name="asked")
    return query.join(asked, and_(*(column == asked.c[column.name] for column in _KEY)))


def _chunks(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), ROWS_AT_ONCE):
        yield items[start : start + ROWS_AT_ONCE]
