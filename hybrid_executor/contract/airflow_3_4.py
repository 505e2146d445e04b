"""What is so in Airflow 3.4, and not in all versions: every try of a task instance is a row of its own.

Executors know a task by the id of that row. Written by 3.4.0b2; chosen by
``edition``. mypy reads this by the oldest version, which lacks what is imported
and inherited here: hence the marks.
"""

from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.executors.base_executor import BaseExecutor
from airflow.executors.workloads import WorkloadType  # type: ignore[attr-defined]
from airflow.executors.workloads.types import TaskInstanceUuid  # type: ignore[attr-defined]
from airflow.utils.state import TaskInstanceState

from hybrid_executor.contract.coordinates import coordinates_of
from hybrid_executor.model.attempt import Attempt, TaskAddress

if TYPE_CHECKING:
    from collections.abc import Hashable

    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

#: The scopes of tokens that wait with their workload for a worker or a node.
TOKEN_SCOPES = frozenset({"workload", "callback"})


class AirflowExecutor(BaseExecutor):
    """An executor that takes every kind of workload, and sends in its own time."""

    supports_task_instance_uuid = True
    supported_workload_types = frozenset(
        {WorkloadType.EXECUTE_TASK, WorkloadType.EXECUTE_CALLBACK, WorkloadType.TEST_CONNECTION}
    )

    def trigger_workloads(self, open_slots: int) -> None:  # noqa: ARG002
        """Airflow's name for the part of a heartbeat that sends."""
        self.sync()

    def locate(self, key: "Hashable", address: TaskAddress) -> None:
        """Say where the task of a key stands, before it is noted in the event log.

        Airflow forgets it of every task that is neither in the base class's
        queues nor in its ``running``, which are not kept here.
        """
        self._task_coordinates[key] = coordinates_of(address)  # type: ignore[attr-defined]


def key_of(attempt: Attempt) -> "Hashable":
    """By what Airflow knows the attempt's workload in executors."""
    key: Hashable = attempt.workload_id
    if attempt.address:
        key = TaskInstanceUuid(UUID(attempt.workload_id))
    return key


def run_again(ti: "TaskInstance", session: "Session") -> None:
    """Archive the try of a running task instance, and put the next one beside it, which waits out its delay.

    Airflow does the same when a try fails that is to be retried. What it does
    with a running task that is cleared would lose the delay and count its
    retries from the start.
    """
    following: Any = ti.prepare_db_for_next_try(session)
    following.max_tries += 1
    following.state = TaskInstanceState.UP_FOR_RETRY
