"""Tasks whose ``executor_config`` is the dictionary of Airflow 1 and 2: one understood, one not."""

import os
from pathlib import Path

from airflow.sdk import dag, task

UNDERSTOOD = {
    "KubernetesExecutor": {
        "request_memory": "64Mi",
        "labels": {"team": "billing"},
        "annotations": {"test": "annotation"},
        "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "airflow"}],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "volume_mounts": [{"name": "scratch", "mountPath": "/scratch"}],
        "envs": {"GREETING": "hello from Airflow 2"},
    }
}


@dag(schedule=None)
def airflow_2_config():
    @task(queue="kubernetes", executor_config=UNDERSTOOD)
    def understood() -> str:
        print(f"in {Path.cwd()}")
        return os.environ["GREETING"]

    @task(queue="kubernetes", executor_config={"KubernetesExecutor": {"request_ram": "64Mi"}})
    def misspelt() -> None: ...

    understood()
    misspelt()


airflow_2_config()
