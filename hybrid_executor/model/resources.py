"""What the container that ran a task had asked for, and what it took; and how samples become that.

Pure arithmetic and one text format: the entry point in a pod writes it into the
container's termination message, the runner into an annotation, and the reader
of pods takes it from there. Whoever measures calls ``Tally``.

CPU is compressible, so what it took is told twice: the seconds, which add up
and are exact, and the busiest minute, which is what a request has to cover. A
shorter window would tell of little but the start of the interpreter.
"""

import json
from collections import deque
from dataclasses import dataclass

#: Over how long the use of CPU is averaged before the highest counts.
WINDOW_S = 60.0
#: How a line with measurements begins.
MARK = "hybrid-executor used "


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Of one container. None: not set, or not known."""

    #: Thousandths of a processor.
    cpu_request_m: int | None = None
    memory_request_bytes: int | None = None
    memory_limit_bytes: int | None = None
    #: Of the busiest minute, or of all its life if that was shorter.
    cpu_peak_m: int | None = None
    #: Processor time in all.
    cpu_used_s: float | None = None
    memory_peak_bytes: int | None = None


#: What is measured; the rest stands in the pod's specification.
MEASURED = ("cpu_peak_m", "cpu_used_s", "memory_peak_bytes")


def to_line(used: Resources) -> str:
    """The measurements in one line, to be read by ``from_line``."""
    return MARK + json.dumps({name: getattr(used, name) for name in MEASURED})


def from_line(line: str) -> Resources | None:
    """What such a line says; None for any other text, a line that was cut among it."""
    try:
        found = json.loads(line.removeprefix(MARK)) if line.startswith(MARK) else None
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    numbers = {name: found.get(name) for name in MEASURED}
    if not all(value is None or _is_amount(value) for value in numbers.values()):
        return None
    cpu_s = numbers["cpu_used_s"]
    return Resources(
        cpu_peak_m=_whole(numbers["cpu_peak_m"]),
        cpu_used_s=None if cpu_s is None else float(cpu_s),
        memory_peak_bytes=_whole(numbers["memory_peak_bytes"]),
    )


def _is_amount(value: object) -> bool:
    # Anything may stand in a message: what no column of the ledger takes is no measurement.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


class Tally:
    """Keeps the peaks of a series of samples, from the container's start (second 0, nothing used)."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque([(0.0, 0.0)])
        self._cpu_peak = 0.0
        self._memory_peak_bytes = 0

    def add(self, at_s: float, cpu_s: float, memory_bytes: int) -> None:
        """One sample: when, the processor time until then, and the memory in use at that moment."""
        self._memory_peak_bytes = max(self._memory_peak_bytes, memory_bytes)
        self._recent.append((at_s, cpu_s))
        while len(self._recent) > 1 and self._recent[1][0] <= at_s - WINDOW_S:
            self._recent.popleft()
        since_s, cpu_before_s = self._recent[0]
        if at_s - since_s >= WINDOW_S:
            self._cpu_peak = max(self._cpu_peak, (cpu_s - cpu_before_s) / (at_s - since_s))

    def used(self) -> Resources:
        """All samples in three numbers."""
        at_s, cpu_s = self._recent[-1]
        since_s, _ = self._recent[0]
        peak = self._cpu_peak
        if since_s == 0.0 and 0 < at_s < WINDOW_S:
            peak = cpu_s / at_s
        return Resources(
            cpu_peak_m=round(peak * 1000),
            cpu_used_s=round(cpu_s, 3),
            memory_peak_bytes=self._memory_peak_bytes or None,
        )
