"""What is so in Airflow 3.3, and not in all versions: a task instance is one row, which every try changes.

Executors know a task by its coordinates and its try. Chosen by ``edition``.
"""

from typing import TYPE_CHECKING, Any

from airflow.executors.base_executor import BaseExecutor
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.state import TaskInstanceState

from hybrid_executor.contract.coordinates import coordinates_of
from hybrid_executor.model.attempt import Attempt, TaskAddress

if TYPE_CHECKING:
    from collections.abc import Hashable

    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

#: The scopes of tokens that wait with their workload for a worker or a node.
TOKEN_SCOPES = frozenset({"workload"})


class AirflowExecutor(BaseExecutor):
    """An executor that takes callbacks and connection tests, and sends in its own time."""

    supports_callbacks = True
    supports_connection_test = True

    def trigger_tasks(self, open_slots: int) -> None:  # noqa: ARG002
        """Airflow's name for the part of a heartbeat that sends."""
        self.sync()

    @classmethod
    def get_task_key(cls, ti: Any) -> TaskInstanceKey:
        """By what Airflow knows a task instance in executors."""
        key: TaskInstanceKey = ti.key
        return key

    @classmethod
    def get_workload_key(cls, workload: Any) -> "Hashable":
        """By what Airflow knows a workload in executors."""
        key: Hashable = workload.key
        return key

    def locate(self, key: "Hashable", address: TaskAddress) -> None:
        """Say where the task of a key stands, before it is noted in the event log; the key itself says it."""


def key_of(attempt: Attempt) -> "Hashable":
    """By what Airflow knows the attempt's workload in executors."""
    return coordinates_of(attempt.address) if attempt.address else attempt.workload_id


def run_again(ti: "TaskInstance", session: "Session") -> None:
    """Give a running task instance a try more, which begins when it is told that this one has failed.

    It does what Airflow does with a running task that is cleared. The failure
    that follows makes it a try of its own, without looking at retries.
    """
    ti.prepare_db_for_next_try(session)
    ti.max_tries += 1
    ti.state = TaskInstanceState.RESTARTING
