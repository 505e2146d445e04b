"""The attempts that this scheduler answers for: capacity, order, timers. No I/O, no clock.

It keeps counts and heaps, so that each question costs the attempts that it
concerns and not all that are in flight. ``controller`` is its only caller and
gives it the time (monotonic seconds).

Capacity. What is *sent* (SENT, ACCEPTED, STARTED) never exceeds ``[core]
parallelism``, nor a backend's own limit. Attempts go to *destinations*: a
backend, or one of its clusters. One that waits for its destination (which is
full, or has let it go for a while) is *held*: it is left out of the occupied
slots, up to ``held_limit`` per destination, so that the backlog of one never
keeps the scheduler from queueing for another. A destination whose breaker is
open is given one attempt at a time, to see whether it is back: more would only
take places in ``[core] parallelism`` from the others.
"""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hybrid_executor.breaker import Breaker
from hybrid_executor.lifecycle import AttemptView, Phase
from hybrid_executor.model.attempt import Attempt, BackendName, Destination, SubmissionId
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.resources import Resources
from hybrid_executor.model.transition import Times
from hybrid_executor.model.worker import pod_of
from hybrid_executor.tally import Line, Place, Tally

SENT_PHASES = (Phase.SENT, Phase.ACCEPTED, Phase.STARTED)


@dataclass(slots=True, kw_only=True, eq=False)
class Flight:
    """One attempt in flight. Only ``Inflight`` changes ``phase`` and ``ticket``."""

    attempt: Attempt
    #: Airflow's key of the workload: opaque here.
    key: Hashable
    #: What a payload is made from (Airflow's workload): opaque; None until it is needed after adoption.
    parcel: Any = None
    number: int = 1
    phase: Phase = Phase.READY
    #: Whether the ledger has the row of the current submission.
    recorded: bool = False
    #: False while no valid routing table exists to choose its backend.
    routed: bool = True
    revoked: bool = False
    refusals: int = 0
    reason: Reason | None = None
    message: str = ""
    #: When ``reason`` was last seen to hold, monotonic seconds.
    reason_seen_s: float = 0.0
    #: The waits of which its task's event log says already; None among them for one without a reason.
    waits_told: frozenset[Reason | None] = frozenset()
    #: When its process was first seen to run, monotonic seconds.
    started_s: float = 0.0
    #: When the parcel's token was signed, monotonic seconds.
    signed_s: float = 0.0
    #: Since when the metadata database has gone on without it, monotonic seconds.
    over_since_s: float | None = None
    #: When it was withdrawn, or its backend asked for that again; monotonic seconds.
    withdrawn_since_s: float = 0.0
    #: Another executor sent it, before ``[core] executor`` became ours.
    inherited: bool = False
    #: A look-up was asked for and has not been answered.
    looked_up: bool = False
    #: When ``[scheduler] task_queued_timeout`` was last told to begin anew for it.
    refreshed_at: datetime | None = None
    #: Where its process runs, once that is known: a Celery worker's name, or a pod on a node.
    where: str | None = None
    #: When its worker began, as the worker's pod said when the process was first seen there.
    worker_began_at: datetime | None = None
    #: Whether the ledger knows that its worker's pod is being deleted.
    worker_leaves: bool = False
    #: When it came how far, of the current submission; the first is ``attempt.queued_at`` where not set. UTC.
    again_at: datetime | None = None
    sent_at: datetime | None = None
    accepted_at: datetime | None = None
    started_at: datetime | None = None
    #: The Celery task id, or ``namespace/pod``, once its backend has accepted.
    external_name: str | None = None
    #: The state that the listener was told last.
    told: str | None = None
    #: What its current submission took, once that has ended.
    resources: Resources | None = None
    ticket: int = field(default=-1, repr=False)

    @property
    def id(self) -> SubmissionId:
        return SubmissionId(self.attempt.id, self.number)

    @property
    def backend(self) -> BackendName:
        return self.attempt.route.backend

    @property
    def destination(self) -> Destination:
        return self.attempt.route.destination

    @property
    def times(self) -> Times:
        return Times(
            queued_at=self.again_at or self.attempt.queued_at,
            sent_at=self.sent_at,
            accepted_at=self.accepted_at,
            started_at=self.started_at,
        )

    @property
    def is_sent(self) -> bool:
        return self.phase in SENT_PHASES

    @property
    def may_live(self) -> bool:
        """Whether a process of it may exist: it is with its backend, or an answer may have been lost."""
        return self.is_sent or (self.phase is Phase.BACKOFF and self.recorded)

    def view(self, restarts: int = 0) -> AttemptView:
        """What a decision may know; ``restarts`` is the ledger's to say."""
        return AttemptView(
            attempt_id=self.attempt.id,
            kind=self.attempt.kind,
            backend=self.backend,
            phase=self.phase,
            number=self.number,
            refusals=self.refusals,
            revoked=self.revoked,
            retry_on=self.attempt.route.retry_on,
            retry_limit=self.attempt.route.retry_limit,
            restarts=restarts,
            address=self.attempt.address,
        )


