"""DAGs to be hurt. Each task appends one line to a file when it starts, so that executions can be counted."""

import os
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, get_current_context, task
from kubernetes.client import models as k8s

FOLDER = Path(os.environ["HYBRID_EXAMPLE_FOLDER"])
QUEUES = {"light": "default", "heavy": "kubernetes"}
NOWHERE = {"pod_override": k8s.V1Pod(spec=k8s.V1PodSpec(node_selector={"chaos": "nowhere"}, containers=[]))}


def note(kind: str) -> None:
    """One line, appended in one write."""
    ti = get_current_context()["ti"]
    line = f"{ti.run_id} {ti.task_id} {kind} {time.time():.3f} {os.getpid()}\n"
    file = os.open(FOLDER / "lines", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, line.encode())
    os.close(file)


@task(retries=0)
def work(seconds: float) -> None:
    note("start")
    time.sleep(seconds)
    note("end")


@task(retries=0)
def wait_for_file(name: str) -> None:
    """Until a file appears."""
    note("start")
    while not (FOLDER / name).exists():
        time.sleep(0.5)
    note("end")


def on_both(dag_id: str, each: int, seconds: float) -> None:
    """So many tasks on each backend, and one that waits for all of them."""
    with DAG(dag_id, schedule=None, max_active_tasks=100, max_active_runs=10):
        last = work.override(task_id="last")(0)
        for kind, queue in QUEUES.items():
            for number in range(each):
                work.override(task_id=f"{kind}_{number}", queue=queue)(seconds) >> last


on_both("long", 6, 20)
on_both("short", 3, 1)
on_both("middle", 5, 8)

with DAG("blocked_pods", schedule=None, max_active_tasks=300):
    for index in range(200):
        work.override(
            task_id=f"blocked_{index}",
            queue="kubernetes",
            pool="blocked",
            priority_weight=1000,
            executor_config=NOWHERE,
        )(0)

with DAG("blocked_messages", schedule=None, max_active_tasks=300):
    for index in range(40):
        work.override(task_id=f"blocked_{index}", pool="blocked", priority_weight=1000)(0)

with DAG("twenty_light", schedule=None, max_active_tasks=100):
    for index in range(20):
        work.override(task_id=f"light_{index}", pool="free")(0)

with DAG("four_heavy", schedule=None, max_active_tasks=100):
    for index in range(4):
        work.override(task_id=f"heavy_{index}", queue="kubernetes", pool="free")(0)

for one, name in QUEUES.items():
    with DAG(f"one_{one}", schedule=None, max_active_runs=10):
        work.override(task_id=one, queue=name, execution_timeout=timedelta(minutes=5))(0)
    with DAG(f"endless_{one}", schedule=None, max_active_runs=10):
        wait_for_file.override(task_id=one, queue=name)("{{ run_id }}")
