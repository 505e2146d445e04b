"""The contract over the embedded API with the runner: what ``make test`` holds it to, and kubectl."""

from collections.abc import Iterator

import pytest

from tests.cluster.targets import kubectl_program
from tests.contract.kube.cluster import Cluster
from tests.contract.kube.kubectl import *  # noqa: F403 - the suite's tests and fixtures
from tests.contract.kube.suite import *  # noqa: F403
from tests.fixtures.embedded import embedded_cluster

__all__ = ["kubectl_program"]
pytestmark = pytest.mark.xdist_group("contract-embedded")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The embedded API with a node."""
    with embedded_cluster(tmp_path_factory.mktemp("embedded")) as running:
        yield running