class Inflight:
    """Every attempt from its commit to its end."""

    def __init__(self, *, parallelism: int, limits: Mapping[BackendName, int], held_limit: int) -> None:
        """A limit of 0 means that the backend has none of its own."""
        self._parallelism = parallelism
        self._limits = dict(limits)
        self._held_limit = held_limit
        self._flights: dict[str, Flight] = {}
        self._by_key: defaultdict[Hashable, set[str]] = defaultdict(set)
        self._by_workload: defaultdict[str, set[str]] = defaultdict(set)
        #: By the name of the Celery worker's host.
        self._by_host: defaultdict[str, set[str]] = defaultdict(set)
        self._counts: defaultdict[Destination, Counter[Phase]] = defaultdict(Counter)
        self._ready: defaultdict[Destination, list[tuple[int, int, str]]] = defaultdict(list)
        self._timers: list[tuple[float, int, str]] = []
        self._blocked: defaultdict[str, list[str]] = defaultdict(list)
        #: Of destinations that were heard of.
        self.breakers = defaultdict(Breaker, {Destination(backend): Breaker() for backend in BackendName})
        #: By queue and reason, for metrics.
        self.tally = Tally()
        self._tickets = itertools.count()

    # --- membership ------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(list(self._flights.values()))

    def get(self, attempt_id: str) -> Flight | None:
        return self._flights.get(attempt_id)

    def of_key(self, key: Hashable) -> list[Flight]:
        """The attempts of a workload that Airflow has not withdrawn."""
        return [f for i in self._by_key.get(key, ()) if not (f := self._flights[i]).revoked]

    def others_of(self, flight: Flight) -> list[Flight]:
        """Other attempts of the same task instance, withdrawn ones included."""
        ids = self._by_workload.get(flight.attempt.workload_id, set()) - {flight.attempt.id}
        return [self._flights[i] for i in ids]

    def on(self, host: str) -> list[Flight]:
        """The attempts that run on one Celery worker's host."""
        return [self._flights[i] for i in self._by_host.get(host, ())]

    def place(self, flight: Flight, where: str) -> None:
        """Note where its process runs."""
        self._displace(flight)
        flight.where = where
        if flight.backend is BackendName.CELERY:
            self._by_host[pod_of(where)].add(flight.attempt.id)

    def _displace(self, flight: Flight) -> None:
        if flight.where:
            _discard(self._by_host, pod_of(flight.where), flight.attempt.id)
        flight.where = None

    def add(self, flight: Flight) -> None:
        """Take an attempt in, in the phase that it says; one already known is left as it is."""
        attempt = flight.attempt
        if attempt.id in self._flights:
            return
        self._flights[attempt.id] = flight
        self._by_key[flight.key].add(attempt.id)
        self._by_workload[attempt.workload_id].add(attempt.id)
        if flight.where:
            self.place(flight, flight.where)
        self._counts[flight.destination][flight.phase] += 1
        flight.ticket = next(self._tickets)
        self._note_place(flight)
        if flight.phase is Phase.READY:
            self._push_ready(flight)

    def remove(self, flight: Flight) -> None:
        """Let an ended attempt go; whoever waited for it may now be sent."""
        attempt = flight.attempt
        if self._flights.pop(attempt.id, None) is None:
            return
        self._counts[flight.destination][flight.phase] -= 1
        self.tally.forget(attempt.id)
        _discard(self._by_key, flight.key, attempt.id)
        self._displace(flight)
        _discard(self._by_workload, attempt.workload_id, attempt.id)
        if not any(other.may_live for other in self.others_of(flight)):
            for waiting_id in self._blocked.pop(attempt.workload_id, ()):
                if (waiting := self._flights.get(waiting_id)) and waiting.phase is Phase.READY:
                    self._push_ready(waiting)

    # --- phases ----------------------------------------------------------------------

    def advance(self, flight: Flight, phase: Phase) -> None:
        """Note that the backend has answered."""
        self._set_phase(flight, phase)

    def ready(self, flight: Flight, *, reason: Reason | None = None) -> None:
        """Make it eligible, at the place in the order that it had."""
        self._set_phase(flight, Phase.READY)
        self.explain(flight, reason, flight.message)
        self._push_ready(flight)

    def explain(self, flight: Flight, reason: Reason | None, message: str) -> None:
        """Note what it waits for."""
        flight.reason, flight.message = reason, message
        self._note_place(flight)

    def back_off(self, flight: Flight, until_s: float) -> None:
        """Hold it back until ``until_s``."""
        self._set_phase(flight, Phase.BACKOFF)
        heapq.heappush(self._timers, (until_s, flight.ticket, flight.attempt.id))

    def reroute(self, flight: Flight, attempt: Attempt) -> None:
        """Give an attempt that waited for a route its own, and make it eligible."""
        self._counts[flight.destination][flight.phase] -= 1
        flight.attempt = attempt
        flight.routed = True
        self._counts[flight.destination][flight.phase] += 1
        self.ready(flight)

    def resubmit(self, flight: Flight, until_s: float) -> None:
        """Turn to the next submission, which may be sent from ``until_s`` on."""
        flight.number += 1
        flight.recorded = False
        flight.refusals = 0
        flight.looked_up = False
        flight.sent_at = flight.accepted_at = flight.started_at = None
        flight.external_name = None
        flight.resources = None
        flight.worker_began_at = None
        flight.worker_leaves = False
        self._displace(flight)
        self.back_off(flight, until_s)

    def wake(self, destination: Destination, reasons: Collection[Reason]) -> None:
        """End the waits that ``destination`` gave for ``reasons``: it answers again."""
        for flight in self:
            waits = flight.phase is Phase.BACKOFF and flight.destination == destination and not flight.revoked
            if waits and flight.reason in reasons:
                self.ready(flight)

    # --- what goes next --------------------------------------------------------------

    def take(self, now_s: float) -> list[Flight]:
        """Move what may be sent now to SENT and return it, most urgent first."""
        self._ring(now_s)
        room = self._parallelism - self.sent()
        taken: list[Flight] = []
        while room > 0 and (flight := self._pop_best()) is not None:
            self._set_phase(flight, Phase.SENT)
            taken.append(flight)
            room -= 1
        return taken

    def _pop_best(self) -> Flight | None:
        heads = [
            (heap[0], destination)
            for destination, heap in self._ready.items()
            if self._takes_more(destination) and self._settle_head(heap)
        ]
        if not heads:
            return None
        (_, _, attempt_id), destination = min(heads)
        heapq.heappop(self._ready[destination])
        return self._flights[attempt_id]

    def _settle_head(self, heap: list[tuple[int, int, str]]) -> bool:
        """Drop entries from the head that are stale or blocked; say whether one is left."""
        while heap:
            _, ticket, attempt_id = heap[0]
            flight = self._flights.get(attempt_id)
            if flight is None or flight.phase is not Phase.READY or flight.ticket != ticket:
                heapq.heappop(heap)
            elif any(other.may_live for other in self.others_of(flight)):
                heapq.heappop(heap)
                self.explain(flight, Reason.EARLIER_ATTEMPT, "")
                self._blocked[flight.attempt.workload_id].append(attempt_id)
            else:
                return True
        return False

    def _ring(self, now_s: float) -> None:
        while self._timers and self._timers[0][0] <= now_s:
            _, ticket, attempt_id = heapq.heappop(self._timers)
            flight = self._flights.get(attempt_id)
            if flight and flight.phase is Phase.BACKOFF and flight.ticket == ticket and not flight.revoked:
                self.ready(flight, reason=flight.reason)

    # --- capacity --------------------------------------------------------------------

    def sent(self, backend: BackendName | None = None) -> int:
        """Attempts that a backend has been given, in one backend or in all."""
        backends = [backend] if backend else list(BackendName)
        return sum(self.count(b, phase) for b in backends for phase in SENT_PHASES)

    def count(self, backend: BackendName, phase: Phase) -> int:
        """Wherever in that backend they go."""
        return sum(counts[phase] for to, counts in self._counts.items() if to.backend is backend)

    def is_full(self, backend: BackendName | None = None) -> bool:
        """Whether what is sent has reached the limit: that of a backend, or of all."""
        limit = self._limits.get(backend, 0) if backend else self._parallelism
        return bool(limit) and self.sent(backend) >= limit

    def _takes_more(self, to: Destination) -> bool:
        if self._is_away(to) and self._counts[to][Phase.SENT]:
            return False
        return not self.is_full(to.backend)

    def _is_away(self, to: Destination) -> bool:
        return to in self.breakers and self.breakers[to].is_open

    def held(self, backend: BackendName) -> int:
        """Attempts that wait for this backend and leave the slots."""
        return sum(self._held(to) for to in self._counts if to.backend is backend)

    def _held(self, to: Destination) -> int:
        waiting = self._counts[to][Phase.BACKOFF]
        if self._is_away(to) or self.is_full(to.backend):
            waiting += self._counts[to][Phase.READY]
        return min(waiting, self._held_limit)

    def occupied(self) -> int:
        """Slots that Airflow is to count as taken."""
        return len(self._flights) - sum(self.held(b) for b in BackendName)

    # --- internals -------------------------------------------------------------------

    def _set_phase(self, flight: Flight, phase: Phase) -> None:
        counts = self._counts[flight.destination]
        counts[flight.phase] -= 1
        counts[phase] += 1
        flight.phase = phase
        self._note_place(flight)

    def _note_place(self, flight: Flight) -> None:
        if flight.attempt.id in self._flights:
            reason = flight.reason if flight.phase < Phase.STARTED else None
            place = Place(Line(flight.backend, flight.attempt.queue), flight.phase, reason)
            self.tally.note(flight.attempt.id, place, flight.attempt.queued_at)

    def _push_ready(self, flight: Flight) -> None:
        entry = (-flight.attempt.priority, flight.ticket, flight.attempt.id)
        heapq.heappush(self._ready[flight.destination], entry)


def _discard(index: defaultdict[Any, set[str]], key: Hashable, attempt_id: str) -> None:
    index[key].discard(attempt_id)
    if not index[key]:
        del index[key]
