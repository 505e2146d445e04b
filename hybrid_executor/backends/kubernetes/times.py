"""How long pods take to be made and to start, from what the backend is given and says. No I/O.

Only what this process saw from one end to the other is timed: a pod that was
taken over, or was there already, says nothing about either.
"""

import time
from collections.abc import Callable, Iterable

from hybrid_executor.meter import POD_CREATION, POD_START, Meter
from hybrid_executor.model.attempt import Submission, SubmissionId
from hybrid_executor.model.observation import Accepted, Ended, Observation, Rejected, Started, Waiting


class PodTimes:
    """The stopwatches of one backend; ``submitted`` may come from another thread than ``said``."""

    def __init__(self, meter: Meter, clock: Callable[[], float] = time.monotonic) -> None:
        self._meter = meter
        self._clock = clock
        self._submitted: dict[SubmissionId, float] = {}
        self._created: dict[SubmissionId, float] = {}

    def submitted(self, batch: Iterable[Submission]) -> None:
        """These were handed over."""
        now_s = self._clock()
        for submission in batch:
            if submission.id not in self._created:
                self._submitted[submission.id] = now_s

    def said(self, observation: Observation) -> None:
        """This was seen."""
        match observation:
            case Accepted(submission=submission):
                begun_s = self._submitted.pop(submission, None)
                if begun_s is not None:
                    now_s = self._created[submission] = self._clock()
                    self._meter.time(POD_CREATION, now_s - begun_s)
            case Started(submission=submission):
                created_s = self._created.pop(submission, None)
                if created_s is not None:
                    self._meter.time(POD_START, self._clock() - created_s)
            case Waiting(submission=submission, retry_after_s=after_s):
                if after_s is not None:
                    self._submitted.pop(submission, None)
            case Rejected(submission=submission) | Ended(submission=submission):
                self._submitted.pop(submission, None)
                self._created.pop(submission, None)
