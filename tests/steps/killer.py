"""Counts the lines of the product that a scheduler executes, and kills it at one of them.

It begins with the first ``queue_workload`` and goes on to the end of the
process, in every thread: what stages, records, publishes, observes, decides
and tells is counted alike. Lines of Airflow and of libraries are not.
"""

import os
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import hybrid_executor

PACKAGE = f"{Path(hybrid_executor.__file__).parent}/"


@dataclass(frozen=True)
class Point:
    """The n-th time that a line is about to be executed."""

    module: str
    line: int
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.module}:{self.line} (time {self.nth})"


class Killer:
    """Traces once it is armed; without a point it only counts."""

    def __init__(self, point: Point | None) -> None:
        self.lines: Counter[tuple[str, int]] = Counter()
        self._point = point
        self._is_armed = False

    def install(self) -> None:
        """In this thread and in those that are started from now on."""
        threading.settrace(self._entered)
        sys.settrace(self._entered)

    def _entered(self, frame: FrameType, event: str, _argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        if code.co_name == "queue_workload":
            self._is_armed = True
        return self._executed if self._is_armed and event == "call" else None

    def _executed(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            place = frame.f_code.co_filename.removeprefix(PACKAGE), frame.f_lineno
            self.lines[place] += 1
            point = self._point
            if point and place == (point.module, point.line) and self.lines[place] == point.nth:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._executed
