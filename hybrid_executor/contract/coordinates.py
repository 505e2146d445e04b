"""Where a task stands in its DAG's run: Airflow's rows and keys against the address of the model. Pure."""

from typing import Any

from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey

from hybrid_executor.model.attempt import TaskAddress

#: The columns of a task instance's address, but for its try.
ADDRESS = (TaskInstance.dag_id, TaskInstance.task_id, TaskInstance.run_id, TaskInstance.map_index)


def address_of(ti: Any) -> TaskAddress:
    """The address of a task instance: a row of Airflow's, or what Airflow sends of one."""
    return TaskAddress(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
    )


def coordinates_of(address: TaskAddress) -> TaskInstanceKey:
    """Airflow's key of the task instance at this address."""
    return TaskInstanceKey(
        dag_id=address.dag_id,
        task_id=address.task_id,
        run_id=address.run_id,
        try_number=address.try_number,
        map_index=address.map_index,
    )
