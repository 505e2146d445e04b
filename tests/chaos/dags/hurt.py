"""What the tasks of these DAGs do: each appends a line to a file when it starts, so that executions count."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task

FOLDER = Path(os.environ["HYBRID_EXAMPLE_FOLDER"])
QUEUES = {"light": "default", "heavy": "kubernetes"}


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


def stay(seconds: float = 0) -> None:
    """Until so long after the file of this run and try appears; shows by another that its process lives."""
    ti = get_current_context()["ti"]
    note("start")
    name = f"{ti.run_id}.{ti.try_number}"
    while not (FOLDER / name).exists():
        for alive in (f"{name}.alive", f"{name}.{ti.task_id}.alive"):
            (FOLDER / alive).touch()
        time.sleep(0.5)
    time.sleep(seconds)
    note("end")


@task(retries=0)
def wait_for_file(seconds: float = 0) -> None:
    stay(seconds)


def on_both(dag_id: str, what: Any, seconds: Sequence[float]) -> None:
    """A task for each of these seconds on each backend, and one that waits for all of them."""
    with DAG(dag_id, schedule=None, max_active_tasks=100, max_active_runs=10):
        last = work.override(task_id="last")(0)
        for kind, queue in QUEUES.items():
            for number, each in enumerate(seconds):
                what.override(task_id=f"{kind}_{number}", queue=queue)(each) >> last
