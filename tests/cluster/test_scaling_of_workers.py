"""A burst of real tasks takes a pool of real Celery workers from none to many, and its end back to none.

The whole stack on a real control plane, with KEDA; the pool's Deployment is run by a node of processes.
``SCALING_CURVE=file.svg`` keeps the picture of what happened, which the guide shows.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hybrid_executor.routing import Pool, RoutingTable
from hybrid_executor.scaling import demand_of, in_flight_query, trigger_query
from hybrid_executor.standalone.stack.environment import worker_environment
from tests.cluster.curve import Curve
from tests.cluster.given import given_cluster
from tests.cluster.keda import Keda
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.cluster.test_scaling import OURS, objects
from tests.fixtures.stack import RunningStack, running_stack

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
POOL = Pool(name="light", queues=("default",), concurrency=4, max_replicas=5)
DEMAND = demand_of(POOL, RoutingTable(), (OURS,), OURS)
TASKS, WORKERS = 12, 3
DAG = f"""
import time
from airflow.sdk import DAG, task

with DAG("burst", schedule=None):

    @task(queue="default")
    def work(number):
        time.sleep(10 + 4 * number)

    work.expand(number=list(range({TASKS})))
"""


@pytest.fixture
def stack(session_plane: ControlPlane, module_runner: RunnerNode, tmp_path: Path) -> Iterator[RunningStack]:
    """Its own worker serves a queue on which nothing is."""
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "burst.py").write_text(DAG)
    with (
        given_cluster(session_plane, module_runner) as given,
        running_stack(
            tmp_path / "stack", dags, extra={"PYTHONPATH": str(ROOT)}, queues=("other",), **given
        ) as running,
    ):
        yield running


def workers(stack: RunningStack) -> dict[str, Any]:
    """The pool's Deployment: no replicas of its own, and a worker named by its pod."""
    settings = worker_environment(stack.stack.setup) | {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin"}
    env: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in settings.items()]
    env.append({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
    command = [sys.executable, "-m", "airflow", "celery", "worker", "--skip-serve-logs"]
    options = ["--queues", "default", "--concurrency", "4", "--celery-hostname", "celery@$(POD_NAME)"]
    labels = {"hybrid-executor/pool": POOL.name}
    container = {"name": "worker", "image": "any", "command": [*command, *options], "env": env}
    spec = {
        "terminationGracePeriodSeconds": 60,
        "automountServiceAccountToken": False,
        "containers": [container],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": POOL.name, "namespace": stack.namespace},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def scaled(stack: RunningStack) -> list[dict[str, Any]]:
    """As the guide has it; a lull of some seconds ends no worker."""
    made = objects(stack.stack.setup.dsn, stack.namespace)
    spec = made[-1]["spec"]
    spec |= {"maxReplicaCount": POOL.max_replicas, "cooldownPeriod": 10}
    spec["triggers"][0]["metadata"]["query"] = trigger_query("postgresql", DEMAND)
    spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"][
        "stabilizationWindowSeconds"
    ] = 10
    return made


def test_a_burst_of_real_tasks_takes_a_pool_of_real_workers_from_none_to_many_and_back(
    stack: RunningStack, session_plane: ControlPlane, keda: Keda, tmp_path: Path
) -> None:
    plane, curve = session_plane, Curve()
    plane.apply(workers(stack), *scaled(stack))
    path = f"/apis/apps/v1/namespaces/{stack.namespace}/deployments/{POOL.name}"

    def look() -> dict[str, int]:
        status = plane.request("GET", path)[1]
        with stack.db.connect() as connection:
            waiting = connection.exec_driver_sql(in_flight_query("postgresql", DEMAND)).scalar_one()
            query = sa.text("SELECT count(*) FROM task_instance WHERE state = 'success'")
            done = connection.execute(query).scalar_one()
        return {
            "in_flight": waiting,
            "tasks_done": done,
            "workers_wanted": status["spec"]["replicas"],
            "workers": status["status"].get("readyReplicas", 0),
        }

    try:
        stack.wait_dag("burst")
        assert look() == dict.fromkeys(("in_flight", "tasks_done", "workers_wanted", "workers"), 0)
        run = stack.trigger("burst")
        curve.until(lambda now: now["tasks_done"] == TASKS, look)
        curve.until(lambda now: now["workers"] == now["workers_wanted"] == 0, look)
    finally:
        curve.draw(
            Path(os.environ.get("SCALING_CURVE", tmp_path / "curve.svg")).resolve(),
            "Tasks in flight and done, and workers wanted and running, from a burst to its end",
        )
        plane.kubectl("delete", "scaledobject", "light", f"--namespace={stack.namespace}", "--timeout=120s")
    assert set(stack.wait_run("burst", run).values()) == {"success"}
    assert curve.most("workers_wanted") == WORKERS
    assert curve.most("workers") == WORKERS
    with stack.db.connect() as connection:
        tries = sa.text("SELECT DISTINCT try_number FROM task_instance WHERE dag_id = 'burst'")
        assert connection.execute(tries).scalars().all() == [1]
        places = sa.text("SELECT count(DISTINCT ran_on) FROM hybrid_submission WHERE backend = 'celery'")
        assert 1 <= connection.execute(places).scalar_one() <= WORKERS
