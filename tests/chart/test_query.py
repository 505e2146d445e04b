"""What the chart gives the autoscaler is what the executor means: the query, byte by byte."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybrid_executor.scaling import demand_of, trigger_query
from hybrid_executor.settings import load_routing
from tests.chart.values import LEAST, one
from tests.fixtures.helm import CHART, ROOT, Helm, Manifest
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


def test_the_charts_autoscaler_has_the_values_of_the_guide(helm: Helm) -> None:
    guide = (ROOT / "docs" / "how-to" / "size-pools.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(apiVersion: keda.*?)^```", guide, flags=re.DOTALL | re.MULTILINE)
    told = yaml.safe_load(block)["spec"]
    pool = {"queues": ["default", "light"], "concurrency": 16, "minReplicas": 0, "maxReplicas": 10}
    scaled = {
        "scaling": {"by": "keda"},
        "database": {"secret": {"name": "database"}},
        "pools": {"default": None, "light": pool},
    }
    spec = one(helm.objects(values=LEAST | scaled), "ScaledObject", "airflow-worker-light")["spec"]
    for made, wanted in ((spec, told), (spec["triggers"][0], told["triggers"][0])):
        made.pop("metricType", None)
        for name in ("scaleTargetRef", "authenticationRef", "triggers", "query"):
            made.pop(name, None)
            wanted.pop(name, None)
    assert _as_text(spec) == _as_text(told)


def test_the_charts_triggers_on_redis_are_those_of_the_guide(helm: Helm) -> None:
    guide = (ROOT / "docs" / "how-to" / "size-pools.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(spec:.*?)^```", guide, flags=re.DOTALL | re.MULTILINE)
    told = yaml.safe_load(block)["spec"]
    objects = helm.objects(CHART / "ci" / "redis-values.yaml")
    made = one(objects, "ScaledObject", "airflow-worker-light")["spec"]
    prefix = one(objects, "ConfigMap", "airflow-config")["data"]["AIRFLOW__HYBRID_EXECUTOR__LIVE_PREFIX"]
    assert made["minReplicaCount"] == told["minReplicaCount"] == 1
    numbered = yaml.safe_dump(told).replace("{airflow}", f"{{{prefix}}}")
    told = yaml.safe_load(numbered.replace("name: default", "name: queue_0"))
    told["triggers"][1]["name"] = "queue_1"
    told["advanced"]["scalingModifiers"]["formula"] = "queue_0 + queue_1"
    for trigger in told["triggers"]:
        trigger["authenticationRef"] = {"name": "airflow-keda"}
    assert made["triggers"] == told["triggers"]
    assert made["advanced"]["scalingModifiers"] == told["advanced"]["scalingModifiers"]
    (by,) = one(objects, "TriggerAuthentication", "airflow-keda")["spec"]["secretTargetRef"]
    assert by == {"parameter": "password", "name": "light", "key": "password"}


def _as_text(value: Any) -> Any:
    """Numbers as text: a Quantity may be written as either."""
    if isinstance(value, dict):
        return {name: _as_text(inner) for name, inner in value.items()}
    return [_as_text(inner) for inner in value] if isinstance(value, list) else str(value)
