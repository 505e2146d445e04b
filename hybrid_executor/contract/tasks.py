"""``ports.Tasks`` over Airflow's tables: what the controller asks, in short transactions. Decides nothing."""

from collections import defaultdict
from collections.abc import Collection, Container, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from airflow.executors.workloads import ExecuteCallback, ExecuteTask, TestConnection
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState
from sqlalchemy import Column, Integer, Text, and_, cast, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql

from hybrid_executor.contract.coordinates import ADDRESS
from hybrid_executor.contract.database import chunks, short_session, uuid_or_none
from hybrid_executor.contract.edition import run_again
from hybrid_executor.contract.queueing import Workload
from hybrid_executor.contract.tokens import WorkloadTokens
from hybrid_executor.contract.views import live_schedulers
from hybrid_executor.lifecycle import Witness
from hybrid_executor.model.attempt import Attempt, TaskAddress, WorkloadKind

TaskKey = tuple[str, str, str, int]
#: Length of the column ``retry_reason``.
RETRY_REASON_MAX = 500


class AirflowTasks:
    """``ports.Tasks`` over the metadata database, each call in a short transaction of its own."""

    def __init__(self, *, tokens: WorkloadTokens, scheduler_grace_s: float) -> None:
        self._tokens = tokens
        self._scheduler_grace_s = scheduler_grace_s

    def witnesses(self, attempts: Mapping[str, TaskAddress]) -> Mapping[str, Witness]:
        """See ``ports.Tasks``."""
        wanted: defaultdict[TaskKey, list[str]] = defaultdict(list)
        for attempt_id, address in attempts.items():
            wanted[address.dag_id, address.task_id, address.run_id, address.map_index].append(attempt_id)
        statement = select(
            *ADDRESS,
            TaskInstance.state,
            TaskInstance.external_executor_id,
            TaskInstance.queued_by_job_id,
            TaskInstance.start_date,
            TaskInstance.hostname,
            TaskInstance.retry_reason,
        )
        found: dict[str, Witness] = {}
        with short_session() as session:
            for keys in chunks(list(wanted)):
                for row in session.execute(_with_keys(statement, keys, session.get_bind().dialect.name)):
                    witness = _witness_of(row, attempts)
                    for attempt_id in wanted[row.dag_id, row.task_id, row.run_id, row.map_index]:
                        if attempt_id not in found or witness.attempt_id == attempt_id:
                            found[attempt_id] = witness
        return found

    def not_running(self, attempts: Mapping[str, TaskAddress], owner: str) -> Mapping[str, Witness | None]:
        """See ``ports.Tasks``; on PostgreSQL the server leaves them out, elsewhere this does."""
        asked = self._named_otherwise(attempts, owner)
        found = self.witnesses({name: attempts[name] for name in asked}) if asked else {}
        return {
            name: witness
            for name in asked
            if not ((witness := found.get(name)) and witness.is_running_as(name, owner))
        }

    def _named_otherwise(self, attempts: Mapping[str, TaskAddress], owner: str) -> Collection[str]:
        """Those of which some row at their address, or none, says anything but that they run."""
        named: set[str] = set()
        with short_session() as session:
            if session.get_bind().dialect.name != "postgresql":
                return attempts.keys()
            for chunk in chunks(list(attempts.items())):
                named.update(session.scalars(_other_than_running(chunk, owner)))
        return named

    def refresh_queued(self, attempts: Collection[Attempt]) -> None:
        """See ``ports.Tasks``; rows that somebody has locked are passed over: their turn comes again."""
        for chunk in chunks(sorted(attempts, key=lambda a: a.workload_id)):
            locked = (
                select(TaskInstance.id)
                .where(TaskInstance.id.in_([UUID(a.workload_id) for a in chunk]))
                .where(TaskInstance.state == TaskInstanceState.QUEUED)
                .where(TaskInstance.external_executor_id.in_([a.id for a in chunk]))
                .with_for_update(skip_locked=True)
            )
            with short_session() as session:
                session.execute(
                    update(TaskInstance)
                    .where(TaskInstance.id.in_(list(session.scalars(locked))))
                    .values(queued_dttm=datetime.now(UTC))
                    .execution_options(synchronize_session=False)
                )

    def restart(self, attempt: Attempt, reason: str, after_s: float) -> bool:
        """See ``ports.Tasks``; raises ``Unavailable`` too while somebody has locked the row."""
        running = (
            select(TaskInstance)
            .where(TaskInstance.id == UUID(attempt.workload_id))
            .where(TaskInstance.state == TaskInstanceState.RUNNING)
            .where(TaskInstance.external_executor_id == attempt.id)
            .with_for_update(of=TaskInstance, nowait=True)
        )
        with short_session() as session:
            ti = session.scalar(running)
            if ti is None:
                return False
            ti.retry_reason = reason[:RETRY_REASON_MAX]
            ti.retry_delay_override = after_s
            run_again(ti, session)
            return True

    def live_owners(self) -> frozenset[str]:
        """See ``ports.Tasks``."""
        return live_schedulers(self._scheduler_grace_s)

    def parcel(self, attempt: Attempt) -> ExecuteTask | None:
        """See ``ports.Tasks``; only a task instance that is still queued as this attempt is to run."""
        if attempt.kind is not WorkloadKind.TASK:
            return None
        with short_session() as session:
            ti = session.get(TaskInstance, UUID(attempt.workload_id))
            if ti is None or ti.state != TaskInstanceState.QUEUED:
                return None
            if uuid_or_none(ti.external_executor_id) != attempt.id:
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


