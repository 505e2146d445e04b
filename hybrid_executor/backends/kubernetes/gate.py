"""A gate for requests: closed for a while after the server asked for patience, or did not answer."""

import time
from collections.abc import Callable

from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Waiting
from hybrid_executor.model.reason import Reason

#: A gate closed by one failure after the other stays closed for at most so long.
GATE_MAX_S = 10.0


class Gate:
    """Opens by itself; what meets it closed is let go with the reason."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = 0.0
        self._failures = 0
        self._why = (Reason.API_UNAVAILABLE, "")

    def close(self, wait: Waiting) -> Waiting:
        """For as long as ``wait``, which is returned, or, if they are many in a row, for longer."""
        if self._clock() >= self._until:  # else it answers a request that was under way when it closed
            asked_s = wait.retry_after_s or 0.0
            self._until = self._clock() + max(asked_s, min(GATE_MAX_S, 0.5 * 2.0**self._failures))
            self._failures = min(self._failures + 1, 16)
            self._why = (wait.reason, wait.message)
        return wait

    def open(self) -> None:
        self._failures = 0

    def wait(self, submission: SubmissionId) -> Waiting | None:
        """What to say while it is closed; None if it is open."""
        left_s = self._until - self._clock()
        return Waiting(submission, *self._why, retry_after_s=left_s) if left_s > 0 else None
