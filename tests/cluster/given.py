"""The whole stack with its pods on a real control plane.

The stack is a user that has the Roles in ``workers/rbac`` and no other right, in a
namespace that an administrator has made. Tests end the API server and the node by
the names that the stack gives its own.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

from hybrid_executor.standalone.stack.environment import POD_CONNECTION
from tests.chaos.scene import Scene
from tests.chaos.stage import cleared, opened
from tests.cluster.backend import role_rules
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.fixtures.stack import Elsewhere

ROLES = ("scheduler", "api-server")


@contextmanager
def given_cluster(plane: ControlPlane, node: RunnerNode | None = None) -> Iterator[dict[str, Any]]:
    """Keywords of ``running_stack`` for a new namespace; deleted afterwards, without waiting for it."""
    elsewhere = {"kubernetes": Elsewhere(lambda: plane.kill("apiserver"), plane.heal)}
    if node:
        elsewhere["runner"] = Elsewhere(node.kill, lambda: heal(node))
    for server in elsewhere.values():
        server.heal()
    namespace = f"stack-{uuid4().hex[:10]}"
    plane.make_namespace(namespace)
    rules = [rule for role in ROLES for rule in role_rules(role)]
    kubeconfig = plane.role_kubeconfig(f"stack-in-{namespace}", rules, namespace)
    yield {"kubeconfig": kubeconfig, "namespace": namespace, "elsewhere": elsewhere}
    plane.heal()
    code, answer = plane.request("DELETE", f"/api/v1/namespaces/{namespace}")
    assert code == 200, answer


def starting_pods(plane: ControlPlane, namespace: str, **more: Any) -> dict[str, str]:
    """The connection of tasks that start pods in a namespace: a user with the product's Role for it alone."""
    kubeconfig = plane.role_kubeconfig(f"starter-in-{namespace}", role_rules("pod-starter"), namespace)
    extra = {"kube_config_path": str(kubeconfig), "namespace": namespace, **more}
    return {POD_CONNECTION: json.dumps({"conn_type": "kubernetes", "extra": extra})}


@pytest.fixture(scope="module")
def plane_stack(
    session_plane: ControlPlane, module_runner: RunnerNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """The stack of a module of chaos tests."""
    with (
        given_cluster(session_plane, module_runner) as given,
        opened(
            tmp_path_factory.mktemp("stack"), starting_pods(session_plane, given["namespace"]), **given
        ) as scene,
    ):
        yield scene


@pytest.fixture
def scene(plane_stack: Scene) -> Iterator[Scene]:
    """It, whole and empty for one test."""
    with cleared(plane_stack) as scene:
        yield scene


def heal(node: RunnerNode) -> None:
    """Returns when the node runs and takes pods."""
    if not node.is_running:
        node.start()
    node.until_usable()
