"""A real KEDA scales a Deployment by a query on a real PostgreSQL, with the rights of its own manifests."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from tests.cluster import build
from tests.cluster.keda import API, Keda
from tests.cluster.listening import listeners
from tests.cluster.plane import ControlPlane
from tests.fixtures.kube import until

TARGET = 4
#: A wish of KEDA's is seen by the autoscaler within 2 s; the rest is a busy machine.
MOVES_S = 60.0


class Waiting:
    """A table whose rows are the load."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._engine = sa.create_engine(dsn, poolclass=sa.NullPool)
        self._execute("CREATE TABLE waiting (id serial PRIMARY KEY)")

    def set(self, count: int) -> None:
        self._execute("DELETE FROM waiting")
        self._execute(f"INSERT INTO waiting SELECT FROM generate_series(1, {count})")

    def _execute(self, statement: str) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql(statement)


@pytest.fixture
def waiting(database_url: str) -> Waiting:
    return Waiting(database_url)


@pytest.fixture
def workers(plane: ControlPlane, keda: Keda, namespace: str, waiting: Waiting) -> Iterator[str]:
    """The path of a Deployment with no replicas that KEDA scales by the table's rows."""
    here = f"--namespace={namespace}"
    plane.kubectl("create", "deployment", "workers", "--image=any", "--replicas=0", here)
    plane.apply(*scaling(namespace, waiting.dsn))
    yield f"/apis/apps/v1/namespaces/{namespace}/deployments/workers"
    # Its finalizer is the operator's to remove.
    plane.kubectl("delete", "scaledobject", "workers", here, "--timeout=120s")


def scaling(namespace: str, dsn: str) -> list[dict[str, Any]]:
    def named(api: str, kind: str, **fields: Any) -> dict[str, Any]:
        meta = {"name": "workers", "namespace": namespace}
        return {"apiVersion": api, "kind": kind, "metadata": meta, **fields}

    # Without a policy of its own an autoscaler adds four in the first 15 s.
    policy = {"type": "Pods", "value": 100, "periodSeconds": 1}
    at_once = {"stabilizationWindowSeconds": 0, "policies": [policy]}
    connection = dsn.replace("postgresql+psycopg2", "postgresql") + "?sslmode=disable"
    reference = {"parameter": "connection", "name": "workers", "key": "connection"}
    trigger = {
        "type": "postgresql",
        "metadata": {"query": "SELECT count(*) FROM waiting", "targetQueryValue": str(TARGET)},
        "authenticationRef": {"name": "workers"},
    }
    return [
        named("v1", "Secret", stringData={"connection": connection}),
        named("keda.sh/v1alpha1", "TriggerAuthentication", spec={"secretTargetRef": [reference]}),
        named(
            "keda.sh/v1alpha1",
            "ScaledObject",
            spec={
                "scaleTargetRef": {"name": "workers"},
                "pollingInterval": 1,
                "cooldownPeriod": 3,
                "minReplicaCount": 0,
                "maxReplicaCount": 10,
                "advanced": {
                    "horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": at_once, "scaleDown": at_once}}
                },
                "triggers": [trigger],
            },
        ),
    ]


def moves(plane: ControlPlane, workers: str, replicas: int, keda: Keda) -> float:
    """Wait until the Deployment has that many replicas; the seconds it took."""
    begin = time.monotonic()
    try:
        until(
            lambda: plane.request("GET", workers)[1]["spec"]["replicas"] == replicas,
            f"never {replicas} replicas",
            MOVES_S,
        )
    except AssertionError as error:
        raise AssertionError(f"{error}\n{keda.logs('operator').read_text()[-3000:]}") from None
    return time.monotonic() - begin


def test_rows_move_a_deployment_from_nothing_to_many_to_few_to_nothing(
    plane: ControlPlane, keda: Keda, workers: str, waiting: Waiting, record_property: Any
) -> None:
    for rows, replicas in ((24, 6), (10, 3), (0, 0)):
        waiting.set(rows)
        seconds = moves(plane, workers, replicas, keda)
        record_property(f"to_{replicas}_s", seconds)
        print(f"{rows} rows: {replicas} replicas after {seconds:.1f} s")


def test_scaling_goes_on_after_kills_of_operator_and_adapter(
    plane: ControlPlane, keda: Keda, workers: str, waiting: Waiting
) -> None:
    waiting.set(8)
    moves(plane, workers, 2, keda)
    keda.kill("operator")
    keda.kill("adapter")
    waiting.set(16)
    keda.heal()
    moves(plane, workers, 4, keda)


def test_the_api_server_serves_the_adapters_metrics_under_the_askers_rights(
    plane: ControlPlane, keda: Keda
) -> None:
    code, groups = plane.request("GET", "/apis/external.metrics.k8s.io/v1beta1")
    assert code == 200, groups
    _, service = plane.request("GET", f"/apis/apiregistration.k8s.io/v1/apiservices/{API}")
    assert "insecureSkipTLSVerify" not in service["spec"]


def test_keda_says_the_pinned_version(keda: Keda) -> None:
    pinned = build.KEDA.version_of(build.KEDA.told_version_of).removeprefix("v")
    assert f"KEDA Version: {pinned}" in keda.logs("operator").read_text()


def test_keda_listens_on_loopback_alone(keda: Keda) -> None:
    found = listeners(keda.servers.pids.values())
    assert len(found) == 5
    assert [str(address) for address, _ in found if not address.is_loopback] == []


def test_keda_has_the_rights_of_its_manifests_and_they_suffice(plane: ControlPlane, keda: Keda) -> None:
    who = plane.kubectl("auth", "whoami", kubeconfig=keda.kubeconfig)
    assert "system:serviceaccount:keda:keda-operator" in who
    logs = [keda.logs(part).read_text() for part in ("operator", "adapter")]
    assert [line for log in logs for line in log.splitlines() if "is forbidden: User" in line] == []
