"""Airflow's side: its workloads, its tables, its tokens. The one package that knows its versions.

Holds every SQL statement on Airflow's own tables (but for the autoscaler's, which
is text for others to run: ``scaling.query``) and everything that differs between
Airflow versions: ``edition`` chooses, and ``airflow_3_3`` and ``airflow_3_4`` say
the same things each in its own way. ``AirflowTasks`` implements ``ports.Tasks``;
the rest turns Airflow's workloads into attempts. It decides nothing. The shell
calls it, and what it needs is named here.
"""

from hybrid_executor.contract.adoptable import has_process, name_running, read_adoptable, restart_wait
from hybrid_executor.contract.database import MetadataUnavailable, metadata_engine, own_session
from hybrid_executor.contract.edition import AIRFLOW_VERSION, AirflowExecutor, key_of
from hybrid_executor.contract.queueing import (
    attempt_of,
    ensure_attempt_id,
    failed_state,
    is_task,
    next_try,
    reapply_mutation_hook,
    succeeded_state,
    trace_carrier,
)
from hybrid_executor.contract.tasks import AirflowTasks
from hybrid_executor.contract.tokens import WorkloadTokens
from hybrid_executor.contract.views import (
    RunGroup,
    TaskView,
    live_schedulers,
    run_groups,
    task_views,
    unfinished_by_executor,
    unfinished_by_queue,
)

__all__ = [
    "AIRFLOW_VERSION",
    "AirflowExecutor",
    "AirflowTasks",
    "MetadataUnavailable",
    "RunGroup",
    "TaskView",
    "WorkloadTokens",
    "attempt_of",
    "ensure_attempt_id",
    "failed_state",
    "has_process",
    "is_task",
    "key_of",
    "live_schedulers",
    "metadata_engine",
    "name_running",
    "next_try",
    "own_session",
    "read_adoptable",
    "reapply_mutation_hook",
    "restart_wait",
    "run_groups",
    "succeeded_state",
    "task_views",
    "trace_carrier",
    "unfinished_by_executor",
    "unfinished_by_queue",
]
