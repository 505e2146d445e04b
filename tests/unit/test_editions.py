"""The editions of Airflow's contract, side by side: only one of them can be imported here."""

import ast
from pathlib import Path

import pytest

from hybrid_executor.contract import edition

FOLDER = Path(edition.__file__).parent
EDITIONS = sorted(FOLDER.glob("airflow_*.py"))
PACKAGE = FOLDER.parent


def offered(path: Path) -> set[str]:
    """What a module defines for others."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def chosen() -> dict[str, set[str]]:
    """What is taken from which edition."""
    tree = ast.parse(Path(edition.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {
        node.module.rpartition(".")[2]: {alias.name for alias in node.names}
        for node in imports
        if "contract.airflow_" in (node.module or "")
    }


@pytest.mark.parametrize("path", EDITIONS, ids=lambda path: path.stem)
def test_every_edition_offers_what_is_taken_from_it_and_nothing_else(path):
    assert offered(path) == chosen()[path.stem]


def test_every_edition_is_taken_by_the_same_names():
    names = list(chosen().values())
    assert len(names) == len(EDITIONS) > 1
    assert all(one == names[0] for one in names)


def test_nothing_outside_the_contract_asks_for_the_version_or_knows_an_edition():
    others = [path for path in PACKAGE.rglob("*.py") if FOLDER not in path.parents]
    words = ("A_ROW_PER_TRY", "airflow_3_")
    knowing = {path.name for path in others if any(word in path.read_text() for word in words)}
    assert knowing == {"airflowtables.py"}
