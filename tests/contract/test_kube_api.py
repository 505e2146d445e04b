"""The embedded Kubernetes API holds to the contract; and what concerns its own process alone."""

from collections.abc import Iterator

import pytest

from tests.contract.kube.cluster import Client, Cluster
from tests.contract.kube.suite import *  # noqa: F403 - the suite's tests and fixtures
from tests.fixtures.embedded import embedded_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The embedded API with a node; shared, since each test has a namespace of its own."""
    with embedded_cluster(tmp_path_factory.mktemp("embedded")) as running:
        yield running


async def test_a_request_without_the_token_is_refused_with_401(client: Client) -> None:
    status, body = await client.call("GET", client.pods, headers={"Authorization": "Bearer wrong"})
    assert (status, body["kind"], body["reason"]) == (401, "Status", "Unauthorized")
