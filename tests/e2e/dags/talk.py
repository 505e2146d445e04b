"""A task on each backend that says something, waits to be let go, and says something again."""

import os
import time
from pathlib import Path

from airflow.sdk import dag, get_current_context, task
from kubernetes.client import models as k8s

FOLDER = Path(os.environ["HYBRID_EXAMPLE_FOLDER"])
#: A folder that the API server does not know: whoever shows the pod's log has asked the pod's node.
OWN_LOGS = str(FOLDER / "own-logs")
own_log = k8s.V1Pod(
    spec=k8s.V1PodSpec(
        containers=[
            k8s.V1Container(
                name="base",
                env=[k8s.V1EnvVar(name="AIRFLOW__LOGGING__BASE_LOG_FOLDER", value=OWN_LOGS)],
            )
        ],
    )
)


def talk(place):
    print(f"first words {place}")
    go = FOLDER / get_current_context()["params"]["go"]
    deadline = time.monotonic() + 120
    while not go.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(go)
        time.sleep(0.1)
    print(f"last words {place}")


@dag(schedule=None, params={"go": "go"})
def talk_and_wait():
    @task(queue="kubernetes", executor_config={"pod_override": own_log})
    def in_pod():
        talk("in a pod")

    @task
    def on_worker():
        talk("on a worker")

    in_pod()
    on_worker()


talk_and_wait()
