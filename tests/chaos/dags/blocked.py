"""A backlog of high priority: pods that fit no node, and messages for a broker that is away."""

from airflow.sdk import DAG
from hurt import work
from kubernetes.client import models as k8s

NOWHERE = {"pod_override": k8s.V1Pod(spec=k8s.V1PodSpec(node_selector={"chaos": "nowhere"}, containers=[]))}

with DAG("blocked_pods", schedule=None, max_active_tasks=300):
    for index in range(200):
        work.override(
            task_id=f"blocked_{index}",
            queue="kubernetes",
            pool="blocked",
            priority_weight=1000,
            executor_config=NOWHERE,
        )(0)

with DAG("nowhere", schedule=None, max_active_runs=10):
    work.override(task_id="nowhere", queue="kubernetes", executor_config=NOWHERE)(0)

with DAG("blocked_messages", schedule=None, max_active_tasks=300):
    for index in range(40):
        work.override(task_id=f"blocked_{index}", pool="blocked", priority_weight=1000)(0)
