"""The scheduler's own lines about attempts: one for each step, and of what goes well many to a record.

To hand Airflow's logging a record takes longer than all else that a heartbeat
does for an attempt, however short the record is. So lines of what goes well
are kept until the heartbeat's end and share records. What somebody may look
for by its time (a wait, a failure, a withdrawal) is a record of its own, at
once, behind the lines that came before it. Called by ``controller``.
"""

import logging

from hybrid_executor.inflight import Flight

log = logging.getLogger("hybrid_executor")

#: Lines of one record: what cuts entries off (Docker at 16 KiB) leaves this one whole.
LINES_MAX = 50


class AttemptLog:
    """Lines of one scheduler."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def note(self, flight: Flight, phase: str, text: str = "") -> None:
        """Keep a line until ``flush``."""
        if log.isEnabledFor(logging.INFO):
            self._lines.append(line_of(flight, phase, text))

    def tell(self, flight: Flight, phase: str, text: str = "") -> None:
        """Write a record of its own."""
        self.flush()
        log.info("%s", line_of(flight, phase, text))

    def flush(self) -> None:
        """Write what was kept."""
        lines, self._lines = self._lines, []
        for start in range(0, len(lines), LINES_MAX):
            log.info("%s", "\n".join(lines[start : start + LINES_MAX]))


def line_of(flight: Flight, phase: str, text: str) -> str:
    """A step as people and ``grep`` read it."""
    return (
        f"attempt_id={flight.attempt.id} submission={flight.number} backend={flight.destination}"
        f" phase={phase} {text}"
    )
