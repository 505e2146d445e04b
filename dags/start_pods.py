"""Tasks whose work is done in a pod that they start themselves: any image, Airflow not in it.

What starts the pod runs where its queue says. On a warm worker that costs a slot
(``watched``), or none while the pod runs (``deferred``). In a pod of its own
(``from_a_pod``) there are two pods for one piece of work: right only where the
starter needs something that no worker has. The connection ``kubernetes_default``
says which cluster and namespace.
"""

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import dag

ANY_IMAGE = "busybox:1"


def say(task_id: str, *, queue: str = "default", deferrable: bool = False) -> KubernetesPodOperator:
    """A pod that says who started it."""
    return KubernetesPodOperator(
        task_id=task_id,
        queue=queue,
        image=ANY_IMAGE,
        cmds=["sh", "-c", 'echo "hello from $STARTED_BY"'],
        env_vars={"STARTED_BY": "{{ task_instance_key_str }}"},
        deferrable=deferrable,
        poll_interval=1,
        startup_check_interval_seconds=1,
    )


@dag(schedule=None, tags=["hybrid", "demo"], doc_md=__doc__)
def start_pods():
    say("watched")
    say("deferred", deferrable=True)
    say("from_a_pod", queue="kubernetes")


start_pods()
