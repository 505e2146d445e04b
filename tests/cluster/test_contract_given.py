"""The contract over the cluster that ``KUBECONFIG`` names; collected where it is set."""

import os
from pathlib import Path

import pytest

from tests.cluster import targets
from tests.cluster.targets import kubectl_program
from tests.contract.kube.cluster import Cluster
from tests.contract.kube.kubectl import *  # noqa: F403 - the suite's tests and fixtures
from tests.contract.kube.suite import *  # noqa: F403

__all__ = ["kubectl_program"]
# Its first revision is forgotten within ten minutes of its birth.
pytestmark = [pytest.mark.xdist_group("contract-given"), pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """Somebody's cluster."""
    return targets.given(Path(os.environ["KUBECONFIG"]))
