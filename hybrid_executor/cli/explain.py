"""``airflow hybrid explain``: the route of each task of a DAG, as the scheduler would choose it.

Takes the DAG from the metadata database, as the scheduler does, makes task
instances that are never saved, and lets ``task_instance_mutation_hook`` have
its say. What the hook raises is shown in the task's row.
"""

from argparse import Namespace
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.settings import task_instance_mutation_hook
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from airflow.utils.session import NEW_SESSION, provide_session
from sqlalchemy import select
from sqlalchemy.orm import Session

from hybrid_executor.cli.routes import routing_or_exit, show, tell
from hybrid_executor.routing import RoutingTable
from hybrid_executor.settings import Settings, load_settings


@suppress_logs_and_warning
@providers_configuration_loaded
@provide_session
def explain(args: Namespace, session: Session = NEW_SESSION) -> None:
    """Print one row per task."""
    settings = load_settings()
    table = routing_or_exit(settings)
    serialized = SerializedDagModel.get(args.dag_id, session=session)
    if serialized is None:
        raise SystemExit(
            f"DAG {args.dag_id!r} is not in the metadata database; check its id, or whether the DAG processor"
            " could parse its file (airflow dags list-import-errors)"
        )
    run = _run(args.dag_id, args.run_id, session) if args.run_id else None
    # From here on nothing of this may reach the database: a hook may change what it is shown.
    session.expunge_all()
    rows = [
        _row(_task_instance(task, serialized.dag_version_id, args.try_number, run), settings, table)
        for task in _tasks(serialized.dag, args.task_id)
    ]
    if settings.notes:
        tell(settings.notes)
    show(rows, args.output)


def _run(dag_id: str, run_id: str, session: Session) -> DagRun:
    run: DagRun | None = session.scalar(
        select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    )
    if run is None:
        raise SystemExit(f"DAG {dag_id!r} has no run {run_id!r}; see airflow dags list-runs {dag_id}")
    return run


def _tasks(dag: Any, task_id: str | None) -> list[Any]:
    if task_id is None:
        return sorted(dag.tasks, key=lambda task: str(task.task_id))
    if not dag.has_task(task_id):
        raise SystemExit(f"DAG {dag.dag_id!r} has no task {task_id!r}; see airflow tasks list {dag.dag_id}")
    return [dag.get_task(task_id)]


def _task_instance(task: Any, dag_version_id: Any, try_number: int, run: DagRun | None) -> Any:
    """A task instance after the hook, or what the hook raised.

    Airflow calls the hook before it has counted the first try, which is thus 0
    to it; the executor calls it for each later try, by its own number.
    """
    try:
        ti = TaskInstance(task, dag_version_id=dag_version_id, run_id=run.run_id if run else None)
        ti.try_number = 0
        ti.refresh_from_task(task, dag_run=run)
        for later in range(2, try_number + 1):
            ti.try_number = later
            task_instance_mutation_hook(ti, dag_run=run)
    except Exception as error:  # noqa: BLE001 - the hook is the user's code and may raise anything
        return task.task_id, error
    return ti


def _row(found: Any, settings: Settings, table: RoutingTable) -> dict[str, str]:
    if isinstance(found, tuple):
        task_id, error = found
        why = f"task_instance_mutation_hook raised {type(error).__name__}: {error}"
        return _columns(task_id, "", "", "", why)
    if found.executor and not settings.is_ours(found.executor):
        why = f"the task names executor={found.executor!r}: the hybrid executor never sees it"
        return _columns(found.task_id, found.queue, "", "", why)
    route = table.route(found.queue)
    return _columns(found.task_id, found.queue, str(route.backend), route.pod_template_file or "", route.rule)


def _columns(task_id: str, queue: str, backend: str, pod_template: str, rule: str) -> dict[str, str]:
    return {
        "task_id": task_id,
        "queue": queue,
        "backend": backend,
        "pod_template": pod_template,
        "rule": rule,
    }
