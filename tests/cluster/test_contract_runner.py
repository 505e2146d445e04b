"""The contract over a real control plane whose node is the runner."""

from collections.abc import Iterator

import pytest

from tests.cluster import targets
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.cluster.targets import kubectl_program
from tests.contract.kube.cluster import Cluster
from tests.contract.kube.kubectl import *  # noqa: F403 - the suite's tests and fixtures
from tests.contract.kube.suite import *  # noqa: F403

__all__ = ["kubectl_program"]
pytestmark = pytest.mark.xdist_group("contract-runner")


@pytest.fixture(scope="module")
def cluster(built_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A plane and a node of this module's own."""
    folder = tmp_path_factory.mktemp("contract")
    with (
        ControlPlane.started(folder / "plane") as plane,
        RunnerNode.started(plane, options=("--restart-backoff-s", "0.1")),
    ):
        yield targets.with_runner(plane)
