"""Compares what is in flight with Airflow's task instances, and has the rest looked after.

It repairs what no observation tells: attempts that Airflow has gone on
without, attempts that another scheduler has adopted, withdrawn ones of which
their backend says nothing, and waits whose time would run out although their
reason is known. What follows from a difference is ``comparison``'s to say, and
what nothing in flight answers for is ``leftovers``'. One round every few
seconds, of which each heartbeat does its share: thousands in flight make no
heartbeat long. ``controller`` calls it.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

from hybrid_executor.comparison import (
    Agrees,
    GiveBack,
    LetGo,
    Lingers,
    Standing,
    Withdraw,
    WithdrawAgain,
    compare,
    state_text,
)
from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.journal import Journal
from hybrid_executor.leftovers import Leftovers
from hybrid_executor.lifecycle import Phase, Witness
from hybrid_executor.model.attempt import (
    BackendName,
    Destination,
    SubmissionId,
    TaskAddress,
)
from hybrid_executor.model.errors import Unavailable
from hybrid_executor.model.mismatch import Mismatch
from hybrid_executor.model.observation import Diagnosis, Observation
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome
from hybrid_executor.ports import Backend, Clock, Ledger, Listener, Tasks

log = logging.getLogger("hybrid_executor")

#: How long a process may take from its start to the task's: it imports Airflow and the DAG, on a busy node
#: many at once. Whoever takes the task for stuck meanwhile would withdraw a process that lives.
START_GRACE_S = 60.0
#: A round of so many is done in one heartbeat. Of a longer one a heartbeat does as many or more, or none:
#: they come due with the time that passes, however often the scheduler comes by, and each share is a query.
AT_ONCE = 50
#: What is noted of a slot that a withdrawn attempt gives back.
LEAKED = "withdrawn, and its backend never said that it ended"

Close = Callable[[Flight, Outcome, Diagnosis | None], None]


class Reconciler:
    """The comparisons of one scheduler."""

    def __init__(
        self,
        *,
        backends: Mapping[BackendName, Backend],
        ledger: Ledger,
        tasks: Tasks,
        inflight: Inflight,
        journal: Journal,
        listener: Listener,
        clock: Clock,
        owner: str,
        interval_s: float,
        refresh_s: float,
        heartbeat_timeout_s: float,
        close: Close,
        let_go: Callable[[Flight], None],
    ) -> None:
        """A round each ``interval_s``; a wait is told to Airflow's clock each ``refresh_s``. A withdrawn
        attempt of which nobody says anything is given up after ``heartbeat_timeout_s``, Airflow's own.

        ``close`` ends a flight without telling Airflow; ``let_go`` leaves it to another scheduler.
        """
        self._backends = backends
        self._tasks = tasks
        self._inflight = inflight
        self._listener = listener
        self._clock = clock
        self._owner = owner
        self._interval_s = interval_s
        self._refresh = timedelta(seconds=refresh_s)
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._close = close
        self._let_go = let_go
        self._began_s = float("-inf")
        self._stepped_s = float("-inf")
        #: Whom this round has not come to.
        self._round: deque[Flight] = deque()
        #: How many of it come due in a second, and how many have and were not compared yet.
        self._pace = 0.0
        self._due = 0.0
        self._leftovers = Leftovers(
            backends=backends,
            ledger=ledger,
            tasks=tasks,
            inflight=inflight,
            journal=journal,
            listener=listener,
            clock=clock,
            owner=owner,
        )

    def step(self) -> None:
        """Begin a round, if the last began long enough ago, or do the next share of this one."""
        now_s = self._clock.monotonic_s()
        since_s, self._stepped_s = now_s - self._stepped_s, now_s
        try:
            if not self._round and now_s - self._began_s >= self._interval_s:
                self._began_s = now_s
                self._round.extend(self._inflight)
                self._pace, self._due = len(self._round) / self._interval_s, 0.0
                self._leftovers.take_over()
                self._leftovers.find_drift()
            if share := self._next(since_s):
                self._compare_with_tasks(share)
        except Unavailable as error:
            log.warning("reconciliation is put off: %s", error)
            self._round.clear()

    def _next(self, since_s: float) -> list[Flight]:
        """Those that have come due by now; the ones that have ended are left out."""
        if not self._round:
            return []
        self._due = min(self._due + self._pace * since_s, len(self._round))
        is_rest = len(self._round) <= AT_ONCE
        if not is_rest and self._due < AT_ONCE:
            return []
        count = len(self._round) if is_rest else int(self._due)
        self._due -= count
        share = [self._round.popleft() for _ in range(count)]
        return [flight for flight in share if self._inflight.get(flight.attempt.id) is flight]

    def settle_strangers(
        self, strangers: Sequence[tuple[BackendName, Observation]]
    ) -> Sequence[tuple[BackendName, Observation]]:
        """See ``Leftovers``."""
        return self._leftovers.settle_strangers(strangers)

    def _compare_with_tasks(self, flights: Sequence[Flight]) -> None:
        waiting: list[Flight] = []
        for flight, witness in self._questionable(flights):
            agrees = self._agrees(flight, witness)
            if agrees and witness and witness.state == "queued" and self._is_to_be_refreshed(flight):
                waiting.append(flight)
        if waiting:
            self._tasks.refresh_queued([flight.attempt for flight in waiting])
            for flight in waiting:
                flight.refreshed_at = self._clock.now()
        # Last: who has been asked and has not answered by the next round is away.
        self.look_up([f for f in flights if f.phase is Phase.ACCEPTED and not f.looked_up])

    def _questionable(self, flights: Sequence[Flight]) -> Iterable[tuple[Flight, Witness | None]]:
        """All but those that run as they should, most of what is in flight: the database tells them apart."""
        waiting: dict[str, TaskAddress] = {}
        started: dict[str, TaskAddress] = {}
        for flight in flights:
            if flight.attempt.address:
                asked = started if flight.phase is Phase.STARTED else waiting
                asked[flight.attempt.id] = flight.attempt.address
        stopped = self._tasks.not_running(started, self._owner) if started else {}
        found = self._tasks.witnesses(waiting) if waiting else {}
        for flight in flights:
            attempt_id = flight.attempt.id
            if attempt_id in started and attempt_id not in stopped:
                flight.over_since_s = None
            else:
                yield flight, stopped.get(attempt_id) or found.get(attempt_id)

    def _agrees(self, flight: Flight, witness: Witness | None) -> bool:
        """Repair what does not agree."""
        now_s = self._clock.monotonic_s()
        finding = compare(self._standing(flight, now_s), witness, self._owner, self._heartbeat_timeout_s)
        if isinstance(finding, Agrees):
            flight.over_since_s = None
            return True
        if flight.over_since_s is None:
            flight.over_since_s = now_s
        match finding:
            case Lingers():
                pass
            case LetGo(mismatch=mismatch):
                owner = witness.owner if witness else None
                self._tell(flight, mismatch, f"scheduler job {owner} has it now")
                self._let_go(flight)
            case Withdraw(mismatch=mismatch, outcome=outcome):
                self._tell(flight, mismatch, f"withdrawn: {state_text(witness)}")
                if flight.may_live:
                    self._leftovers.withdraw(flight.backend, flight.id, flight.destination.cluster)
                self._close(flight, outcome, Diagnosis(reason=Reason.SETTLED, message=state_text(witness)))
            case WithdrawAgain(mismatch=mismatch):
                self._tell(flight, mismatch, LEAKED)
                flight.withdrawn_since_s = now_s
                self._backends[flight.backend].cancel([flight.id], flight.destination.cluster)
            case GiveBack(mismatch=mismatch):
                self._tell(flight, mismatch, LEAKED)
                self._close(flight, Outcome.REVOKED, Diagnosis(reason=Reason.REVOKED, message=LEAKED))
        return False

    def _standing(self, flight: Flight, now_s: float) -> Standing:
        return Standing(
            attempt_id=flight.attempt.id,
            kind=flight.attempt.kind,
            backend=flight.backend,
            queued_at=flight.attempt.queued_at,
            is_sent=flight.is_sent,
            has_started=flight.phase is Phase.STARTED,
            revoked=flight.revoked,
            withdrawn_s=now_s - flight.withdrawn_since_s,
            over_s=0.0 if flight.over_since_s is None else now_s - flight.over_since_s,
            is_answered=not self._backends[flight.backend].troubles.get(flight.destination.cluster),
        )

    def _tell(self, flight: Flight, mismatch: Mismatch, words: str) -> None:
        self._listener.mismatched(flight.id, flight.backend, mismatch, words)

    def _is_to_be_refreshed(self, flight: Flight) -> bool:
        last = flight.refreshed_at or flight.attempt.queued_at
        return self._clock.now() - last >= self._refresh and self._wait_is_known(flight)

    def _wait_is_known(self, flight: Flight) -> bool:
        """Whether it is known why a queued attempt has not started: then its time does not run out."""
        if not flight.is_sent:
            return True
        if flight.looked_up:
            # Its backend has not answered since the last look-up: it is away.
            return True
        now_s = self._clock.monotonic_s()
        if flight.phase is Phase.STARTED:
            return now_s - flight.started_s <= START_GRACE_S
        age_s = now_s - flight.reason_seen_s
        return flight.reason is not None and age_s <= 3 * self._interval_s

    def look_up(self, flights: Sequence[Flight]) -> None:
        """Ask the backends what became of these; they answer as soon as they can."""
        asked: dict[Destination, list[SubmissionId]] = {}
        for flight in flights:
            flight.looked_up = True
            asked.setdefault(flight.destination, []).append(flight.id)
        for to, ids in asked.items():
            self._backends[to.backend].adopt(ids, to.cluster)
