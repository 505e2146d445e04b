"""What the sides of figures have in common: task instances, workloads, both executors, results of workers.

Used inside a side's process, whose environment names its servers. Both
executors get the same rows and workloads; a stock executor is only called as
the scheduler calls it.
"""

import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import redis
from sqlalchemy import event, text

from bench.meter import until

JOB = 1
#: As long as Airflow's own are.
TOKEN = "e" * 400
#: Of the task that is copied: everything but what tells copies apart.
COPIED = (
    "max_tries, pool, pool_slots, priority_weight, operator, span_status, dag_version_id, executor_config,"
    " task_display_name"
)


def engine() -> Any:
    """Airflow's own."""
    from airflow import settings

    return settings.engine


def add_tasks(count: int, *, state: str = "queued", queue: str = "default") -> list[Any]:
    """Give the DAG's run so many more task instances, and return their workloads."""
    statement = f"""
    INSERT INTO task_instance
        (id, task_id, dag_id, run_id, map_index, try_number, state, queue, queued_dttm, queued_by_job_id,
         start_date, last_heartbeat_at, external_executor_id, {COPIED})
    SELECT gen_random_uuid(), task_id, dag_id, run_id,
           (SELECT max(map_index) FROM task_instance WHERE task_id = 'work') + g,
           1, :state, :queue, now(), :job, CASE WHEN :state = 'running' THEN now() END, now(),
           gen_random_uuid()::text, {COPIED}
    FROM task_instance, generate_series(1, :count) AS g
    WHERE task_id = 'work' AND map_index = (SELECT min(map_index) FROM task_instance WHERE task_id = 'work')
    RETURNING id, task_id, dag_id, run_id, map_index, try_number, queue, pool_slots, priority_weight,
        dag_version_id, external_executor_id
    """  # noqa: S608 - names of columns
    values = {"state": state, "queue": queue, "count": count, "job": JOB}
    with engine().begin() as connection:
        rows = list(connection.execute(text(statement), values).mappings())
    return [workload_of(row) for row in rows]


def workload_of(row: Any) -> Any:
    """As the scheduler makes it."""
    from airflow.executors.workloads import BundleInfo, ExecuteTask
    from airflow.executors.workloads.task import TaskInstanceDTO

    return ExecuteTask(
        ti=TaskInstanceDTO(**row),
        token=TOKEN,
        dag_rel_path="bench.py",
        bundle_info=BundleInfo(name="dags-folder"),
        log_path=f"dag_id=bench/run_id={row['run_id']}/task_id=work/map_index={row['map_index']}/attempt=1.log",
    )


def set_state(workloads: Iterable[Any], state: str) -> None:
    """What the Execution API writes when a process has reported."""
    ids = [str(workload.ti.id) for workload in workloads]
    statement = (
        "UPDATE task_instance SET state = :state, end_date = now() WHERE id = ANY(CAST(:ids AS uuid[]))"
    )
    with engine().begin() as connection:
        connection.execute(text(statement), {"state": state, "ids": ids})


@cache
def valkey() -> redis.Redis:
    """This side's own number, without the added latency."""
    return redis.Redis.from_url(os.environ["BENCH_VALKEY"])


def commands() -> int:
    """How many commands the server has had."""
    return int(valkey().info("stats")["total_commands_processed"])


class Statements:
    """Counts what is sent to the database over Airflow's engine.

    But for what the thread that tells Flower of pods asks every two seconds, whatever is measured.
    """

    def __init__(self) -> None:
        self.count = 0
        event.listen(engine(), "before_cursor_execute", self._sent)

    def _sent(self, *_: Any) -> None:
        self.count += threading.current_thread().name != "hybrid-flower"


def store_results(task_ids: Sequence[str], status: str) -> None:
    """What workers store of so many tasks: Celery's own bytes, set and published, in pipelines."""
    from airflow.providers.celery.executors.celery_executor_utils import app

    result = {"pid": 1, "hostname": "celery@bench"} if status == "STARTED" else None
    store = app.backend
    for start in range(0, len(task_ids), 1000):
        pipeline = valkey().pipeline(transaction=False)
        for task_id in task_ids[start : start + 1000]:
            meta = {"status": status, "result": result, "traceback": None, "children": []}
            meta |= {"date_done": datetime.now(UTC).isoformat(), "task_id": task_id}
            key, value = store.get_key_for_task(task_id), json.dumps(meta)
            pipeline.setex(key, 86400, value)
            pipeline.publish(key, value)
        pipeline.execute()


