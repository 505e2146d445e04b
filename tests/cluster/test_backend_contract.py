"""The Kubernetes backend keeps the contract of every backend, on a real control plane.

Under the Role of ``workers/rbac`` and no other right; with real processes in
its pods; the other side goes away because the API server is killed.
"""

from tests.contract.backend_suite import BackendSuite, WitnessSuite


class TestBackendOnARealControlPlane(BackendSuite):
    """As any other."""


class TestWitnessOnARealControlPlane(WitnessSuite):
    """A pod outlives its end."""
