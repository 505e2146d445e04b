"""What runs the tasks of the soak test: a Celery worker, or a node, that plays each task's own code.

Around it both do what the stock supervisor does: they ask Airflow's Execution
API, over HTTP and with the workload's token, for leave to run, and tell how it
ended. The code is a short wait between two lines in a file that all processes
share; whoever is refused, or dies, writes none. ``python -m tests.soak.world
worker|node`` under the environment of a worker.
"""

import base64
import json
import os
import random
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes
import urllib3

from hybrid_executor.naming import LABEL_EXECUTOR
from hybrid_executor.pods.workload import FILE

#: Between the two lines of a task: most are short, some are there to be killed.
TASK_S = (0.02, 0.05, 0.1, 0.2, 0.5, 3.0)
#: Between two looks at the pods.
LOOK_S = 0.2
SLICE_S = 0.05
#: Messages that one worker runs at a time, and pods that start at a time.
THREADS = 8
#: Where lines go.
LINES = "SOAK_LINES"
#: An API server that is away, or comes back.
AWAY = (OSError, urllib3.exceptions.HTTPError)


class Lines:
    """A file to which many processes append whole lines."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, kind: str, **words: Any) -> None:
        line = {"kind": kind, "at": time.monotonic(), "pid": os.getpid(), **words}
        os.write(self._file, (json.dumps(line) + "\n").encode())


def run(payload: str, name: str, lines: Lines, stopped: threading.Event) -> None:
    """What the stock supervisor does; raises where the Execution API refuses the start."""
    from airflow.executors.workloads import ExecuteTask
    from airflow.sdk.api.client import Client

    workload = ExecuteTask.model_validate_json(payload)
    ti = workload.ti
    client = Client(base_url=os.environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"], token=workload.token)
    with client:
        # A supervisor's child has a process id of its own.
        client.task_instances.start(ti.id, random.randrange(10**6), datetime.now(UTC))
        words = {
            "run": ti.run_id,
            "task": ti.task_id,
            "index": ti.map_index,
            "try": ti.try_number,
            "name": name,
        }
        lines.write("start", **words)
        end = time.monotonic() + random.choice(TASK_S)
        while time.monotonic() < end and not stopped.wait(SLICE_S):
            pass
        if stopped.is_set():
            lines.write("stopped", **words)
            return
        lines.write("end", **words)
        client.task_instances.succeed(ti.id, datetime.now(UTC), [], [], None)


def be_worker(lines: Lines) -> None:
    """A Celery worker under the provider's own app, whose task is played."""
    from airflow.providers.celery.executors.celery_executor_utils import app
    from airflow.sdk.exceptions import TaskAlreadyRunningError
    from celery import current_task
    from celery.exceptions import Ignore

    def play(payload: str) -> None:
        try:
            run(payload, str(current_task.request.id), lines, threading.Event())
        except TaskAlreadyRunningError as error:
            raise Ignore from error  # as the provider's task does

    app.tasks["execute_workload"].run = play
    options = ["-Q", "default", "-P", "threads", "-c", str(THREADS), "-n", f"soak-{os.getpid()}@%h"]
    app.worker_main(["worker", *options, "-l", "warning", "--without-mingle", "--without-gossip"])


class Node:
    """Runs the pods of a namespace, each in a thread, and finishes their deletion."""

    def __init__(self, lines: Lines, kubeconfig: str) -> None:
        self._api = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(kubeconfig))
        self._lines = lines
        self._stops: dict[str, threading.Event] = {}

    def serve(self) -> None:
        while True:
            with suppress(kubernetes.client.ApiException, *AWAY):
                self._look()
            time.sleep(LOOK_S)

    def _look(self) -> None:
        listed = self._api.list_namespaced_pod("default", label_selector=LABEL_EXECUTOR, _request_timeout=10)
        for gone in self._stops.keys() - {pod.metadata.uid for pod in listed.items}:
            # Deleted without grace. A kubelet ends what ran in it before it begins another.
            self._stops[gone].set()
        for pod in listed.items:
            meta = pod.metadata
            if meta.deletion_timestamp:
                self._stops.setdefault(meta.uid, threading.Event()).set()
                now = kubernetes.client.V1DeleteOptions(grace_period_seconds=0)
                self._api.delete_namespaced_pod(meta.name, "default", body=now, _request_timeout=10)
            elif meta.uid not in self._stops:
                self._begin(pod)

    def _begin(self, pod: Any) -> None:
        if pod.status.phase != "Pending":
            # It ran under a node that died.
            self._stops[pod.metadata.uid] = threading.Event()
            self._tell(pod, "Failed", 137)
            return
        with suppress(kubernetes.client.ApiException):  # its Secret comes a moment later
            secret = self._api.read_namespaced_secret(pod.metadata.name, "default", _request_timeout=10)
            payload = base64.b64decode(secret.data[FILE]).decode()
            self._stops[pod.metadata.uid] = threading.Event()
            threading.Thread(target=self._run, args=(pod, payload), daemon=True).start()

    def _run(self, pod: Any, payload: str) -> None:
        self._tell(pod, "Running", None)
        code, stopped = 0, self._stops[pod.metadata.uid]
        try:
            run(payload, pod.metadata.name, self._lines, stopped)
        except Exception:  # noqa: BLE001 - a container ends badly whatever its process raised
            code = 1
        if not stopped.is_set():
            self._tell(pod, "Failed" if code else "Succeeded", code)

    def _tell(self, pod: Any, phase: str, code: int | None) -> None:
        at = datetime.now(UTC).isoformat()
        state = (
            {"running": {"startedAt": at}}
            if code is None
            else {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
        )
        container = {"name": "base", "image": "none", "imageID": "", "ready": code is None, "restartCount": 0}
        status = {"phase": phase, "containerStatuses": [{**container, "state": state}]}
        for _ in range(200):
            try:
                self._api.patch_namespaced_pod_status(
                    pod.metadata.name, "default", {"status": status}, _request_timeout=10
                )
            except kubernetes.client.ApiException as error:
                if error.status < 500:
                    return
            except AWAY:
                pass
            else:
                return
            time.sleep(LOOK_S)  # a kubelet goes on telling until somebody hears it


if __name__ == "__main__":
    written = Lines(Path(os.environ[LINES]))
    if sys.argv[1] == "worker":
        be_worker(written)
    else:
        Node(written, sys.argv[2]).serve()
