"""Every DAG in dags/ on the whole stack, with its pods on a real control plane whose node is the runner."""

from collections.abc import Iterator

import pytest

from tests.cluster.given import given_cluster, starting_pods
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.e2e.examples import Examples, ran_examples
from tests.e2e.examples_suite import ExamplesSuite
from tests.fixtures.stack import RunningStack, running_stack, with_all_dags

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stack(
    session_plane: ControlPlane, module_runner: RunnerNode, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningStack]:
    dags = with_all_dags(tmp_path_factory.mktemp("dags"))
    with (
        given_cluster(session_plane, module_runner) as given,
        running_stack(
            tmp_path_factory.mktemp("stack"),
            dags,
            extra=starting_pods(session_plane, given["namespace"]),
            **given,
        ) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def examples(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examples]:
    with ran_examples(stack, tmp_path_factory.mktemp("rows") / "rows.csv") as ran:
        yield ran


class TestExamplesOnARealControlPlane(ExamplesSuite):
    """As on the embedded cluster."""

    def test_pods_were_bound_by_the_scheduler_of_kubernetes(
        self, examples: Examples, stack: RunningStack, session_plane: ControlPlane
    ) -> None:
        path = f"/api/v1/namespaces/{stack.namespace}/events"
        events = session_plane.request("GET", path)[1]["items"]
        bound = {event["involvedObject"]["name"] for event in events if event["reason"] == "Scheduled"}
        assert bound == set(examples.pods.pods)
