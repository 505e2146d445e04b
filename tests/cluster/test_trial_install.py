"""The chart as a newcomer tries it: nothing but an image, and the chart's own small PostgreSQL and Valkey.

The images of both stand in for the public ones (``images.trial_images``). One
release for all, which the last test removes.
"""

from collections.abc import Iterator
from uuid import uuid4

import psycopg2
import pytest
import redis

from tests.cluster.installation import EMBEDDED, RELEASE, Installation
from tests.cluster.kubelet.node import KubeletNode
from tests.cluster.kubelet.workload import Workload
from tests.fixtures.helm import Helm, tools

pytestmark = pytest.mark.timeout(1200)
PASSED = dict.fromkeys(("light", "heavy", "told"), "success")
DAGS = """\
from airflow.sdk import dag, task


@dag(schedule=None)
def first():
    @task
    def light():
        return 20

    @task(queue="kubernetes")
    def heavy(number):
        return number + 1

    @task
    def told(number):
        print(f"it is {number}")

    told(heavy(light()))


first()
"""


@pytest.fixture(scope="module")
def trial(session_kubelet: KubeletNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Installed, and ready as ``helm --wait`` has it."""
    session_kubelet.heal()
    plane, folder = session_kubelet.plane, tmp_path_factory.mktemp("trial")
    name = f"trial-{uuid4().hex[:8]}"
    plane.make_namespace(name)
    made = Installation(Workload(plane, name), Helm(tools(), folder, plane.admin), folder, DAGS)
    made.apply("install", embedded=EMBEDDED)
    yield made
    plane.request("DELETE", f"/api/v1/namespaces/{name}")
    made.kubectl("delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")


def server(trial: Installation, name: str) -> tuple[str, str, int]:
    """The pod of an embedded server, its address, and how often its container has started again."""
    (pod,) = trial.listed("pods", f"--selector=app.kubernetes.io/component={name}")
    (status,) = pod["status"]["containerStatuses"]
    return pod["metadata"]["name"], pod["status"]["podIP"], status["restartCount"]


def test_tasks_of_both_kinds_pass_with_the_servers_that_the_chart_brings(trial: Installation) -> None:
    trial.until(
        lambda: [one["dag_id"] for one in trial.get("/api/v2/dags")["dags"]] == ["first"], "no DAG is read"
    )
    assert trial.pass_run("first") == PASSED, trial.describe()
    assert "problem" not in trial.airflow("hybrid", "doctor")


def test_nobody_gets_into_an_embedded_server_without_its_password(trial: Installation) -> None:
    _, database, _ = server(trial, "postgresql")
    for password in ({}, {"password": "airflow"}):
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(host=database, user="airflow", dbname="airflow", **password)
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(server(trial, "valkey")[1]).ping()


def test_an_upgrade_leaves_the_embedded_servers_and_their_data_alone(trial: Installation) -> None:
    before = [server(trial, name) for name in EMBEDDED]
    trial.apply("upgrade", embedded=EMBEDDED, pools={"default": {"queues": ["default"], "concurrency": 5}})
    assert [server(trial, name) for name in EMBEDDED] == before
    assert trial.pass_run("first") == PASSED, trial.describe()


def test_nothing_is_left_of_a_trial_but_its_keys(trial: Installation) -> None:
    trial.run("uninstall", "--wait", "--timeout=400s")
    kinds = "deployments,jobs,services,configmaps,secrets,serviceaccounts,roles,rolebindings"
    left = [f"{one['kind']}/{one['metadata']['name']}" for one in trial.listed(kinds)]
    assert [name for name in left if RELEASE in name] == [f"Secret/{RELEASE}-generated"]
