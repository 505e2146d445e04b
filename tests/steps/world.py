"""What stands on the other side: a Celery worker and a node that ask Airflow's Execution API, and count.

A real Celery worker takes the messages, and a puppet of a node takes the pods.
Both do what the stock supervisor does around a task's own code: they tell the
Execution API (Airflow's own, in this process) that it starts, run it, and tell
how it ended. The code is one line in a file; whoever is refused writes none.
"""

import base64
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes
from celery import Celery, current_task
from celery.exceptions import Ignore
from celery.signals import worker_init, worker_ready

from hybrid_executor.backends.celery.app import TASK_NAME
from hybrid_executor.ledger.live.claims import Claims
from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.naming import LABEL_ATTEMPT, LABEL_SUBMISSION
from hybrid_executor.pods.workload import FILE
from hybrid_executor.worker.claim import claimed, install

#: How long the task's own code takes: so a scheduler is also killed while tasks run.
TASK_S = 0.1
#: A file that says that messages are taken and pods are run.
READY = "ready"
#: A file that makes all processes look the same, as those of a container that is reborn.
SAME = "same"
#: A file that has the worker claim what it starts.
CLAIMS = "claims"
#: Where claims are, on the broker's server: what is set back there is not there.
CLAIMS_DB = 15
#: A file that keeps tasks from ending as long as it is there.
GATE = "gate"
#: Between two looks at the pods.
LOOK_S = 0.06
#: How long the node gives a pod to say that it starts, before it begins the next.
START_S = 60.0
#: The host name of the process, where it is not this machine's.
HOST: ContextVar[str] = ContextVar("HOST", default="")


class Tasks:
    """Runs workloads one after the other or at once; files in a folder tell of it."""

    def __init__(self, folder: Path) -> None:
        from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI
        from airflow.sdk.api import client

        self._folder = folder
        self._pids = itertools.count(100_000)
        client.get_hostname = lambda: HOST.get() or socket.gethostname()
        transport = InProcessExecutionAPI().transport
        self._client = client.Client(base_url="http://in-process.invalid./", token="", transport=transport)
        # It builds its routes at the first request, in seconds that no task should wait.
        self._client.get("health/ping")

    def run(self, payload: str, name: str, told: Callable[[], None] = lambda: None) -> None:
        """What the stock supervisor does; raises where the Execution API refuses the start.

        ``told`` is called when the Execution API has answered to the start.
        """
        from airflow.executors.workloads import ExecuteTask

        ti = ExecuteTask.model_validate_json(payload).ti
        self._write("received", name)
        # The supervisor's child has a process id of its own for each task.
        pid = 1 if (self._folder / SAME).exists() else next(self._pids)
        try:
            self._client.task_instances.start(ti.id, pid, datetime.now(UTC))
        finally:
            told()
        self._write("executed", f"{ti.run_id} {ti.task_id} {ti.map_index} {ti.try_number}")
        time.sleep(TASK_S)
        while (self._folder / GATE).exists():
            time.sleep(LOOK_S)
        self._client.task_instances.succeed(ti.id, datetime.now(UTC), [], [], None)
        self._write("succeeded", name)

    def _write(self, name: str, line: str) -> None:
        with (self._folder / name).open("a") as file:
            file.write(f"{line}\n")


def serve(folder: Path, broker: str, kubeconfig: str, namespace: str) -> None:
    """Be the worker, and the node in a thread beside it, until killed."""
    tasks = Tasks(folder)
    node = threading.Thread(target=be_node, args=(tasks, kubeconfig, namespace), daemon=True)
    node.start()
    app = celery_app(broker)

    def run(payload: str) -> None:
        from airflow.sdk.exceptions import TaskAlreadyRunningError

        try:
            tasks.run(payload, f"message {current_task.request.id}")
        except TaskAlreadyRunningError as error:
            raise Ignore from error  # as the provider's task does

    # Whether messages are claimed is for the test to say.
    worker_init.disconnect(install)
    run_once = claimed(run, Claims(claims_config(broker), life_s=3600))

    @app.task(name=TASK_NAME)
    def execute_workload(payload: str) -> None:
        (run_once if (folder / CLAIMS).exists() else run)(payload)

    @worker_ready.connect(weak=False)
    def tell(**_: Any) -> None:
        (folder / READY).touch()

    options = ["-Q", "default", "-P", "threads", "-c", "4", "--without-mingle", "--without-gossip"]
    app.worker_main(["worker", *options, "-l", "warning", "-n", f"steps-{os.getpid()}@%h"])


def claims_config(broker: str) -> LiveConfig:
    """Of claims that outlive what the broker is set back to."""
    return LiveConfig(url=urlsplit(broker)._replace(path=f"/{CLAIMS_DB}").geturl(), prefix="steps")


def celery_app(broker: str) -> Celery:
    """With the provider's settings, as far as they concern how a message is kept and answered."""
    app = Celery("steps", broker=broker, backend=broker, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_acks_late=True,
        task_track_started=True,
        worker_prefetch_multiplier=1,
        task_default_queue="default",
        broker_connection_retry_on_startup=True,
        broker_transport_options={"visibility_timeout": 86400},
    )
    return app


def be_node(tasks: Tasks, kubeconfig: str, namespace: str) -> None:
    """Run the pods of a namespace, each in a thread, and finish their deletion.

    A pod begins when the one before it has said that it starts: of one task's, the older submission first.
    """
    api = kubernetes.client.CoreV1Api(kubernetes.config.new_client_from_config(kubeconfig))
    begun: set[str] = set()
    while True:
        for pod in api.list_namespaced_pod(namespace).items:
            meta = pod.metadata
            if meta.deletion_timestamp:
                now = kubernetes.client.V1DeleteOptions(grace_period_seconds=0)
                with suppress(kubernetes.client.ApiException):
                    api.delete_namespaced_pod(meta.name, namespace, body=now)
            elif meta.uid not in begun and (payload := _payload(api, meta.name, namespace)):
                begun.add(meta.uid)
                told = threading.Event()
                given = (api, tasks, pod, payload, told.set)
                threading.Thread(target=_run_pod, args=given, daemon=True).start()
                told.wait(START_S)
        time.sleep(LOOK_S)


def _payload(api: Any, name: str, namespace: str) -> str | None:
    """A kubelet mounts the Secret as soon as it is there."""
    try:
        secret = api.read_namespaced_secret(name, namespace)
    except kubernetes.client.ApiException:
        return None
    return base64.b64decode(secret.data[FILE]).decode()


def _run_pod(api: Any, tasks: Tasks, pod: Any, payload: str, told: Callable[[], None]) -> None:
    labels = pod.metadata.labels
    HOST.set(pod.metadata.name)
    _set_status(api, pod, "Running", {"running": {"startedAt": datetime.now(UTC).isoformat()}})
    code = 0
    try:
        tasks.run(payload, f"pod {labels[LABEL_ATTEMPT]}/{labels[LABEL_SUBMISSION]}", told)
    except Exception:  # noqa: BLE001 - a container ends badly whatever its process raised
        code = 1
    finally:
        told()
    ended = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
    _set_status(api, pod, "Failed" if code else "Succeeded", ended)


def _set_status(api: Any, pod: Any, phase: str, state: dict[str, Any]) -> None:
    container = {"name": "base", "image": "none", "imageID": "", "ready": phase == "Running"}
    status = {"phase": phase, "containerStatuses": [{**container, "restartCount": 0, "state": state}]}
    with suppress(kubernetes.client.ApiException):
        api.patch_namespaced_pod_status(pod.metadata.name, pod.metadata.namespace, {"status": status})
