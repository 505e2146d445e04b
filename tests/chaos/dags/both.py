"""DAGs with tasks on both backends; apart from the large ones, as every task reads its whole file."""

from airflow.sdk import DAG
from hurt import QUEUES, on_both, wait_for_file, work

on_both("long", work, [20] * 6)
on_both("short", work, [1] * 3)
# They end from the moment on when a test lets them go.
on_both("held", wait_for_file, [0, 2, 4, 6, 8])

for one, name in QUEUES.items():
    with DAG(f"one_{one}", schedule=None, max_active_runs=10):
        work.override(task_id=one, queue=name)(0)
    with DAG(f"endless_{one}", schedule=None, max_active_runs=10):
        wait_for_file.override(task_id=one, queue=name)()
