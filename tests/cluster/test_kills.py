"""Kill -9 in the middle of runs whose pods are on a real control plane.

A few of the kills that ``make chaos`` makes: one random moment, both gaps that concern
a pod alone, and the API server itself. ``make test-cluster KILLS=all SEEDS=5 ARGS="-k kills"``
makes all, five of them at random moments.
"""

import os
from collections.abc import Iterator

import pytest

from tests.chaos.kill_suite import GAPS, SERVICES, OutageSuite, SchedulerKillSuite, parametrize
from tests.chaos.scene import Scene
from tests.chaos.stage import cleared, opened
from tests.cluster.given import given_cluster
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode

pytestmark = pytest.mark.timeout(600)

#: A pod that the ledger does not know yet, and an end that it does not know yet.
FEW_GAPS = ("the pod's creation and its Secret", "the event and the ledger")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Few, unless all are wanted."""
    if os.environ.get("CHAOS_KILLS") == "all":
        parametrize(metafunc, int(os.environ.get("CHAOS_SEEDS") or 5), list(GAPS), SERVICES)
    else:
        parametrize(metafunc, 1, FEW_GAPS, ["kubernetes"])


@pytest.fixture(scope="module")
def plane_stack(
    session_plane: ControlPlane, module_runner: RunnerNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    with (
        given_cluster(session_plane, module_runner) as given,
        opened(tmp_path_factory.mktemp("kills"), **given) as scene,
    ):
        yield scene


@pytest.fixture
def scene(plane_stack: Scene) -> Iterator[Scene]:
    with cleared(plane_stack) as scene:
        yield scene


class TestSchedulerKillsOnARealControlPlane(SchedulerKillSuite):
    """Nothing runs twice."""


class TestOutagesOnARealControlPlane(OutageSuite):
    """A kube-apiserver that dies takes no run with it."""
