"""Two tasks that a cluster keeps from starting: for one there is no image, for the other no quota is left."""

from airflow.sdk import dag, task
from kubernetes.client import models as k8s

#: In a registry whose name nobody resolves.
missing_image = k8s.V1Pod(
    spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", image="images.test/team/model:9")])
)


@dag(schedule=None)
def training():
    @task(queue="kubernetes", executor_config={"pod_override": missing_image})
    def train() -> None: ...

    train()


@dag(schedule=None)
def embedding():
    @task(queue="kubernetes")
    def embed() -> None: ...

    embed()


training()
embedding()
