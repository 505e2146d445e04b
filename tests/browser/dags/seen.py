"""Tasks to look at: one of each backend, one that ends when it is let go, and three that don't start."""

import os
import time
from pathlib import Path

from airflow.sdk import dag, task
from kubernetes.client import models as k8s

GO = Path(os.environ["HYBRID_EXAMPLE_FOLDER"]) / "go"

too_large = k8s.V1Pod(
    spec=k8s.V1PodSpec(
        containers=[
            k8s.V1Container(name="base", resources=k8s.V1ResourceRequirements(requests={"memory": "900Gi"}))
        ]
    )
)


@dag(schedule=None)
def seen():
    @task
    def on_a_worker(number: int) -> int:
        print(f"this is number {number}")
        return number

    @task(queue="kubernetes")
    def in_a_pod() -> None:
        print("this is in a pod")

    @task
    def until_it_may_go() -> None:
        while not GO.exists():
            time.sleep(0.2)

    @task(queue="nobody-serves-it")
    def on_a_queue_without_workers() -> None: ...

    @task(queue="kubernetes", executor_config={"pod_override": too_large})
    def larger_than_any_node() -> None: ...

    on_a_worker.expand(number=list(range(12)))
    in_a_pod()
    until_it_may_go()
    on_a_queue_without_workers()
    larger_than_any_node()


seen()
