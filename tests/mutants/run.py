"""Runs mutants: each in a copy of the working tree, with the tests that it names.

A mutant is *killed* if one of its tests fails while it runs. A failure of
collection or set-up kills nothing: it proves that the patch broke the test and
not that the test holds the promise. ``__main__`` is the caller.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hybrid_executor.standalone.stack.process import descendants, kill_all, wait_gone
from tests.mutants.mutant import Mutant
from tests.mutants.witness import COPY, REPORT

ROOT = Path(__file__).parents[2]
PR_SET_CHILD_SUBREAPER = 36
#: No mutant's tests may take longer; most need a few seconds, and tests have deadlines of their own, which a
#: mutant often makes them wait for on a machine that is busy with other mutants.
LIMIT_S = 400
#: Only what the tests need: finding and loading all installed plugins costs more than most tests.
PLUGINS = ["--disable-plugin-autoload"] + [
    word
    for name in (
        "pytest_asyncio.plugin",
        "pytest_timeout",
        "_hypothesis_pytestplugin",
        "tests.mutants.witness",
    )
    for word in ("-p", name)
]


class Verdict(StrEnum):
    """What became of a mutant."""

    KILLED = "killed by"
    SURVIVED = "SURVIVED"
    STALE = "patch does not apply"
    #: Its tests could not run: they prove nothing.
    BROKEN = "BROKEN"


@dataclass(frozen=True, slots=True)
class Result:
    """One mutant's end."""

    mutant: Mutant
    verdict: Verdict
    words: str
    seconds: float


def adopt_orphans() -> None:
    """Become the parent of whatever a mutated run leaves behind, so that ``run`` can end it."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(mutant: Mutant, pristine: Path, shared: Path) -> Result:
    """Copy, patch, test, and end every process that the mutant left. Safe to call in parallel processes.

    ``pristine`` is a copy whose tests have run: it brings its compiled files along.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(pristine, copy)
        verdict, words = _tried(mutant, copy, Path(folder), shared)
        _end_leftovers()
    return Result(mutant, verdict, words, time.monotonic() - began)


def copy_tree(target: Path) -> None:
    """Copy the working tree but for what git ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def pytest_command(tests: list[str], folder: Path, *options: str) -> list[str]:
    """Pytest over these tests, with nothing written outside ``folder``."""
    return [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        f"--basetemp={folder / 'tmp'}", *options, *tests,
    ]  # fmt: skip


def environment(copy: Path, shared: Path) -> dict[str, str]:
    """Every process of the run imports the copy, and shares one PostgreSQL with the other runs."""
    return os.environ | {
        "PYTHONPATH": str(copy),
        "HYBRID_TEST_RUN_FOLDER": str(shared),
        COPY: str(copy),
    }


def _tried(mutant: Mutant, copy: Path, folder: Path, shared: Path) -> tuple[Verdict, str]:
    applied = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", str(mutant.path)],
        cwd=copy,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if applied.returncode:
        return Verdict.STALE, applied.stderr.strip().partition("\n")[0]
    report = folder / "report.json"
    options = ["-x", f"--timeout={LIMIT_S}", *PLUGINS]
    command = pytest_command(list(mutant.tests), folder, *options)
    env = environment(copy, shared) | {REPORT: str(report)}
    try:
        done = subprocess.run(
            command, cwd=copy, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Verdict.BROKEN, f"its tests did not end within {LIMIT_S} s"
    return _judged(done, report)


def _judged(done: "subprocess.CompletedProcess[str]", report: Path) -> tuple[Verdict, str]:
    """Pytest's exit code 1 means that tests ran and failed, 0 that all passed; all else is no verdict."""
    if done.returncode == 0:
        return Verdict.SURVIVED, ""
    failures = json.loads(report.read_text()) if report.exists() else []
    held = [failure for failure in failures if failure["phase"] != "setup"]
    if done.returncode == 1 and held:
        return Verdict.KILLED, f"{held[0]['test'].rpartition('::')[2]}: {held[0]['words']}"
    tail = (done.stdout + done.stderr).strip().splitlines()[-3:]
    words = failures[0]["words"] if failures else " | ".join(tail)
    return Verdict.BROKEN, f"pytest ended with {done.returncode}: {words}"


def _end_leftovers() -> None:
    left = descendants(os.getpid())
    kill_all(left)
    wait_gone(left, 5)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return
