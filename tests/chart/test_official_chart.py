"""The overlay for the official chart: keys that it has, and our own query and files in it.

Whether the chart renders with it is tried by hand for each version; the commands
and what came of it stand in docs/how-to/move-from-the-official-chart.md.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hybrid_executor.routing import RoutingTable, kubernetes_rules, parse_pools
from hybrid_executor.scaling import demand_of, trigger_query
from tests.fixtures.helm import CHART

OVERLAY = yaml.safe_load((CHART / "official-chart-values.yaml").read_text())
KEYS = Path(__file__).with_name("official-1.22-keys.txt").read_text().splitlines()[1:]
OURS = "hybrid_executor.HybridExecutor"


def paths(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in values.items():
        path = f"{above}{name}"
        if path in KEYS or not isinstance(value, dict):
            yield path
        else:
            yield from paths(value, f"{path}.")


def test_every_key_is_one_of_the_official_chart() -> None:
    assert [path for path in paths(OVERLAY) if path not in KEYS] == []


def test_its_query_and_its_pool_are_those_of_this_release() -> None:
    """AF#42070, 49001: the official query counts by executor, which a hybrid one never sets."""
    (files,) = OVERLAY["extraConfigMaps"].values()
    (pool,) = parse_pools(yaml.safe_load(files["data"])["pools.yaml"], "pools.yaml")
    celery, keda = OVERLAY["workers"]["celery"], OVERLAY["workers"]["celery"]["keda"]
    queues = kubernetes_rules([OVERLAY["config"]["hybrid_executor"]["kubernetes_queues"]], "values")
    demand = demand_of(pool, RoutingTable(queues), (OURS,), OURS)
    assert keda["query"].strip() == trigger_query("postgresql", demand).strip()
    assert (pool.min_replicas, pool.max_replicas) == (keda["minReplicaCount"], keda["maxReplicaCount"])
    assert pool.concurrency == OVERLAY["config"]["celery"]["worker_concurrency"]
    assert celery["labels"]["hybrid-executor/pool"] == pool.name
    assert (
        celery["labels"]["hybrid-executor/deployment"] == OVERLAY["config"]["hybrid_executor"]["deployment"]
    )
    drain = celery["containerLifecycleHooks"]["preStop"]["exec"]["command"]
    assert int(drain[-1]) < celery["terminationGracePeriodSeconds"]
