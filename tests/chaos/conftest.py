"""One stack for all chaos tests.

``CHAOS_SEEDS`` says how many random kills are made, ``CHAOS_SEED`` the first seed, to repeat a run.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.kill_suite import GAPS, SERVICES, parametrize
from tests.chaos.scene import Scene
from tests.chaos.stage import cleared, opened

HERE = Path(__file__).parent


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All gaps and services."""
    parametrize(metafunc, int(os.environ.get("CHAOS_SEEDS") or 5), list(GAPS), SERVICES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The stack is one: all of these tests belong on one worker."""
    for item in items:
        if Path(item.path).is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("chaos"))


@pytest.fixture(scope="session")
def chaos_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with opened(tmp_path_factory.mktemp("chaos")) as scene:
        yield scene


@pytest.fixture
def scene(chaos_stack: Scene) -> Iterator[Scene]:
    with cleared(chaos_stack) as scene:
        yield scene
