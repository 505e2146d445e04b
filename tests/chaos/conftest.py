"""One stack for all chaos tests.

``CHAOS_STEPS`` says at how many steps of a task's way a scheduler is killed, ``CHAOS_SEEDS`` how many random
kills the whole stack suffers, ``CHAOS_SEED`` the first seed of both, to repeat a run.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.kill_suite import GAPS, SERVICES, parametrize, seeds_of
from tests.chaos.scene import Scene
from tests.chaos.stage import cleared, opened

HERE = Path(__file__).parent
KILLED = pytest.StashKey[Counter[str]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All gaps, services and steps."""
    parametrize(metafunc, int(os.environ.get("CHAOS_SEEDS") or 5), list(GAPS), SERVICES)
    if "step_seed" in metafunc.fixturenames:
        seeds = seeds_of(int(os.environ.get("CHAOS_STEPS") or 20))
        metafunc.parametrize("step_seed", seeds, ids=lambda seed: f"seed {seed}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The stack is one: all of these tests belong on one worker."""
    for item in items:
        if Path(item.path).is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("chaos"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Where schedulers were killed, step by step."""
    if killed := config.stash.get(KILLED, None):
        terminalreporter.section(f"{killed.total()} schedulers killed, by module of the line")
        terminalreporter.write_line(", ".join(f"{name} {count}" for name, count in killed.most_common()))


@pytest.fixture(scope="session")
def chaos_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with opened(tmp_path_factory.mktemp("chaos")) as scene:
        yield scene


@pytest.fixture
def scene(chaos_stack: Scene) -> Iterator[Scene]:
    with cleared(chaos_stack) as scene:
        yield scene
