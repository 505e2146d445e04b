"""A task whose queue nobody serves: somebody must end it."""

from airflow.sdk import dag, task


@dag(schedule=None)
def withdrawn():
    @task(queue="nobody-serves-it")
    def never_starts() -> None: ...

    never_starts()


withdrawn()