def _witness_of(row: Any, known: Container[str]) -> Witness:
    """``known`` are attempts by their names as we write them: such a text need not be read as a UUID."""
    carried = row.external_executor_id
    return Witness(
        state=str(row.state) if row.state else None,
        attempt_id=carried if carried in known else uuid_or_none(carried),
        owner=None if row.queued_by_job_id is None else str(row.queued_by_job_id),
        started_at=row.start_date,
        host=row.hostname or None,
        retry_reason=row.retry_reason,
    )


def _with_keys(query: Any, keys: Sequence[TaskKey], dialect: str) -> Any:
    """A SELECT from ``task_instance``, for the rows with these keys."""
    if dialect != "postgresql":
        return query.where(tuple_(*ADDRESS).in_(keys))
    asked = _asked(keys)
    return query.join(asked, _at(asked))


def _other_than_running(attempts: Sequence[tuple[str, TaskAddress]], owner: str) -> Any:
    """A SELECT of the names of those that ``is_running_as`` does not hold for; PostgreSQL's.

    An attempt is named as well if one of several rows at its address is another's.
    """
    asked = _asked(
        [(at.dag_id, at.task_id, at.run_id, at.map_index, name) for name, at in attempts],
        Column("attempt", Text),
    )
    is_other = or_(
        TaskInstance.state.is_distinct_from(TaskInstanceState.RUNNING),
        TaskInstance.external_executor_id.is_distinct_from(asked.c.attempt),
        cast(TaskInstance.queued_by_job_id, Text) != owner,
    )
    return select(asked.c.attempt).outerjoin_from(asked, TaskInstance, _at(asked)).where(is_other)


def _asked(rows: Sequence[tuple[Any, ...]], *more: Column[Any]) -> Any:
    """These rows as a table: an address, and more.

    A list of rows is compared with every row of ``task_instance``, one after the
    other, wherever the planner does not know that table well: seconds for 2,000.
    Another table is joined by the index.
    """
    kinds = (Text, Text, Text, Integer)
    columns = [*(Column(column.name, kind) for column, kind in zip(ADDRESS, kinds, strict=True)), *more]
    arrays: list[Any] = [
        cast(literal(list(values), postgresql.ARRAY(column.type)), postgresql.ARRAY(column.type))
        for values, column in zip(zip(*rows, strict=True), columns, strict=True)
    ]
    return func.unnest(*arrays).table_valued(*columns).render_derived(name="asked")


def _at(asked: Any) -> Any:
    """That a task instance is at an address which is asked for."""
    return and_(*(column == asked.c[column.name] for column in ADDRESS))
