"""Before any test: programs are built outside of its time. Tests that share a plane stay on one worker."""

import os
from pathlib import Path

import pytest

from tests.cluster import build

HERE = Path(__file__).parent
#: The contract's clusters: one of somebody's, or ours.
_OURS, _GIVEN = ["test_contract_runner.py", "test_contract_kubelet.py"], ["test_contract_given.py"]
collect_ignore = _OURS if os.environ.get("KUBECONFIG") else _GIVEN
# Nobody's git-sync is here unless somebody says where.
collect_ignore += [] if os.environ.get("GIT_SYNC") else ["test_git_dags.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One session plane, one worker; a test with a group of its own keeps it."""
    for item in items:
        if not Path(item.path).is_relative_to(HERE):
            continue
        shared = "session_plane" in getattr(item, "fixturenames", ())
        if shared and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("plane"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the chosen tests run on."""
    fixtures = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if session.config.option.collectonly:
        return
    if {"built_programs", "session_plane", "start_plane", "kubectl_program"} & fixtures:
        build.kubernetes()
    if {"built_programs", "session_keda"} & fixtures:
        build.keda()
