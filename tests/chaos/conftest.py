"""One stack for all chaos tests: killed and healed over and over, as a real one is.

``CHAOS_SEEDS`` says how many random kills are made, ``CHAOS_SEED`` the first seed, to repeat a run.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.scene import PARALLELISM, QUEUED_TIMEOUT_S, Scene
from tests.fixtures.stack import running_stack

HERE = Path(__file__).parent
SETTINGS = {
    "AIRFLOW__CORE__PARALLELISM": str(PARALLELISM),
    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "300",
    "AIRFLOW__HYBRID_EXECUTOR__KUBERNETES_PARALLELISM": "4",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": str(QUEUED_TIMEOUT_S),
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "64",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Print each seed as the id of its test."""
    if "seed" in metafunc.fixturenames:
        first = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
        count = int(os.environ.get("CHAOS_SEEDS") or 5)
        metafunc.parametrize("seed", range(first, first + count), ids=lambda seed: f"seed {seed}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The stack is one: all of these tests belong on one worker."""
    for item in items:
        if Path(item.path).is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("chaos"))


@pytest.fixture(scope="session")
def chaos_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("chaos")
    order = folder / "order"
    dags = HERE / "dags"
    paths = {"PYTHONPATH": f"{HERE / 'hook'}:{dags / 'policy'}", "CHAOS_ORDER": str(order)}
    with running_stack(folder / "state", dags, extra=SETTINGS | paths) as running:
        scene = Scene(running, order)
        scene.make_pool("blocked", 300)
        scene.make_pool("free", 50)
        yield scene


@pytest.fixture
def scene(chaos_stack: Scene) -> Iterator[Scene]:
    """The stack, whole again and empty before each test; what each must leave behind is checked after it."""
    chaos_stack.heal()
    chaos_stack.clear_stage()
    chaos_stack.begin()
    yield chaos_stack
    chaos_stack.heal()
    chaos_stack.check_scheduler_log()
