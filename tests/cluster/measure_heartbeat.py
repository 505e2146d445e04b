"""Measures the heartbeat at the head of 2,000 pending and 500 running pods, beside the stock executor.

    python -m pytest -s tests/cluster/measure_heartbeat.py

A real control plane; pods without processes, on a node of paper: the real
scheduler binds 500 of them there, whom this file then calls Running, and has
no place for the others. Each executor hands over the same 2,500 tasks in a
process of its own, one after the other, A B A B; a pair for each ``PAIRS`` in
the environment. Heartbeats are timed in the scheduler's process, calls are
counted by the API server, memory is the proportional set size of the process
and all below it. Prints medians; asserts only that the work was the same.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.cluster.plane import ControlPlane
from tests.fixtures.kube import until
from tests.fixtures.servers import SharedPostgres

pytestmark = pytest.mark.timeout(3600)

PENDING = int(os.environ.get("PENDING") or 2000)
RUNNING = int(os.environ.get("RUNNING") or 500)
PAIRS = int(os.environ.get("PAIRS") or 2)
#: Heartbeats that are timed; with the pauses between them about a minute.
BEATS = 200
MERGE = "application/merge-patch+json"
#: Both executors get what lets them hand over so many at all; the stock one's batch is what its users tune.
SETTINGS = {
    "CORE__PARALLELISM": "10000",
    "CORE__MAX_ACTIVE_TASKS_PER_DAG": "10000",
    "SCHEDULER__MAX_TIS_PER_QUERY": "512",
    "SCHEDULER__TASK_QUEUED_TIMEOUT": "100000",
    "HYBRID_EXECUTOR__KUBERNETES_PARALLELISM": "10000",
    "KUBERNETES_EXECUTOR__WORKER_PODS_CREATION_BATCH_SIZE": "100",
    "KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
    "CORE__LOAD_EXAMPLES": "False",
    "API_AUTH__JWT_SECRET": "a secret of this measurement, " * 4,
}
TEMPLATE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "template"},
    "spec": {"containers": [{"name": "base", "image": "none"}], "tolerations": [{"operator": "Exists"}]},
}


@contextmanager
def paper_node(plane: ControlPlane, namespace: str) -> Iterator[str]:
    """A node for ``RUNNING`` pods; who is bound to it is called Running."""
    name, running = f"paper-{uuid4().hex[:8]}", set[str]()
    path, stop = f"/api/v1/nodes/{name}", threading.Event()
    assert plane.request("POST", "/api/v1/nodes", {"metadata": {"name": name}})[0] == 201

    def beat() -> None:
        while not stop.is_set():
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": now}
            room = {"cpu": "10000", "memory": "10Ti", "pods": str(RUNNING)}
            status = {"capacity": room, "allocatable": room, "conditions": [ready]}
            plane.request("PATCH", f"{path}/status", {"status": status}, MERGE)
            if len(running) == RUNNING:  # from here on only the executor asks for pods
                stop.wait(5)
                continue
            for pod in bound(plane, namespace, name, "Pending"):
                container = {"state": {"running": {"startedAt": now}}, "name": "base", "ready": True}
                container |= {"image": "none", "imageID": "none", "restartCount": 0}
                body = {"status": {"phase": "Running", "containerStatuses": [container]}}
                if plane.request("PATCH", f"{pods_of(namespace)}/{pod}/status", body, MERGE)[0] == 200:
                    running.add(pod)
            stop.wait(5)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    yield name
    stop.set()
    thread.join()
    plane.request("DELETE", path)


def pods_of(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def bound(plane: ControlPlane, namespace: str, node: str, phase: str) -> list[str]:
    query = f"fieldSelector=spec.nodeName%3D{node},status.phase%3D{phase}"
    return [
        pod["metadata"]["name"] for pod in plane.request("GET", f"{pods_of(namespace)}?{query}")[1]["items"]
    ]


def count(plane: ControlPlane, namespace: str) -> int:
    code, page = plane.request("GET", f"{pods_of(namespace)}?limit=1")
    assert code == 200, page
    return len(page["items"]) + int(page["metadata"].get("remainingItemCount") or 0)


def emptied(plane: ControlPlane, namespace: str) -> bool:
    """Ask again: a request that deletes thousands of pods is cut off after a minute."""
    plane.request("DELETE", pods_of(namespace), {"gracePeriodSeconds": 0})
    return count(plane, namespace) == 0


def calls(plane: ControlPlane) -> dict[str, float]:
    """What the API server has answered about pods, by verb; a watch counts when it ends."""
    text = plane.request("GET", "/metrics")[1]
    found: dict[str, float] = {}
    for labels, value in re.findall(r"^apiserver_request_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if named.get("resource") == "pods" and not named.get("subresource"):
            found[named["verb"]] = found.get(named["verb"], 0) + float(value)
    return found


def head(
    kind: str, plane: ControlPlane, postgres: SharedPostgres, template: str, folder: Path
) -> dict[str, Any]:
    """One executor at the head of all pods."""
    namespace = f"beat-{uuid4().hex[:8]}"
    plane.make_namespace(namespace)
    (folder / "dags").mkdir(parents=True)
    (folder / "pod_template.yaml").write_text(json.dumps(TEMPLATE))
    with postgres.fresh_database(template) as dsn, paper_node(plane, namespace) as node:
        settings = SETTINGS | {
            "CORE__EXECUTOR": "hybrid_executor.HybridExecutor" if kind == "ours" else "KubernetesExecutor",
            "CORE__DAGS_FOLDER": str(folder / "dags"),
            "DATABASE__SQL_ALCHEMY_CONN": dsn,
            "KUBERNETES_EXECUTOR__CONFIG_FILE": str(plane.admin),
            "KUBERNETES_EXECUTOR__NAMESPACE": namespace,
            "KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(folder / "pod_template.yaml"),
            "HYBRID_EXECUTOR__KUBERNETES_QUEUES": "*",
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        env = clean | {f"AIRFLOW__{name}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "tests.cluster.heartbeat_scheduler", str(folder), kind]
        with (
            (folder / "scheduler.log").open("w") as log,
            subprocess.Popen(
                [*command, str(PENDING + RUNNING)],
                env=env | {"AIRFLOW_HOME": str(folder)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as scheduler,
        ):
            try:
                return _measure(scheduler, plane, namespace, node)
            finally:
                scheduler.kill()
                until(lambda: emptied(plane, namespace), "the pods stay", 600)
                plane.request("DELETE", f"/api/v1/namespaces/{namespace}")


def _measure(scheduler: Any, plane: ControlPlane, namespace: str, node: str) -> dict[str, Any]:
    while "handed over" not in (line := scheduler.stdout.readline()):
        assert line or scheduler.poll() is None, "the scheduler ended; its log is in scheduler.log"
    until(lambda: count(plane, namespace) == PENDING + RUNNING, "not all pods were made", 1200)
    until(lambda: len(bound(plane, namespace, node, "Running")) == RUNNING, "not all pods run", 300)
    time.sleep(6)
    before = calls(plane)
    scheduler.stdin.write(f"{BEATS}\n")
    scheduler.stdin.flush()
    while not (line := scheduler.stdout.readline()).startswith("{"):
        assert line or scheduler.poll() is None, "the scheduler ended; its log is in scheduler.log"
    found: dict[str, Any] = json.loads(line)
    after = calls(plane)
    made = {verb: number - before.get(verb, 0) for verb, number in after.items()}
    found["calls"] = {verb: number for verb, number in made.items() if number}
    return found


def test_the_heartbeat_at_the_head_of_many_pods(
    session_plane: ControlPlane, postgres: SharedPostgres, airflow_template: str, tmp_path: Path
) -> None:
    print(f"\n{PENDING} pending and {RUNNING} running pods, {BEATS} heartbeats each, {os.cpu_count()} cores")
    for pair in range(PAIRS):
        for kind in ("stock", "ours"):
            found = head(kind, session_plane, postgres, airflow_template, tmp_path / f"{kind}-{pair}")
            took = sorted(found["heartbeats_ms"])
            p50, p95 = statistics.median(took), statistics.quantiles(took, n=20)[-1]
            print(
                f"{kind:>6}: heartbeat p50 {p50:.2f} ms, p95 {p95:.2f}, max {took[-1]:.1f};"
                f" {found['cpu']:.2f} cores;"
                f" {found['pss_mib']:.0f} MiB in {found['processes']} processes,"
                f" {found['executor_mib']:.0f} of it since the executor came;"
                f" calls in {found['lasted_s']:.0f} s: {found['calls'] or 'none'}",
                flush=True,
            )