def task_ids(workloads: Iterable[Any]) -> list[str]:
    return [workload.ti.external_executor_id for workload in workloads]


def scheduler_session() -> Any:
    """A session as the scheduler's, with a transaction open."""
    from airflow.utils.session import create_session

    return create_session(scoped=False)


def stock_celery(**settings: Any) -> Any:
    """Started as the scheduler starts it."""
    from airflow.providers.celery.executors.celery_executor import CeleryExecutor

    return _started(CeleryExecutor(**settings), "CeleryExecutor")


def stock_kubernetes() -> Any:
    """Started as the scheduler starts it."""
    from airflow.providers.cncf.kubernetes.executors.kubernetes_executor import KubernetesExecutor

    return _started(KubernetesExecutor(), "KubernetesExecutor")


def ours(job: int = JOB) -> Any:
    """Started as the scheduler starts it, with all that is on by default."""
    from hybrid_executor.executor import HybridExecutor

    return _started(HybridExecutor(), "hybrid_executor.HybridExecutor", job)


def _started(executor: Any, path: str, job: int = JOB) -> Any:
    from airflow.executors.executor_utils import ExecutorName

    executor.name = ExecutorName(path, alias=None)
    executor.job_id = job
    executor.start()
    return executor


def queue(executor: Any, workloads: Iterable[Any]) -> None:
    """The scheduler's transaction."""
    with scheduler_session() as session:
        session.execute(text("SELECT 1"))
        for workload in workloads:
            executor.queue_workload(workload, session)


def cluster() -> tuple[str, str]:
    """This side's kubeconfig and namespace."""
    section = "AIRFLOW__KUBERNETES_EXECUTOR__"
    return os.environ[f"{section}CONFIG_FILE"], os.environ[f"{section}NAMESPACE"]


@cache
def _pods() -> Any:
    import kubernetes

    return kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(cluster()[0]))


def pods_left() -> bool:
    """Whether this side's namespace has any."""
    return bool(_pods().list_namespaced_pod(cluster()[1], limit=1).items)


class Ours:
    """Our executor, and what of it a round has to wait for."""

    def __init__(self) -> None:
        from hybrid_executor.model.attempt import BackendName

        self.executor = ours()
        self.controller = self.executor.controller
        self.celery = self.executor.backends[BackendName.CELERY]
        self.pods = self.executor.backends[BackendName.KUBERNETES]

    def heard(self, count: int, what: str) -> None:
        """Wait until the Celery backend has so many answers of this kind for the next heartbeat."""
        until(lambda: len(self.celery._seen) >= count, f"{count} {what}", pause_s=2e-4)

    def end_round(self) -> None:
        """Leave out the rest of a round of the comparisons, which begin every ten seconds."""
        self.controller._reconciler._round.clear()

    def put_off_round(self) -> None:
        """Let the next not begin now: it is due by the clock, maybe just when something is counted."""
        self.controller._reconciler._began_s = time.monotonic()

    def settle(self) -> None:
        """Wait until no thread has anything left to do of what was told."""
        until(self._is_idle, "our threads to be done")

    def _is_idle(self) -> bool:
        live, push = self.executor._live, self.celery._observer._push
        writes = live is not None and (len(live._backlog) or live._sending)
        return not (writes or push._joining or push._leaving or not self.celery._observer._orders.empty())

    def send(self, workloads: Sequence[Any]) -> None:
        """Queue, hand over, and wait until all are accepted and that is recorded."""
        queue(self.executor, workloads)
        self.executor.heartbeat()
        self.heard(len(workloads), "answers of the broker")
        self.executor.heartbeat()
        self.executor.event_buffer.clear()

    def start_all(self, workloads: Sequence[Any]) -> None:
        """Workers have taken all of them, and the executor knows."""
        wanted = self._started_count() + len(workloads)
        store_results(task_ids(workloads), "STARTED")

        def known() -> bool:
            self.executor.heartbeat()
            return self._started_count() >= wanted

        until(known, "all to have started", deadline_s=120 + len(workloads) / 100, pause_s=0.05)
        self.settle()

    def _started_count(self) -> int:
        from hybrid_executor.lifecycle import Phase

        return sum(counts[Phase.STARTED] for counts in self.controller.inflight._counts.values())
