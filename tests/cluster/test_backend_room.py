"""What a pod would fit on, on a real API server with its own scheduler, by the ClusterRole alone."""

import asyncio
import logging
from typing import Any

import pytest
import yaml

from hybrid_executor.backends.kubernetes.config import RoomTiming
from hybrid_executor.backends.kubernetes.permissions import NEEDED_FOR_VIEW, Permissions
from hybrid_executor.model.observation import Started, Waiting
from hybrid_executor.model.reason import Reason
from tests.cluster.access import RBAC
from tests.cluster.backend import ROLES, ClusterHarness, HarnessMaker, Sender
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.contract.backend_suite import Fate
from tests.fixtures.kube import until

SOON = RoomTiming(nodes_every_s=1.0, pods_every_s=1.0, patience_s=2.0, refused_s=1.0)


def grant(plane: ControlPlane, user: str) -> None:
    """The product's ClusterRole, to one user."""
    role: dict[str, Any] = yaml.safe_load((ROLES / "cluster-view-clusterrole.yaml").read_text())
    name = role["metadata"]["name"]
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
    }
    plane.apply(role, binding)


def started(
    runner: RunnerNode, plane: ControlPlane, namespace: str, start_harness: HarnessMaker
) -> ClusterHarness:
    return start_harness(plane, namespace, cluster_view=True, room=SOON)


def said(sender: Sender, sent: Any, *words: str) -> Waiting:
    """The first wait that has all these words."""

    def look() -> list[Any]:
        waits = (o for o in sender.of(sent.id) if isinstance(o, Waiting))
        return [o for o in waits if all(word in o.message for word in words)]

    sender.until(lambda: bool(look()), " and ".join(words))
    found = look()[0]
    assert isinstance(found, Waiting)
    return found


def test_a_pod_that_no_node_can_hold_names_the_nearest_beside_the_schedulers_words(
    runner: RunnerNode, plane: ControlPlane, namespace: str, start_harness: HarnessMaker
) -> None:
    harness = started(runner, plane, namespace, start_harness)
    grant(plane, harness.user)
    sender = Sender(harness)
    huge = harness.submission(Fate.SUCCEEDS, container={"resources": {"requests": {"cpu": "4k"}}})
    sender.send(huge)
    wait = said(sender, huge, f"{runner.name} comes nearest", "cpu of the 4000", "Insufficient cpu")
    assert wait.reason is Reason.NO_NODE


def test_a_pod_that_waits_for_others_says_for_what_and_then_runs(
    runner: RunnerNode, plane: ControlPlane, namespace: str, start_harness: HarnessMaker
) -> None:
    harness = started(runner, plane, namespace, start_harness)
    grant(plane, harness.user)
    sender = Sender(harness)
    code, node = plane.request("GET", f"/api/v1/nodes/{runner.name}")
    assert code == 200, node
    most = {"resources": {"requests": {"memory": node["status"]["allocatable"]["memory"]}}}
    first, second = (harness.submission(Fate.BLOCKS, container=most) for _ in range(2))
    sender.send(first)
    sender.until_kind(Started, [first.id])
    sender.send(second)
    wait = said(sender, second, f"{runner.name} could hold it", "memory are taken by others")
    assert wait.reason is Reason.UNSCHEDULABLE
    harness.finish(first.id)
    sender.until_kind(Started, [second.id])


def test_without_the_cluster_role_the_schedulers_own_words_are_shown(
    runner: RunnerNode,
    plane: ControlPlane,
    namespace: str,
    start_harness: HarnessMaker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "hybrid_executor.kubernetes")
    harness = started(runner, plane, namespace, start_harness)
    sender = Sender(harness)
    huge = harness.submission(Fate.SUCCEEDS, container={"resources": {"requests": {"cpu": "4k"}}})
    sender.send(huge)
    wait = said(sender, huge, "Insufficient cpu")
    assert wait.reason is Reason.UNSCHEDULABLE
    assert wait.message.startswith("0/1 nodes are available")
    until(lambda: 'cannot list resource "nodes"' in caplog.text, "the right that is missing was not named")

    async def ask() -> list[str]:
        permissions = Permissions(harness.config)
        try:
            return await permissions.missing(None, NEEDED_FOR_VIEW)
        finally:
            await permissions.close()

    assert asyncio.run(ask()) == ["list nodes", "list pods"]
    grant(plane, harness.user)
    until(lambda: asyncio.run(ask()) == [], "the ClusterRole is not enough")
