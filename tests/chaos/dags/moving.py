"""Tasks that wait for a file: more than a worker takes at once, so that some of them wait in the queue."""

from airflow.sdk import DAG
from hurt import QUEUES, wait_for_file

for kind, name in QUEUES.items():
    with DAG(f"moving_{kind}", schedule=None):
        for number in range(6):
            wait_for_file.override(task_id=f"{kind}_{number}", queue=name)()
