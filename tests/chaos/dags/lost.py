"""A task on a worker that may be lost, and is tried again."""

from datetime import timedelta

from airflow.sdk import DAG
from hurt import wait_for_file

with DAG("lost_light", schedule=None, max_active_runs=10):
    wait_for_file.override(task_id="light", retries=2, retry_delay=timedelta(seconds=1))()
