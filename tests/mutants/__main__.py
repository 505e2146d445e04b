"""``python -m tests.mutants [--one-in N] [NAME ...]``: each deliberate fault makes its named test fail.

First every named test runs against the product as it is, and must pass. Then
the mutants run, three at a time. One line for each; exits with 1 unless all are
killed.
"""

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hybrid_executor.standalone.stack.postgres import PostgresServer
from hybrid_executor.standalone.stack.process import descendants, kill_all
from tests.mutants.mutant import BadMutant, Mutant, chosen, sampled
from tests.mutants.run import (
    ROOT,
    Result,
    Verdict,
    adopt_orphans,
    copy_tree,
    environment,
    pytest_command,
    run,
)

#: More than two cores' worth: a mutant often makes its test wait for a deadline.
WORKERS = 3
#: What they show is of use to somebody who writes a mutant, at no more than a line.
WIDTH = 150


def main(arguments: list[str]) -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("names", nargs="*", help="all of them without a name")
    parser.add_argument(
        "--one-in", type=int, default=1, help="run a sample; another one when the package changes"
    )
    asked = parser.parse_args(arguments)
    began = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, give_up)
    try:
        mutants = sampled(chosen(asked.names), asked.one_in, product() if asked.one_in > 1 else "")
    except BadMutant as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, shared_postgres(Path(folder)) as shared:
        pristine = Path(folder) / "copy"
        copy_tree(pristine)
        if not sound(mutants, pristine, shared):
            return 1
        print(f"the named tests pass as it is ({time.monotonic() - began:.0f} s)", flush=True)
        results = list(run_all(mutants, pristine, shared))
    alive = [result for result in results if result.verdict is not Verdict.KILLED]
    print(f"{len(results) - len(alive)} of {len(results)} killed in {time.monotonic() - began:.0f} s")
    for result in alive:
        print(f"  {result.mutant.name}: {result.verdict} {result.words}\n    {result.mutant.promise}")
    return 1 if alive else 0


def product() -> str:
    """The package as it is committed."""
    command = ["git", "rev-parse", "HEAD:hybrid_executor"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def give_up(number: int, _frame: object) -> NoReturn:
    """End all runs at once: a pool would first work off all that waits."""
    kill_all(descendants(os.getpid()))
    sys.exit(128 + number)


@contextmanager
def shared_postgres(folder: Path) -> Iterator[Path]:
    """One server, and one migrated template, for all runs: the folder where their fixtures find it."""
    shared = folder / "shared"
    home = shared / "postgres"
    home.mkdir(parents=True, mode=0o700)
    server = PostgresServer(home / "server")
    server.start()
    note = home / "running.json"
    note.write_text(json.dumps([os.getpid(), server.port, str(server.state)]), encoding="utf-8")
    try:
        yield shared
    finally:
        server.stop()


def sound(mutants: list[Mutant], copy: Path, shared: Path) -> bool:
    """Whether every named test passes against the unpatched copy."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    command = pytest_command(tests, copy.parent, "-n2", "--dist=loadgroup")
    done = subprocess.run(
        command, cwd=copy, env=environment(copy, shared), capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{done.stdout}{done.stderr}\nthe named tests do not pass without a mutant", file=sys.stderr)
    return done.returncode == 0


def run_all(mutants: list[Mutant], pristine: Path, shared: Path) -> Iterator[Result]:
    """Each result as it comes; those that need the whole stack come last, one at a time."""
    groups = [
        ([m for m in mutants if not m.needs_stack], WORKERS),
        ([m for m in mutants if m.needs_stack], 1),
    ]
    for group, workers in groups:
        with ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context("spawn"), initializer=adopt_orphans
        ) as pool:
            for future in as_completed([pool.submit(run, mutant, pristine, shared) for mutant in group]):
                result = future.result()
                print(line_of(result), flush=True)
                yield result


def line_of(result: Result) -> str:
    """One line for a person."""
    line = f"{result.seconds:5.1f} s  {result.mutant.name}: {result.verdict} {result.words}"
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
