"""What ``cluster.fit`` says of pods, and what the real scheduler does with them: on nodes of paper."""

import random
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from hybrid_executor.cluster.fit import Node, judge, need_of, node_of
from tests.cluster.plane import ControlPlane
from tests.cluster.pods import Pods
from tests.fixtures.kube import until

ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
PODS = 120
LABELS: tuple[dict[str, str], ...] = (
    {ZONE: "a", "disk": "fast", "size": "4"},
    {ZONE: "b", "disk": "slow", "size": "16"},
    {ZONE: "b", "size": "64"},
    {"disk": "fast", "size": "many"},
    {},
)
TAINT = {"key": "team", "value": "b", "effect": "NoSchedule"}


@pytest.fixture
def nodes(plane: ControlPlane) -> Iterator[list[Node]]:
    """Five nodes that differ; nothing runs on them. By the label ``mark`` pods keep to them."""
    mark = uuid4().hex[:8]
    made = []
    for index, labels in enumerate(LABELS):
        name = f"paper-{mark}-{index}"
        body = {
            "metadata": {"name": name, "labels": labels | {"mark": mark}},
            "spec": {"taints": [TAINT] if index == 1 else []},
        }
        status = {
            "allocatable": {"cpu": str(index + 1), "memory": f"{2**index}Gi", "pods": "200"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        assert plane.request("POST", "/api/v1/nodes", body)[0] == 201
        path = f"/api/v1/nodes/{name}/status"
        code, node = plane.request("PATCH", path, {"status": status}, "application/merge-patch+json")
        assert code == 200, node
        made.append(node_of(node))
    # Every node is born with a taint, until the controllers have seen that it is ready.
    until(lambda: not any(map(is_new, fetched(plane, made))), "the nodes stay tainted")
    yield made
    for node in made:
        assert plane.request("DELETE", f"/api/v1/nodes/{node.name}")[0] == 200


def fetched(plane: ControlPlane, nodes: list[Node]) -> list[dict[str, Any]]:
    return [plane.request("GET", f"/api/v1/nodes/{node.name}")[1] for node in nodes]


def is_new(node: dict[str, Any]) -> bool:
    return any(taint["key"].endswith("not-ready") for taint in node["spec"].get("taints") or ())


def any_pod(numbers: random.Random, mark: str) -> dict[str, Any]:
    """A pod with some of all that is looked at, small enough that none is in another's way."""
    spec: dict[str, Any] = {"nodeSelector": {"mark": mark}, "terminationGracePeriodSeconds": 0}
    # Most of these are impossible or free: what a node has is asked for whole, or nearly nothing of it.
    cpu = numbers.choice(["1m", "1m", "1m", "6"])
    container = {"name": "c", "image": "none", "resources": {"requests": {"cpu": cpu}}}
    if numbers.random() < 0.6:
        terms = [any_term(numbers) for _ in range(numbers.randint(1, 2))]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        spec["affinity"] = {"nodeAffinity": required}
    if numbers.random() < 0.3:
        key = numbers.choice([ZONE, HOST, "disk"])
        when = numbers.choice(["DoNotSchedule", "ScheduleAnyway"])
        # No pod has this label, so nothing is ever skewed.
        rule = {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when}
        spec["topologySpreadConstraints"] = [rule | {"labelSelector": {"matchLabels": {"none": "such"}}}]
    if numbers.random() < 0.3:
        spec["tolerations"] = [{"key": "team", "operator": "Exists"}]
    return {"containers": [container], **spec}


def any_term(numbers: random.Random) -> dict[str, Any]:
    return {"matchExpressions": [any_expression(numbers) for _ in range(numbers.randint(1, 2))]}


def any_expression(numbers: random.Random) -> dict[str, Any]:
    key = numbers.choice([ZONE, "disk", "size", "absent"])
    operator = numbers.choice(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"])
    if operator in ("Exists", "DoesNotExist"):
        return {"key": key, "operator": operator}
    if operator in ("Gt", "Lt"):
        return {"key": key, "operator": operator, "values": [str(numbers.choice([3, 16, 63]))]}
    values = numbers.sample(["a", "b", "fast", "slow", "4", "many"], numbers.randint(1, 3))
    return {"key": key, "operator": operator, "values": values}


def test_the_scheduler_binds_exactly_the_pods_that_some_node_could_hold(
    plane: ControlPlane, namespace: str, nodes: list[Node]
) -> None:
    numbers, pods = random.Random(20261121), Pods(plane, namespace)
    mark = nodes[0].labels["mark"]
    made = {
        f"p{index}": pods.make("pods", {"metadata": {"name": f"p{index}"}, "spec": any_pod(numbers, mark)})
        for index in range(PODS)
    }
    said = {name: judge(need_of(pod), nodes, counted=True) for name, pod in made.items()}
    possible = {name for name, verdict in said.items() if verdict.possible}

    def is_settled(pod: dict[str, Any]) -> bool:
        # It is tried again when the scheduler hears that a node has lost its taint, later than we do.
        is_refused = scheduling(pod) == "Unschedulable" and pod["metadata"]["name"] not in possible
        return is_refused or bool(pod["spec"].get("nodeName"))

    for name in made:
        pods.pod_when(name, is_settled)
    bound = {pod["metadata"]["name"] for pod in pods.all() if pod["spec"].get("nodeName")}
    assert bound == possible, {
        name: (made[name]["spec"], said[name].text) for name in sorted(bound ^ possible)
    }
    lacking = {word for verdict in said.values() if not verdict.possible for word in verdict.lacking}
    assert {"affinity", "cpu"} <= lacking
    assert 20 < len(possible) < PODS - 20


def scheduling(pod: dict[str, Any]) -> str | None:
    """Why the scheduler has not bound it."""
    conditions = pod["status"].get("conditions") or ()
    return next((one.get("reason") for one in conditions if one["type"] == "PodScheduled"), None)
