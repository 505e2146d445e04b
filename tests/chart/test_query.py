"""What the chart gives the autoscaler is what the executor means: the query, byte by byte."""

from pathlib import Path
from typing import Any

import pytest

from hybrid_executor.scaling import demand_of, trigger_query
from hybrid_executor.settings import load_routing
from tests.chart.values import LEAST, one
from tests.fixtures.helm import CHART, Helm, Manifest
from tests.fixtures.settings import Load

FOLDER = "/opt/airflow/hybrid"
WILD = {
    "routes": [
        {"queue": ["gpu-small", "x?"], "backend": "celery"},
        {"queue": "night[!-]*", "backend": "kubernetes"},
    ],
    "kubernetesQueues": ["kubernetes", "gpu-*", "x.[ab]"],
}
QUEUES = [
    "gpu-small",
    "gpu-large",
    "nightly",
    "night-1",
    "kubernetes",
    "x1",
    "x.a",
    "xya",
    "it's",
    "a\\b",
    "a.b",
]


@pytest.mark.parametrize("dialect", ["postgresql", "mysql"])
@pytest.mark.parametrize(
    "executor", ["hybrid_executor.HybridExecutor", "CeleryExecutor:hybrid_executor.HybridExecutor"]
)
def test_the_query_is_the_one_that_airflow_hybrid_scaling_prints(
    helm: Helm, load: Load, tmp_path: Path, dialect: Any, executor: str
) -> None:
    """AF#49001, 52840, 55559: a copy of the routing rule that nothing kept true."""
    values = LEAST | {
        "scaling": {"by": "keda"},
        "airflow": {"executor": executor},
        "database": {"secret": {"name": "database"}, "dialect": dialect},
        "routing": WILD,
        "pools": {"default": None, "wild": {"queues": QUEUES, "concurrency": 7}},
    }
    objects = helm.objects(values=values)
    settings = load(executor=executor, **environment(objects, tmp_path))
    assert settings.problems == ()
    (pool,) = settings.pools
    demand = demand_of(pool, load_routing(settings), settings.executor_names, settings.default_executor)
    assert set(demand.task_queues) == set(QUEUES) - {"gpu-large", "nightly", "kubernetes", "x.a"}
    (trigger,) = one(objects, "ScaledObject", "airflow-worker-wild")["spec"]["triggers"]
    assert trigger["metadata"]["query"].rstrip("\n") == trigger_query(dialect, demand).rstrip("\n")


def environment(objects: list[Manifest], folder: Path) -> dict[str, str]:
    """The scheduler's variables, with its files in this folder."""
    for name, text in one(objects, "ConfigMap", "airflow-routing")["data"].items():
        (folder / name).write_text(text)
    settings = one(objects, "ConfigMap", "airflow-config")["data"]
    return {
        name.removeprefix("AIRFLOW__"): value.replace(FOLDER, str(folder))
        for name, value in settings.items()
        if name.startswith("AIRFLOW__") and "__EXECUTOR" not in name and "POD_TEMPLATE" not in name
    } | {"API_AUTH__JWT_SECRET": "x"}


def test_each_pool_is_asked_for_its_own_queues_alone(helm: Helm) -> None:
    objects = helm.objects(CHART / "ci" / "production-values.yaml")
    for name, inside, outside in (("light", "'gpu-light'", "'heavy'"), ("heavy", "'heavy'", "'light'")):
        (trigger,) = one(objects, "ScaledObject", f"airflow-worker-{name}")["spec"]["triggers"]
        assert inside in trigger["metadata"]["query"]
        assert outside not in trigger["metadata"]["query"]
