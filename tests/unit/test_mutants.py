"""Each mutant can still be made: it names tests that exist, and its patch fits the product as it is."""

import ast
import subprocess
from functools import cache

import pytest

from tests.mutants.mutant import Mutant, chosen
from tests.mutants.run import ROOT

MUTANTS = chosen([])


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_the_patch_applies_and_its_tests_exist(mutant: Mutant) -> None:
    done = subprocess.run(
        ["git", "apply", "--check", str(mutant.path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for test in mutant.tests:
        path, *names = test.partition("[")[0].split("::")
        assert (ROOT / path).exists(), test
        assert is_defined(names, path) or is_inherited(names), test


def is_defined(names: list[str], path: str) -> bool:
    scope: list[ast.stmt] = ast.parse((ROOT / path).read_text()).body
    for name in names:
        found = [
            n
            for n in scope
            if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and n.name == name
        ]
        if not found:
            return False
        scope = found[0].body
    return True


def is_inherited(names: list[str]) -> bool:
    """A test of a suite that the named class derives from: the suite is in a module of its own."""
    return len(names) == 2 and f"def {names[1]}(" in all_tests()


@cache
def all_tests() -> str:
    return "".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")))
