"""Who asks, and what Airflow's auth manager lets them see: the one place where the page's rights are decided.

A user needs what Airflow itself asks of who lists task instances, sees the DAGs
that they may read, and sees what is of no DAG (workers, pools, callbacks) with
the right to see the cluster's activity. Every route of ``app`` depends on it.
"""

from dataclasses import dataclass
from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    AccessView,
    DagAccessEntity,
    DagDetails,
)
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException, status

from hybrid_executor.plugin.questions import Word


@dataclass(frozen=True, slots=True)
class Reader:
    """A user with their rights, at the time of one request."""

    user_id: str
    #: The DAGs whose rows they see; None among them stands for what is of no DAG.
    dag_ids: frozenset[str | None]
    sees_cluster: bool


def reader(user: GetUserDep) -> Reader:
    """Who asks; 401 for a stranger, 403 for who may see no task instances at all."""
    manager = get_auth_manager()
    if not manager.is_authorized_dag(method="GET", access_entity=DagAccessEntity.TASK_INSTANCE, user=user):
        raise HTTPException(status.HTTP_403_FORBIDDEN, "You may not see task instances")
    sees_cluster = manager.is_authorized_view(access_view=AccessView.CLUSTER_ACTIVITY, user=user)
    dag_ids: frozenset[str | None] = frozenset(manager.get_authorized_dag_ids(user=user, method="GET"))
    return Reader(user.get_id(), dag_ids | {None} if sees_cluster else dag_ids, sees_cluster)


ReaderDep = Annotated[Reader, Depends(reader)]


def cluster_reader(who: ReaderDep) -> Reader:
    """403 for who may not see what is of no DAG."""
    if not who.sees_cluster:
        raise HTTPException(status.HTTP_403_FORBIDDEN, "You may not see the cluster's activity")
    return who


def task_reader(dag_id: Word, user: GetUserDep) -> str:
    """403 for who may not see the task instances of this DAG, whether or not there is such a DAG."""
    allowed = get_auth_manager().is_authorized_dag(
        method="GET",
        access_entity=DagAccessEntity.TASK_INSTANCE,
        details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id)),
        user=user,
    )
    if not allowed:
        raise HTTPException(status.HTTP_403_FORBIDDEN, "You may not see the task instances of this DAG")
    return dag_id
