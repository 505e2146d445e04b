"""Task instances that Airflow offers for adoption. Called by ``adoption``; decides nothing."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import uuid4

from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select
from sqlalchemy.orm import Session

from hybrid_executor.contract.coordinates import ADDRESS, address_of
from hybrid_executor.contract.database import chunks, uuid_or_none
from hybrid_executor.model.attempt import Attempt, BackendName, Route, WorkloadKind

#: The route of an adopted attempt until the ledger has said which one it took.
ROUTE_UNKNOWN = Route(backend=BackendName.CELERY, rule="unknown")


def read_adoptable(tis: Sequence[TaskInstance], session: Session) -> dict[str, Attempt]:
    """The attempts of task instances offered for adoption, by task instance id.

    One query: the rows that Airflow offers have few columns loaded, and each
    other one that is touched costs a query per row. The route is not known
    here: ``route`` of these attempts comes from the ledger.
    """
    columns = (
        TaskInstance.id,
        *ADDRESS,
        TaskInstance.try_number,
        TaskInstance.queue,
        TaskInstance.priority_weight,
        TaskInstance.external_executor_id,
        TaskInstance.queued_dttm,
    )
    found: dict[str, Attempt] = {}
    for ids in chunks([ti.id for ti in tis]):
        for row in session.execute(select(*columns).where(TaskInstance.id.in_(ids))):
            attempt_id = uuid_or_none(row.external_executor_id)
            if attempt_id:
                found[str(row.id)] = Attempt(
                    id=attempt_id,
                    kind=WorkloadKind.TASK,
                    workload_id=str(row.id),
                    address=address_of(row),
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
    named = frozenset(ti for ti in tis if has_process(ti) and not uuid_or_none(ti.external_executor_id))
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
