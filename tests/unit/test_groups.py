"""That xdist keeps groups together: stacks and control planes are shared by what is in one group."""

import subprocess
import sys
from pathlib import Path

GROUPED = """
import os, pathlib, pytest

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_of_a_group(number):
    pathlib.Path(__file__).with_name(f"{number}.worker").write_text(os.environ["PYTEST_XDIST_WORKER"])
"""


def test_tests_of_one_group_run_on_one_worker(tmp_path: Path) -> None:
    suite = tmp_path / "test_grouped.py"
    suite.write_text(GROUPED)
    run = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "--dist",
        "loadgroup",
        "--rootdir",
        tmp_path,
        suite,
    ]
    subprocess.run(run, check=True, cwd=tmp_path)
    workers = [file.read_text() for file in tmp_path.glob("*.worker")]
    assert len(workers) == 8
    assert len(set(workers)) == 1
