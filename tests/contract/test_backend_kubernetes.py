"""The Kubernetes backend keeps the contract of every backend, over the embedded API."""

from collections.abc import Iterator

import pytest

from tests.contract.backend_suite import BackendSuite, WitnessSuite
from tests.fixtures.kube import Kube
from tests.fixtures.puppet import KubernetesHarness


@pytest.fixture
def harness(kube: Kube) -> Iterator[KubernetesHarness]:
    made = KubernetesHarness(kube)
    yield made
    made.close()


class TestKubernetesBackend(BackendSuite):
    """As any other."""


class TestKubernetesWitness(WitnessSuite):
    """A pod outlives its end."""
