"""Tasks in containers of the Airflow image on a kubelet: what they took, and one that took too much."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hybrid_executor.ledger.tables import submission
from hybrid_executor.pods.diagnosis import PodPhase, observe
from hybrid_executor.standalone.stack.environment import option
from hybrid_executor.standalone.stack.stack import PYTHON
from tests.cluster.airflow_pods import stack_with_images
from tests.cluster.kubelet import images
from tests.cluster.kubelet.node import KubeletNode
from tests.cluster.kubelet.workload import Workload
from tests.fixtures.stack import RunningStack, wait_until

pytestmark = pytest.mark.timeout(900)

MIB = 1 << 20
DAG = """
import time
from pathlib import Path
from airflow.sdk import DAG, get_current_context, task
from kubernetes.client import models as k8s

def pod(**resources):
    base = k8s.V1Container(name="base", resources=k8s.V1ResourceRequirements(**resources))
    return {"pod_override": k8s.V1Pod(spec=k8s.V1PodSpec(containers=[base]))}

with DAG("greedy", schedule=None):

    @task(queue="big", retries=0, executor_config=pod(limits={"memory": "768Mi"}))
    def greedy() -> None:
        if get_current_context()["ti"].try_number == 1:
            kept = [b"x" * (16 * 2**20) for _ in range(200)]

    greedy()

with DAG("modest", schedule=None):

    @task(queue="kubernetes", executor_config=pod(requests={"cpu": "100m", "memory": "64Mi"}))
    def modest() -> None:
        Path("/dev/termination-log").write_text("7 tables loaded")
        kept = b"x" * (300 * 2**20)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            pass

    modest()
"""
ROUTES = "version: 1\nroutes:\n  - {queue: big, backend: kubernetes, retry_on: [OOMKilled]}\n"


@pytest.fixture(scope="module")
def stack(session_kubelet: KubeletNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    session_kubelet.heal()
    folder: Path = tmp_path_factory.mktemp("memory")
    (folder / "dags").mkdir()
    (folder / "dags" / "memory.py").write_text(DAG)
    (folder / "routes.yaml").write_text(ROUTES)
    extra = {
        option("hybrid_executor", "routes_file"): str(folder / "routes.yaml"),
        option("hybrid_executor", "measure_pods"): "True",
    }
    with stack_with_images(session_kubelet, folder, folder / "dags", extra) as running:
        yield running


#: What the entry point does around a task, without one: a child that ends, as a task's process is.
MEASURED = """
import subprocess, sys, time
from hybrid_executor.worker import gauge
gauge.MESSAGE.write_text("7 tables loaded")
measured = gauge.own_gauge(gauge.MESSAGE, gauge.CGROUPS)
with measured.watching():
    subprocess.run([sys.executable, "-c", "import time; x = b'x' * (200 << 20); time.sleep(2.5)"], check=True)
    open("/tmp/cache", "wb").write(b"x" * (150 << 20))
    end = time.monotonic() + 2
    while time.monotonic() < end:
        pass
gauge.leave(measured.used(), gauge.MESSAGE)
"""


def test_a_container_tells_what_it_took_through_the_kubelet(workload: Workload) -> None:
    """Also one that may write nothing but its volumes, as user 50000."""
    limits = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "600Mi"}}
    strict = {"runAsNonRoot": True, "runAsUser": 50000, "readOnlyRootFilesystem": True}
    scratch = [{"name": "scratch", "mountPath": "/tmp"}]  # noqa: S108 - of the container
    pod = workload.pod(
        *("measured", "python", "-c", MEASURED),
        image=images.AIRFLOW,
        resources=limits,
        securityContext=strict,
        volumeMounts=scratch,
    )
    pod["spec"]["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    workload.create(pod)
    end = workload.end_of("measured")
    assert end["exitCode"] == 0, workload.kubectl("logs", "measured")
    assert end["message"].startswith("7 tables loaded\n")
    view = observe(workload.get("measured"))
    assert (view.phase, view.diagnosis) == (PodPhase.SUCCEEDED, None)
    took = view.resources
    assert took is not None
    assert (took.cpu_request_m, took.memory_request_bytes, took.memory_limit_bytes) == (
        50,
        64 * MIB,
        600 * MIB,
    )
    assert 200 * MIB < (took.memory_peak_bytes or 0) < 400 * MIB
    assert 1.5 < (took.cpu_used_s or 0) < 60


def test_a_container_that_the_kernel_killed_had_its_limit(workload: Workload) -> None:
    workload.run("greedy", "tail", "/dev/zero", resources={"limits": {"memory": "32Mi"}})
    assert workload.end_of("greedy")["reason"] == "OOMKilled"
    took = observe(workload.get("greedy")).resources
    assert took is not None
    assert (took.memory_limit_bytes, took.memory_peak_bytes) == (32 * MIB, 32 * MIB)


def rows(stack: RunningStack, run: str) -> list[Any]:
    """The run's submissions, in the order of their tries, once all are closed."""
    query = sa.select(submission).where(submission.c.run_id == run).order_by(submission.c.try_number)
    found: list[Any] = []

    def closed() -> bool:
        with stack.db.connect() as connection:
            found[:] = connection.execute(query).all()
        return all(row.ended_at for row in found)

    wait_until(closed, 60, lambda: str(found))
    return found


def test_a_task_that_the_kernel_killed_for_memory_runs_again_without_a_retry_af61521(
    stack: RunningStack,
) -> None:
    """The kernel kills the task's process, or all of the container; neither is reported as a failure."""
    run = stack.trigger("greedy")
    assert stack.wait_run("greedy", run, 400) == {"greedy": "success"}
    first, second = rows(stack, run)
    assert (first.try_number, first.outcome, first.reason) == (1, "restarted", "OOMKilled")
    assert "768Mi" in first.message
    assert (first.memory_limit_bytes, first.memory_peak_bytes) == (768 * MIB, 768 * MIB)
    assert (second.try_number, second.outcome) == (2, "succeeded")
    assert 32 * MIB < second.memory_peak_bytes < 768 * MIB


def test_what_a_task_took_is_in_the_ledger_and_in_the_advice(stack: RunningStack) -> None:
    run = stack.trigger("modest")
    assert stack.wait_run("modest", run, 400) == {"modest": "success"}
    (row,) = rows(stack, run)
    assert (row.outcome, row.message) == ("succeeded", None)
    assert (row.cpu_request_m, row.memory_request_bytes, row.memory_limit_bytes) == (100, 64 * MIB, None)
    assert 300 * MIB < row.memory_peak_bytes < 900 * MIB
    assert row.cpu_used_s > 3
    assert row.cpu_peak_m > 50
    (advice,) = advised(stack, "modest")
    assert (advice["runs"], advice["measured"]) == (1, 1)
    assert advice["memory"]["request"] == 64 * MIB
    assert advice["memory"]["highest"] == row.memory_peak_bytes
    assert advice["memory"]["proposed"] >= row.memory_peak_bytes * 1.2
    assert advice["cpu"]["p95"] == row.cpu_peak_m


def advised(stack: RunningStack, dag_id: str) -> list[dict[str, Any]]:
    command = [str(PYTHON), "-m", "airflow", "hybrid", "pods", "advise", "--dag", dag_id, "--json"]
    done = subprocess.run(command, env=stack.env, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
