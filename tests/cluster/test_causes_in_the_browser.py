"""Why a task does not start, told by the browser alone: a kubelet that can't pull, a quota that is used up.

The stack is on this machine, its pods on a node with a kubelet. The causes that
need no cluster are in ``tests/browser``.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from hybrid_executor.model.reason import Reason
from hybrid_executor.standalone.stack.environment import option
from tests.cluster.given import given_cluster
from tests.cluster.kubelet.node import KubeletNode
from tests.cluster.plane import ControlPlane
from tests.fixtures.browser import LogIn, Picture, Site, tell_by_the_tab
from tests.fixtures.stack import RunningStack, running_stack, wait_until

# Where no node can run, that is told before a browser is looked for.
pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("node_possible")]

DAGS = Path(__file__).parent / "waits"
#: A pod without an image is not given up while pages are looked at.
PATIENT = {option("hybrid_executor", "fatal_wait_s"): "600"}
IMAGE = "images.test/team/model:9"
ONE_POD = {"pods": "1"}
REFUSED = "exceeded quota: team-quota, requested: pods=1, used: pods=1, limited: pods=1"


@pytest.fixture(scope="module")
def stack(session_kubelet: KubeletNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    session_kubelet.heal()
    with (
        given_cluster(session_kubelet.plane) as given,
        running_stack(tmp_path_factory.mktemp("waits"), DAGS, extra=PATIENT, **given) as running,
    ):
        yield running


@pytest.fixture
def site(stack: RunningStack) -> Site:
    setup = stack.stack.setup
    return Site(setup.airflow_url, setup.state / "passwords.json")


@pytest.fixture(scope="module")
def training(stack: RunningStack) -> str:
    """A run whose pod is on the node, which can't get its image."""
    return stack.trigger("training")


@pytest.fixture(scope="module")
def embedding(stack: RunningStack, training: str, session_kubelet: KubeletNode) -> str:
    """A run whose pod would be the second where the quota has room for one: the first is there."""
    plane = session_kubelet.plane
    wait_until(lambda: len(pods(plane, stack.namespace)) == 1, 120, lambda: "the first pod was never made")
    use_up_the_quota(plane, stack.namespace)
    return stack.trigger("embedding")


def pods(plane: ControlPlane, namespace: str) -> list[object]:
    found: list[object] = plane.request("GET", f"/api/v1/namespaces/{namespace}/pods")[1]["items"]
    return found


def use_up_the_quota(plane: ControlPlane, namespace: str) -> None:
    """One pod may be in the namespace, and there is one; returns when the cluster has counted it."""
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team-quota"}}
    code, answer = plane.request("POST", path, quota | {"spec": {"hard": ONE_POD}})
    assert code == 201, answer

    def used() -> object:
        return plane.request("GET", f"{path}/team-quota")[1].get("status", {}).get("used")

    wait_until(lambda: used() == ONE_POD, 120, lambda: f"the quota counts {used()}")


def test_the_tab_of_a_task_says_that_its_image_is_missing(
    log_in: LogIn, site: Site, training: str, picture: Picture
) -> None:
    page = log_in(site, height=700)
    url = f"{site.url}/dags/training/runs/{training}/tasks/train"
    tell_by_the_tab(page, url, Reason.IMAGE_PULL, IMAGE)
    picture(page, f"why-{Reason.IMAGE_PULL.lower()}")


def test_the_tab_of_a_task_says_which_quota_is_used_up(
    log_in: LogIn, site: Site, embedding: str, picture: Picture
) -> None:
    page = log_in(site, height=700)
    url = f"{site.url}/dags/embedding/runs/{embedding}/tasks/embed"
    tell_by_the_tab(page, url, Reason.QUOTA, REFUSED)
    picture(page, f"why-{Reason.QUOTA.lower()}")


def test_the_overview_names_both_among_what_has_not_started(
    log_in: LogIn, site: Site, training: str, embedding: str
) -> None:
    page = log_in(site)
    page.goto(f"{site.url}/plugin/hybrid-executor")
    assert_waits(page, "training.train", Reason.IMAGE_PULL, IMAGE)
    assert_waits(page, "embedding.embed", Reason.QUOTA, REFUSED)


def assert_waits(page: Page, task: str, reason: Reason, words: str) -> None:
    waiting = page.frame_locator("iframe").get_by_role("region", name="What has not started", exact=True)
    row = waiting.get_by_role("row").filter(has_text=task)
    expect(row).to_contain_text(f"{reason}: ")
    expect(row).to_contain_text(words)
