"""The runs that the end-to-end tests look at: all examples at once, on the one stack of the session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.examples import Examples, ran_examples
from tests.fixtures.stack import RunningStack

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The stack is one: all of these tests belong on one worker; the first of them waits for all runs."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("stack"))
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def examples(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examples]:
    """One run of every example."""
    with ran_examples(stack, tmp_path_factory.mktemp("rows") / "rows.csv") as ran:
        yield ran
