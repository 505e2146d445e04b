"""A task that shapes its own pod: a label and an environment variable, both read inside the task."""

import os

from airflow.sdk import dag, task
from kubernetes.client import models as k8s

override = k8s.V1Pod(
    metadata=k8s.V1ObjectMeta(labels={"team": "billing"}),
    spec=k8s.V1PodSpec(
        containers=[
            k8s.V1Container(
                name="base",
                env=[
                    k8s.V1EnvVar(name="GREETING", value="hello from the override"),
                    k8s.V1EnvVar(
                        name="TEAM",
                        value_from=k8s.V1EnvVarSource(
                            field_ref=k8s.V1ObjectFieldSelector(field_path="metadata.labels['team']")
                        ),
                    ),
                ],
            )
        ]
    ),
)


@dag(schedule=None, tags=["hybrid", "demo"], doc_md=__doc__)
def pod_override():
    @task(queue="kubernetes", executor_config={"pod_override": override})
    def read_own_pod() -> dict[str, str]:
        return {"greeting": os.environ["GREETING"], "team": os.environ["TEAM"]}

    read_own_pod()


pod_override()
