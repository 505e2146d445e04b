"""Remembers whether the broker or the result store is away: one log line per change, growing pauses.

Used by one thread. Does no I/O and does not sleep: it says how long to wait.
"""

import logging

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5


class Outage:
    """The outage, if there is one, of one thing that a thread talks to."""

    def __init__(self, what: str, pause_max_s: float) -> None:
        self._what = what
        self._pause_max_s = pause_max_s
        self._failures = 0

    def failed(self, why: str) -> float:
        """Another try failed; returns for how many seconds to leave it alone."""
        if self._failures == 0:
            log.warning("%s is away, trying again: %s", self._what, why)
        self._failures = min(self._failures + 1, 32)
        return float(min(FIRST_PAUSE_S * 2 ** (self._failures - 1), self._pause_max_s))

    def over(self) -> None:
        """A try went well."""
        if self._failures:
            log.info("%s is back", self._what)
        self._failures = 0
