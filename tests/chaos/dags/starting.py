"""Tasks that start pods themselves: from a worker and from a pod, plain and deferrable."""

from datetime import timedelta

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG
from hurt import FOLDER, QUEUES

#: As the endless tasks: until the file of this run and try appears.
SCRIPT = f"""
trap 'exit 143' TERM
name={FOLDER}/{{{{ run_id }}}}.{{{{ ti.try_number }}}}
while [ ! -e $name ]; do touch $name.{{{{ ti.task_id }}}}.alive; sleep 0.5; done
"""


def start(task_id: str, queue: str, *, deferrable: bool = False, retries: int = 0) -> None:
    KubernetesPodOperator(
        task_id=task_id,
        queue=queue,
        image="any",
        cmds=["sh", "-c", SCRIPT],
        retries=retries,
        retry_delay=timedelta(seconds=1),
        deferrable=deferrable,
        poll_interval=1,
        startup_check_interval_seconds=1,
        termination_grace_period=2,
    )


with DAG("starting", schedule=None, max_active_runs=10):
    for kind, name in QUEUES.items():
        start(f"{kind}_plain", name)
        start(f"{kind}_deferred", name, deferrable=True)

with DAG("starting_again", schedule=None, max_active_runs=10):
    start("starter", QUEUES["heavy"], retries=1)

with DAG("starting_on_spot", schedule=None, max_active_runs=10):
    start("starter", "spot")
