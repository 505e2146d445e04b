"""DAGs with tasks on both backends; apart from the large ones, as every task reads its whole file."""

from airflow.sdk import DAG
from hurt import QUEUES, on_both, wait_for_file, work

on_both("long", 6, 20)
on_both("short", 3, 1)
on_both("middle", 5, 8)

for one, name in QUEUES.items():
    with DAG(f"one_{one}", schedule=None, max_active_runs=10):
        work.override(task_id=one, queue=name)(0)
    with DAG(f"endless_{one}", schedule=None, max_active_runs=10):
        wait_for_file.override(task_id=one, queue=name)()
