"""What Airflow queues, as attempts, and the words for their ends. Called by the executor; routes nothing."""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeGuard
from uuid import UUID, uuid4

from airflow import settings
from airflow.executors.workloads import ExecuteCallback, ExecuteTask, TestConnection
from airflow.executors.workloads.types import state_class_for_key
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from sqlalchemy import update
from sqlalchemy.orm import Session

from hybrid_executor.contract.coordinates import address_of, coordinates_of
from hybrid_executor.model.attempt import Attempt, Route, TaskAddress, WorkloadKind

log = logging.getLogger("hybrid_executor")

Workload = ExecuteTask | ExecuteCallback | TestConnection


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
        address=address_of(ti),
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


def next_try(address: TaskAddress) -> TaskInstanceKey:
    """Airflow's key of the try that follows a task instance's."""
    return coordinates_of(address)._replace(try_number=address.try_number + 1)


def is_task(workload: Any) -> TypeGuard[ExecuteTask]:
    """Whether it is a task instance, and no callback or connection test."""
    return isinstance(workload, ExecuteTask)


def trace_carrier(workload: Any) -> Mapping[str, str] | None:
    """Which trace the task instance belongs to; None where tracing is off, and for what is no task."""
    return getattr(getattr(workload, "ti", None), "context_carrier", None) or None


def succeeded_state(key: Any) -> Any:
    """The state that says to Airflow: the process of this workload ended well."""
    return state_class_for_key(key).SUCCESS


def failed_state(key: Any) -> Any:
    """The state that says to Airflow: this workload failed."""
    return state_class_for_key(key).FAILED


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
