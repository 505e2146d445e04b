"""The contract over a real control plane whose node is a kubelet."""

import pytest

from tests.cluster import targets
from tests.cluster.kubelet.node import KubeletNode
from tests.cluster.targets import kubectl_program
from tests.contract.kube.cluster import Cluster
from tests.contract.kube.kubectl import *  # noqa: F403 - the suite's tests and fixtures
from tests.contract.kube.suite import *  # noqa: F403

__all__ = ["kubectl_program"]


@pytest.fixture
def cluster(kubelet: KubeletNode) -> Cluster:
    """The session's plane and its kubelet, whole."""
    return targets.with_kubelet(kubelet.plane)
