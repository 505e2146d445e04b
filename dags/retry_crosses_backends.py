"""A task whose first try runs on a worker, and whose second runs in a pod.

The rule is a cluster policy, ``task_instance_mutation_hook`` in
``policy/airflow_local_settings.py``: a site decides it, not a DAG.
"""

import os
from datetime import timedelta

from airflow.sdk import dag, get_current_context, task


@dag(schedule=None, tags=["hybrid", "demo"], doc_md=__doc__)
def retry_crosses_backends():
    @task(retries=1, retry_delay=timedelta(seconds=1))
    def outgrows_its_worker() -> str:
        in_pod = bool(os.environ.get("AIRFLOW_IS_K8S_EXECUTOR_POD"))
        if get_current_context()["ti"].try_number == 1:
            raise MemoryError("this worker slot is too small; the next try gets a pod")
        return "pod" if in_pod else "worker"

    outgrows_its_worker()


retry_crosses_backends()
