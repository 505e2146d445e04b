"""Tasks that start pods and take a result from them, and tasks that wait: on a worker and in a pod."""

from datetime import timedelta

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, task
from kubernetes.client import models as k8s

# As tests/cluster/kubelet/images.py names them.
TINY, PYTHON = "images.test/tiny:1", "images.test/airflow:1"
ACCOUNT = "starter"
COMMON = {"image_pull_policy": "Never", "startup_check_interval_seconds": 1}

#: Keeps a pod from starting for so long that the triggerer sees it.
LATE = k8s.V1Container(name="late", image=TINY, command=["sleep", "20"])
#: A pod that may start pods by its account, which templates of pods leave out.
WITH_ACCOUNT = {
    "pod_override": k8s.V1Pod(
        spec=k8s.V1PodSpec(service_account_name=ACCOUNT, automount_service_account_token=True, containers=[])
    )
}
#: Where a starter runs, and how it comes to the cluster.
WORKER = {"queue": "default", "kubernetes_conn_id": "kubernetes_default"}
POD = {"queue": "kubernetes", "kubernetes_conn_id": "kubernetes_default"}
POD_WITH_ACCOUNT = {
    "queue": "kubernetes",
    "kubernetes_conn_id": "own_account",
    "executor_config": WITH_ACCOUNT,
}


def write(task_id: str, script: str = "", **more: object) -> None:
    KubernetesPodOperator(
        task_id=task_id,
        image=TINY,
        cmds=["sh", "-c", script or 'echo "{\\"by\\": \\"$BY\\"}" > /airflow/xcom/return.json'],
        env_vars={"BY": task_id},
        do_xcom_push=True,
        poll_interval=1,
        **COMMON,
        **more,
    )


with DAG("results", schedule=None):
    write("worker", **WORKER)
    write("worker_deferred", deferrable=True, init_containers=[LATE], **WORKER)
    write("pod_deferred", deferrable=True, **POD)
    write("account", on_finish_action="keep_pod", **POD_WITH_ACCOUNT)

    for where, how in {"worker": WORKER, "pod": POD}.items():

        @task.kubernetes(task_id=f"function_{where}", image=PYTHON, do_xcom_push=True, **COMMON, **how)
        def add(numbers):
            return {"sum": sum(numbers)}

        add([1, 2, 3])

with DAG("fails", schedule=None):
    write("fails", "echo '{}' > /airflow/xcom/return.json; exit 3", retries=0, **WORKER)

with DAG("waits", schedule=None):
    # Long enough for a pod to start before it is over.
    for name, queue in {"worker": "default", "pod": "kubernetes"}.items():
        TimeDeltaSensor(task_id=name, queue=queue, delta=timedelta(seconds=90), deferrable=True)
