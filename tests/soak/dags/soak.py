"""Many tasks without code of their own: the world of the soak test plays it, on workers and in pods."""

from datetime import timedelta

from airflow.sdk import DAG, task

with DAG(
    "soak",
    schedule=None,
    max_active_runs=100,
    max_active_tasks=2000,
    # Only what a kill or a user has ended needs another try.
    default_args={
        "retries": 20,
        "retry_delay": timedelta(seconds=1),
        "max_retry_delay": timedelta(seconds=3),
    },
):

    @task
    def light(number: int) -> None:
        """Goes to a Celery worker."""

    @task(queue="kubernetes")
    def heavy(number: int) -> None:
        """Goes to a pod."""

    light.expand(number=list(range(92)))
    heavy.expand(number=list(range(8)))
