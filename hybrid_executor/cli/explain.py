"""``airflow hybrid explain``: the route of each task of a DAG, as the scheduler would choose it, and its pod.

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

from hybrid_executor.cli.explainpod import EXAMPLE_RUN, explain_pod, show_pod
from hybrid_executor.cli.routes import routing_or_exit, show, tell
from hybrid_executor.model.attempt import BackendName, TaskAddress
from hybrid_executor.routing import RoutingTable
from hybrid_executor.settings import Settings, load_settings

POD_THAT_STARTS_A_POD = (
    "a pod that only starts a pod: on a Celery queue the operator needs none of its own, and less waiting"
)
FORGIVEN = "costs no retry: {}; its image needs the package hybrid_executor, as the scheduler has it"
#: Those whose names don't end as KubernetesPodOperator does.
_START_PODS = frozenset(
    {
        "_KubernetesDecoratedOperator",
        "_KubernetesCmdDecoratedOperator",
        "KubernetesJobOperator",
        "KubernetesStartKueueJobOperator",
        "SparkKubernetesOperator",
        "GKEStartPodOperator",
        "GKEStartJobOperator",
        "EksPodOperator",
    }
)


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
    if args.pod and args.task_id is None:
        raise SystemExit("--pod shows the pod of one task; name it after the DAG")
    run = _run(args.dag_id, args.run_id, session) if args.run_id else None
    # From here on nothing of this may reach the database: a hook may change what it is shown.
    session.expunge_all()
    tasks = _tasks(serialized.dag, args.task_id)
    found = [_task_instance(task, serialized.dag_version_id, args.try_number, run) for task in tasks]
    if settings.notes:
        tell(settings.notes)
    if args.pod:
        _show_pod(tasks[0], found[0], settings, table, args)
    else:
        show([_row(*pair, settings, table) for pair in zip(tasks, found, strict=True)], args.output)


def _show_pod(task: Any, found: Any, settings: Settings, table: RoutingTable, args: Namespace) -> None:
    row = _row(task, found, settings, table)
    if not row["backend"]:
        raise SystemExit(f"{args.dag_id}.{args.task_id} has no pod: {row['rule']}")
    address = TaskAddress(
        dag_id=args.dag_id,
        task_id=args.task_id,
        run_id=args.run_id or EXAMPLE_RUN,
        map_index=0 if task.is_mapped else -1,
        try_number=args.try_number,
    )
    explained = explain_pod(found, address, table.route(found.queue), settings)
    title = (
        f"{args.dag_id}.{args.task_id}, queue {row['queue']} ({row['rule']}): the pod as the scheduler would"
        " send it, but for the token. The ids of attempt, job and run are examples."
    )
    mapped = "mapped: this is the pod of map_index 0" if task.is_mapped else ""
    notes = [row["note"], mapped, explained.deprecation]
    show_pod(explained, title, [note for note in notes if note], args.output)


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
        return error
    return ti


def _row(task: Any, found: Any, settings: Settings, table: RoutingTable) -> dict[str, str]:
    if isinstance(found, Exception):
        why = f"task_instance_mutation_hook raised {type(found).__name__}: {found}"
        return _columns(task, rule=why)
    if found.executor and not settings.is_ours(found.executor):
        why = f"the task names executor={found.executor!r}: the hybrid executor never sees it"
        return _columns(task, queue=found.queue, rule=why)
    route = table.route(found.queue)
    in_pod = route.backend is BackendName.KUBERNETES
    notes = [
        POD_THAT_STARTS_A_POD if in_pod and starts_a_pod(task.task_type) else "",
        FORGIVEN.format(route.forgives) if route.forgives else "",
    ]
    return _columns(
        task,
        queue=found.queue,
        backend=str(route.backend),
        cluster=route.cluster,
        pod_template=route.pod_template_file or "",
        rule=route.rule,
        note="; ".join(note for note in notes if note),
    )


def _columns(task: Any, **values: str) -> dict[str, str]:
    columns = ("queue", "backend", "cluster", "pod_template", "rule", "note")
    return {"task_id": task.task_id} | {name: values.get(name, "") for name in columns}


def starts_a_pod(task_type: str) -> bool:
    """Whether an operator, by the name of its class, does its work in a pod that it starts itself."""
    return task_type.endswith("KubernetesPodOperator") or task_type in _START_PODS
