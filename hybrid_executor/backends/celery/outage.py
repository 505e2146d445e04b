"""Remembers whether the broker or the result store is away: one log line per change, growing pauses.

Used by one thread, but for ``trouble``. Does no I/O and does not sleep: it says
how long to wait. The broker's own outage is told at ``DEBUG``, because the line
that counts is that of the backend's breaker.
"""

import logging

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
#: Failures in a row that are more than one lost connection.
TROUBLE_LIMIT = 3


class Outage:
    """The outage, if there is one, of one thing that a thread talks to."""

    def __init__(self, what: str, pause_max_s: float, *, level: int = logging.WARNING) -> None:
        self._what = what
        self._pause_max_s = pause_max_s
        self._level = level
        self._failures = 0
        #: Why nothing answers; None while all is well, and for the first failures.
        self.trouble: str | None = None

    def failed(self, why: str) -> float:
        """Another try failed; returns for how many seconds to leave it alone."""
        if self._failures == 0:
            log.log(self._level, "%s is away, trying again: %s", self._what, why)
        self._failures = min(self._failures + 1, 32)
        if self._failures >= TROUBLE_LIMIT:
            self.trouble = f"{self._what} is away: {why}"
        return float(min(FIRST_PAUSE_S * 2 ** (self._failures - 1), self._pause_max_s))

    def over(self) -> None:
        """A try went well."""
        if self._failures:
            log.log(min(self._level, logging.INFO), "%s is back", self._what)
        self._failures, self.trouble = 0, None
