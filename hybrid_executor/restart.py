"""Has Airflow run tasks again whose process died of what their route forgives, or never was let start.

The two halves of it: the task instance is made RESTARTING in a transaction of
its own, and Airflow is told of a failure, which in that state makes a new try
whatever ``retries`` says. Killed between the two, the task instance says that
it was this executor, and whoever adopts it goes on with the second half. How
many tries in a row ended so is counted in the ledger, which outlives every
scheduler. Decides nothing (``lifecycle`` does); ``controller`` calls it.
"""

import logging
from collections.abc import Collection, Mapping

from hybrid_executor.inflight import Flight
from hybrid_executor.lifecycle import Restart, restart_text
from hybrid_executor.model.attempt import TaskAddress
from hybrid_executor.model.errors import Unavailable
from hybrid_executor.model.observation import Ended, Observation
from hybrid_executor.ports import Ledger, Tasks

log = logging.getLogger("hybrid_executor")

#: Task instances that one step prepares; each costs a transaction, and the others wait for the next step.
RESTARTS_AT_ONCE = 20


class Restarts:
    """The restarts of one scheduler."""

    def __init__(self, ledger: Ledger, tasks: Tasks) -> None:
        self._ledger = ledger
        self._tasks = tasks
        self._left = RESTARTS_AT_ONCE

    def begin(self, ends: Collection[tuple[Flight, Observation]]) -> Mapping[TaskAddress, int]:
        """Begin a step: how often in a row the tasks were restarted that died of what is forgiven them.

        One query, and none where nothing died so; raises ``LedgerUnavailable``.
        """
        self._left = RESTARTS_AT_ONCE
        addresses = {f.attempt.address for f, o in ends if f.attempt.address and _is_forgiven(f, o)}
        return self._ledger.restarts(addresses) if addresses else {}

    def prepare(self, flight: Flight, decision: Restart) -> bool:
        """See to it that the task instance is RESTARTING; False if that has to be decided anew."""
        if decision.prepared:
            return True
        if self._left <= 0:
            return False
        self._left -= 1
        try:
            return self._tasks.restart(flight.attempt, restart_text(decision.diagnosis), decision.after_s)
        except Unavailable as error:
            log.info("attempt %s is restarted a moment later: %s", flight.attempt.id, error)
            return False


def _is_forgiven(flight: Flight, seen: Observation) -> bool:
    if not isinstance(seen, Ended):
        return False
    of = seen.diagnosis.reason if seen.diagnosis else None
    return seen.asked_as is not None or of in flight.attempt.route.retry_on
