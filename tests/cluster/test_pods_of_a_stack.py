"""What users do to tasks in pods, and evictions that a route forgives, on a real control plane."""

from collections.abc import Callable

import pytest

from tests.chaos.pod_suite import DeathSuite, UserSuite
from tests.chaos.scene import Scene
from tests.chaos.starter_suite import StarterSuite
from tests.cluster.plane import ControlPlane

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def evict(scene: Scene, session_plane: ControlPlane) -> Callable[[str], None]:
    def ask(name: str) -> None:
        namespace = scene.stack.namespace
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        }
        url = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
        code, answer = session_plane.request("POST", url, eviction)
        assert code == 201, answer

    return ask


class TestUsersOnARealControlPlane(UserSuite):
    """The stack has the product's Roles and no other right."""


class TestDeathsOnARealControlPlane(DeathSuite):
    """The eviction API is asked by an administrator, as a drain or an autoscaler does."""


class TestStartersOnARealControlPlane(StarterSuite):
    """Tasks that start pods have the Role for it and no other right, as workers, pods and triggerer."""
