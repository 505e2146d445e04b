"""A run that held one cluster to less than another is no green run, and says how many tests each had."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOTH = "def test_a(): pass\ndef test_b(): pass\n"
SKIPS = "import pytest\ndef test_a(): pytest.skip('no node')\ndef test_b(): pytest.skip('no node')\n"


def run(folder: Path, **modules: str) -> tuple[int, str]:
    """Pytest's exit code and output over contract modules of these names."""
    place = folder / "tests" / "cluster"
    place.mkdir(parents=True)
    for name, text in modules.items():
        (place / f"test_contract_{name}.py").write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.cluster.contract_counts",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, f"--rootdir={folder}", "tests/cluster"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_same_tests_over_each_target_are_counted(tmp_path: Path) -> None:
    code, said = run(tmp_path, embedded=BOTH, runner=BOTH)
    assert code == 0, said
    assert "embedded      2 run,    2 passed\nrunner        2 run,    2 passed\n" in said


def test_a_test_that_ran_over_one_target_alone_fails_the_run(tmp_path: Path) -> None:
    code, said = run(tmp_path, embedded=BOTH, runner="def test_a(): pass\n")
    assert code == 1, said
    assert "not run over runner: test_b" in said


def test_a_target_that_cannot_run_here_is_said_and_fails_nothing(tmp_path: Path) -> None:
    code, said = run(tmp_path, embedded=BOTH, kubelet=SKIPS)
    assert code == 0, said
    assert "kubelet       0 run,    0 passed, 2 not run here" in said
