"""Which attempts have waited for so long that their task's event log is to say why, once for each reason.

Pure; costs the attempts that begin to wait or wait for something else, and what
is due. It decides when, and ``timeline`` has the words. Called by ``controller``.
"""

from collections import deque
from dataclasses import dataclass, field

from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.lifecycle import Phase
from hybrid_executor.model.reason import Reason

#: Longer than a pod takes to start, as a rule.
LONG_S = 60.0
#: In one step: Airflow saves what is told in its own transaction. The rest follows in the next ones.
AT_ONCE = 50


@dataclass(slots=True)
class LongWaits:
    """The waits of one scheduler's attempts, in the order in which they become long."""

    inflight: Inflight
    #: When it becomes long, who waits, and for what; None for whatever it is by then.
    _waits: deque[tuple[float, Flight, Reason | None]] = field(default_factory=deque)

    def begin(self, flight: Flight, now_s: float, reason: Reason | None = None) -> None:
        """It waits from now on: for this, or to begin with."""
        self._waits.append((now_s + LONG_S, flight, reason))

    def due(self, now_s: float) -> list[Flight]:
        """Those whose wait has become long, each once for each reason."""
        found: list[Flight] = []
        while self._waits and self._waits[0][0] <= now_s and len(found) < AT_ONCE:
            _, flight, reason = self._waits.popleft()
            if self._waits_on(flight, reason) and flight.reason not in flight.waits_told:
                flight.waits_told |= {flight.reason}
                found.append(flight)
        return found

    def _waits_on(self, flight: Flight, reason: Reason | None) -> bool:
        is_waiting = flight.phase < Phase.STARTED and not flight.revoked
        is_here = self.inflight.get(flight.attempt.id) is flight
        return is_waiting and is_here and reason in (None, flight.reason)
