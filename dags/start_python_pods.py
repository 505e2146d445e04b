"""A Python function in a pod that its task starts: any image with Python, Airflow not in it.

The provider writes the function to ``/tmp/script.py`` in the pod. Pods on a node of
processes share ``/tmp`` with everybody on the machine, so ``make demo`` leaves this
one to you: trigger it in Airflow's UI.
"""

from airflow.sdk import dag, task

PYTHON_IMAGE = "python:3.12-slim"


@dag(schedule=None, tags=["hybrid"], doc_md=__doc__)
def start_python_pods():
    @task.kubernetes(image=PYTHON_IMAGE, startup_check_interval_seconds=1)
    def count(numbers: list[int]) -> None:
        import sys  # noqa: PLC0415 - the function alone is sent to the other image

        print(f"{sum(numbers)} by {sys.argv[0]} on Python {sys.version_info.major}")

    count([1, 2, 3])


start_python_pods()
