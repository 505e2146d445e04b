"""Fixtures for tests on a node with a real kubelet, and the list of those that could not run here.

``kubelet`` is shared by all tests of a worker, with the Airflow image, and whole
before each. Where the machine has no root or lacks a feature, tests that ask for
it are skipped, and the end of the run names and numbers them with the reason.
As root on a machine that has it all, none is.
"""

import time
from collections.abc import Iterator
from functools import cache
from uuid import uuid4

import pytest

from tests.cluster.kubelet import packages
from tests.cluster.kubelet.__main__ import prepare
from tests.cluster.kubelet.node import KubeletNode, running_cluster
from tests.cluster.kubelet.workload import Workload

REASON = "no kubelet node here: "
#: Fixtures that stand for a node; a test that starts its own asks for the first.
NEEDS_NODE = {"node_possible", "session_kubelet", "kubelet", "workload"}

obstacles = cache(packages.obstacles)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One session's node, one worker; a test with a group of its own keeps it."""
    for item in items:
        shared = "session_kubelet" in getattr(item, "fixturenames", ())
        if shared and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("kubelet"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the chosen tests run on, outside of their time."""
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())} & NEEDS_NODE
    if wanted and not session.config.option.collectonly and not obstacles():
        prepare()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were not run for want of a node."""
    skipped = {
        report.nodeid: report.longrepr[2].partition(REASON)[2]
        for report in terminalreporter.getreports("skipped")
        if isinstance(report.longrepr, tuple) and REASON in report.longrepr[2]
    }
    if not skipped:
        return
    terminalreporter.section(f"{len(skipped)} tests not run: they need a real kubelet")
    for reason in sorted(set(skipped.values())):
        terminalreporter.line(f"why: {reason}")
    for number, name in enumerate(sorted(skipped), 1):
        terminalreporter.line(f"{number:4}. {name}")


@pytest.fixture(scope="session")
def node_possible() -> None:
    """For tests that start a node of their own."""
    if obstacles():
        pytest.skip(REASON + "; ".join(obstacles()))


@pytest.fixture(scope="session")
def session_kubelet(node_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeletNode]:
    """A plane and its kubelet node for a whole session; tests ask for ``kubelet``."""
    begin = time.monotonic()
    with running_cluster(tmp_path_factory.mktemp("kubelet"), airflow=True) as node:
        print(f"control plane and kubelet node ready in {time.monotonic() - begin:.1f} s")
        yield node


@pytest.fixture
def kubelet(session_kubelet: KubeletNode) -> KubeletNode:
    """A node, and its plane, of which every server runs. Tests may kill them."""
    session_kubelet.heal()
    return session_kubelet


@pytest.fixture
def workload(kubelet: KubeletNode) -> Iterator[Workload]:
    """A new namespace on the node's plane; deleted afterwards, without waiting for it."""
    name = f"test-{uuid4().hex[:10]}"
    kubelet.plane.make_namespace(name)
    yield Workload(kubelet.plane, name)
    kubelet.heal()
    code, answer = kubelet.plane.request("DELETE", f"/api/v1/namespaces/{name}")
    assert code == 200, answer
