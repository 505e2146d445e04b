"""Tasks in pods whose environment, to which a test makes the link, does not have the executor's package."""

import importlib.util

from airflow.sdk import DAG, get_current_context, task
from hurt import FOLDER, note, stay
from kubernetes.client import models as k8s

PATH = k8s.V1EnvVar(name="PATH", value=f"{FOLDER}/stock/bin:/usr/local/bin:/usr/bin:/bin")
STOCK = k8s.V1Pod(spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", env=[PATH])]))


def check_stock() -> None:
    if importlib.util.find_spec("hybrid_executor"):
        raise RuntimeError("the package is here")


with DAG("stock_pod", schedule=None, max_active_runs=10):

    @task(queue="kubernetes", retries=0, executor_config={"pod_override": STOCK})
    def heavy() -> None:
        check_stock()
        stay()

    heavy()

with DAG("stock_sensing", schedule=None, max_active_runs=10):

    @task.sensor(
        mode="reschedule",
        poke_interval=1,
        timeout=600,
        queue="kubernetes",
        retries=0,
        executor_config={"pod_override": STOCK},
    )
    def look() -> bool:
        """The first look finds nothing; the second stays until it is let go."""
        check_stock()
        looked = FOLDER / f"{get_current_context()['ti'].run_id}.looked"
        if not looked.exists():
            note("start")
            looked.touch()
            return False
        stay()
        return True

    look()
