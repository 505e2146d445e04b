"""What users do to tasks in pods, and evictions that a route forgives."""

from collections.abc import Callable

import pytest

from tests.chaos.pod_suite import DeathSuite, UserSuite
from tests.chaos.scene import Scene
from tests.chaos.starter_suite import StarterSuite


@pytest.fixture
def evict(scene: Scene) -> Callable[[str], None]:
    return scene.evict


class TestUsers(UserSuite):
    """On the embedded cluster."""


class TestDeaths(DeathSuite):
    """On the embedded cluster."""


class TestStarters(StarterSuite):
    """On the embedded cluster."""
