"""A task that Airflow runs several times in one try: between two looks it gives its slot back."""

from airflow.sdk import DAG, get_current_context, task
from hurt import FOLDER, note

with DAG("sensing", schedule=None, max_active_runs=10):

    @task.sensor(mode="reschedule", poke_interval=5, timeout=600)
    def look() -> bool:
        note("start")
        return (FOLDER / f"{get_current_context()['ti'].run_id}.1").exists()

    look()
