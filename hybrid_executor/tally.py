"""How many attempts stand where, and for how long the oldest has waited: by backend, queue, phase and reason.

Kept with each change, so that a look at it costs the queues that there are and
not the attempts. No I/O, no clock. ``inflight`` writes it, ``metrics`` reads it.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from hybrid_executor.lifecycle import Phase
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.reason import Reason


class Line(NamedTuple):
    """Attempts of one queue on one backend."""

    backend: BackendName
    queue: str


class Place(NamedTuple):
    """How an attempt stands."""

    line: Line
    phase: Phase
    #: What it is known to wait for; None once it has started.
    reason: Reason | None


class Tally:
    """Counts of the attempts in flight."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._counts: Counter[Place] = Counter()
        #: The oldest first; those that have started or gone are dropped when they come up.
        self._pending: defaultdict[Line, list[tuple[datetime, str]]] = defaultdict(list)

    def note(self, attempt_id: str, place: Place, queued_at: datetime) -> None:
        """It stands there now, wherever it stood before."""
        before = self._places.get(attempt_id)
        if before == place:
            return
        self._places[attempt_id] = place
        self._counts[place] += 1
        if before:
            self._leave(before)
        was_in_line = before is not None and before.phase < Phase.STARTED and before.line == place.line
        if place.phase < Phase.STARTED and not was_in_line:
            self._push(place.line, queued_at, attempt_id)

    def forget(self, attempt_id: str) -> None:
        """It is gone."""
        if before := self._places.pop(attempt_id, None):
            self._leave(before)

    @property
    def counts(self) -> Mapping[Place, int]:
        """Places where somebody stands."""
        return self._counts

    def oldest_pending(self) -> dict[Line, datetime]:
        """When the oldest attempt that has not started was queued, where there is one."""
        found = {}
        for line, heap in list(self._pending.items()):
            while heap and not self._is_pending(line, heap[0][1]):
                heapq.heappop(heap)
            if heap:
                found[line] = heap[0][0]
            else:
                del self._pending[line]
        return found

    def _leave(self, place: Place) -> None:
        self._counts[place] -= 1
        if not self._counts[place]:
            del self._counts[place]

    def _push(self, line: Line, queued_at: datetime, attempt_id: str) -> None:
        heap = self._pending[line]
        heapq.heappush(heap, (queued_at, attempt_id))
        if len(heap) > 2 * len(self._places) + 100:
            # One that pends for days is at the head, and hides all that have come and gone since.
            heap[:] = [kept for kept in heap if self._is_pending(line, kept[1])]
            heapq.heapify(heap)

    def _is_pending(self, line: Line, attempt_id: str) -> bool:
        place = self._places.get(attempt_id)
        return place is not None and place.line == line and place.phase < Phase.STARTED
