"""Fixtures for tests on a real control plane.

``plane`` is shared by all tests of a worker and whole before each; a test that
needs other settings starts its own with ``start_plane``. What a test makes
belongs in its ``namespace``.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.cluster import build
from tests.cluster.keda import Keda
from tests.cluster.plane import ControlPlane

StartPlane = Callable[..., ControlPlane]


@pytest.fixture(scope="session")
def built_programs() -> None:
    """For tests that start the programs by other ways than the fixtures here."""
    build.kubernetes()
    build.keda()


@pytest.fixture(scope="session")
def session_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane for nodes and other fixtures of a whole session; tests ask for ``plane``."""
    begin = time.monotonic()
    with ControlPlane.started(tmp_path_factory.mktemp("plane")) as plane:
        print(f"control plane ready in {time.monotonic() - begin:.1f} s")
        yield plane


@pytest.fixture
def plane(session_plane: ControlPlane) -> Iterator[ControlPlane]:
    """A control plane of which every server runs. Tests may kill them."""
    session_plane.heal()
    yield session_plane
    # What a module or the session has on it is set up before the next test's own fixtures.
    session_plane.heal()


@pytest.fixture
def start_plane(tmp_path: Path) -> Iterator[StartPlane]:
    """Start a plane of the test's own; arguments are those of ``ControlPlane.started``."""
    with ExitStack() as stack:

        def start(name: str = "plane", **options: Any) -> ControlPlane:
            context: AbstractContextManager[ControlPlane] = ControlPlane.started(tmp_path / name, **options)
            return stack.enter_context(context)

        yield start


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    """A new namespace in which pods can be created; deleted afterwards, without waiting for it."""
    name = f"test-{uuid4().hex[:10]}"
    plane.make_namespace(name)
    yield name
    plane.heal()
    code, answer = plane.request("DELETE", f"/api/v1/namespaces/{name}")
    assert code == 200, answer


@pytest.fixture(scope="session")
def session_keda(session_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keda]:
    """KEDA on the session's plane."""
    with Keda.started(session_plane, tmp_path_factory.mktemp("keda")) as running:
        yield running


@pytest.fixture
def keda(session_keda: Keda, plane: ControlPlane) -> Keda:
    """KEDA, with the plane whole again."""
    session_keda.heal()
    return session_keda
