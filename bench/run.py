"""Runs figures: each side in a process of its own, their rounds in turn, on servers that they share."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.figure import Case, Figure, Size
from bench.plan import rounds_of, turns
from bench.table import growth_rows, markdown, rows
from bench.world import ROOT, World
from hybrid_executor.standalone.stack.process import descendants, kill_all

Say = Callable[[str], None]
#: Longest wait for a word of a side. What takes longest is a ledger of 10,000,000 rows.
ANSWER_S = 900.0


class SideFailed(Exception):
    """A side ended or said nothing that can be read; the message shows the end of its log."""


class Incomplete(SideFailed):
    """Some of a run's figures failed; ``table`` has the rows of the others."""

    def __init__(self, message: str, table: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.table = table


class Side:
    """One side of one case, ready for its turns."""

    def __init__(
        self, figure: Figure, case: Case, side: str, environment: Mapping[str, str], log: Path
    ) -> None:
        self.name, self._log = side, log
        command = [sys.executable, "-m", "bench.side", figure.name, side, json.dumps(dict(case.parameters))]
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def answer(self) -> dict[str, float]:
        """Its next line. One that says nothing in ``ANSWER_S`` is ended."""
        assert self._process.stdout
        patience = threading.Timer(ANSWER_S, self._kill)
        patience.start()
        line = self._process.stdout.readline()
        patience.cancel()
        try:
            said: dict[str, float] = json.loads(line)
        except ValueError as error:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-25:])
            raise SideFailed(f"{self.name} ended; its log is {self._log}:\n{tail}") from error
        return said

    def turn(self) -> dict[str, float]:
        """One round."""
        assert self._process.stdin
        with suppress(BrokenPipeError):  # it has ended, as its answer tells
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """It ends with its standard input, and takes its own children along."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()

    def _kill(self) -> None:
        # Its children have its standard output too, and an end of it is waited for.
        children = descendants(self._process.pid)
        self._process.kill()
        kill_all(children)


@contextmanager
def opened(world: World, figure: Figure, case: Case, side: str) -> Iterator[Side]:
    """A side in a room of its own, not awaited yet."""
    log = world.folder / f"{figure.name}-{side}.log"
    needs = figure.needs | case.needs
    with world.room(side, delay_ms=case.delay_ms, needs=needs) as environment:
        settings = {f"AIRFLOW__{name}": value for name, value in case.settings.items()}
        opened = Side(figure, case, side, environment | settings, log)
        try:
            yield opened
        finally:
            opened.close()


def measure(world: World, figure: Figure, case: Case, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Every side's readings, round by round."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in figure.sides}
    if figure.fresh:
        for _, side in turns(figure.sides, rounds):
            with opened(world, figure, case, side) as one:
                one.answer()
                found[side].append(one.turn())
        return found
    with ExitStack() as stack:
        ready = {side: stack.enter_context(opened(world, figure, case, side)) for side in figure.sides}
        for one in ready.values():
            one.answer()
        for _, side in turns(figure.sides, rounds):
            found[side].append(ready[side].turn())
    return found


def run(
    world: World, figures: list[Figure], size: Size, rounds: int | None, say: Say
) -> list[dict[str, Any]]:
    """All rows; raises ``Incomplete`` at the end: one figure's failure costs no other its readings."""
    table, failures = [], []
    for figure in figures:
        cases: dict[str, dict[str, list[dict[str, float]]]] = {}
        for case in figure.chosen(size):
            began_s = time.monotonic()
            try:
                measured = measure(world, figure, case, rounds_of(figure, size, rounds))
                found = rows(figure, case, measured)
            except Exception as failure:  # noqa: BLE001 - told, and raised at the end
                # Servers, builds and sides may fail in any way, and an hour's other rows are worth keeping.
                failures.append(f"{figure.name}, {case.name}: {type(failure).__name__}: {failure}")
                say(f"failed: {failures[-1]}")
                continue
            cases[case.name] = measured
            table += found
            say(f"{figure.title}: {case.name} ({time.monotonic() - began_s:.0f} s)\n{markdown(found)}")
        if grown := growth_rows(figure, cases):
            table += grown
            say(f"{figure.title}: growth\n{markdown(grown)}")
    if failures:
        raise Incomplete("\n".join(failures), table)
    return table
