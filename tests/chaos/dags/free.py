"""The DAGs that must not be delayed by the blocked ones."""

from airflow.sdk import DAG
from hurt import work

with DAG("twenty_light", schedule=None, max_active_tasks=100):
    for index in range(20):
        work.override(task_id=f"light_{index}", pool="free")(0)

with DAG("four_heavy", schedule=None, max_active_tasks=100):
    for index in range(4):
        work.override(task_id=f"heavy_{index}", queue="kubernetes", pool="free")(0)
