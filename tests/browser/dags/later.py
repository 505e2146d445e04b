"""A task that is triggered while the broker is away."""

from airflow.sdk import dag, task


@dag(schedule=None)
def later():
    @task
    def on_a_worker() -> None: ...

    on_a_worker()


later()
