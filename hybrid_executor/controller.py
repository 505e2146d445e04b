"""Moves attempts along: observe, decide, record, submit. One step is one heartbeat.

It knows Airflow only through two Protocols (``Tasks`` for the metadata
database, ``Listener`` for the event buffer), so the whole of it runs in tests
with the shipped fakes. It decides nothing about a single attempt, which is
``lifecycle``'s, and holds nothing, which is ``inflight``'s.

Order within a step, and why:

1. observations are decided first, so that a freed slot is given away in the same step;
2. what is to be sent is chosen, and everything that changed is recorded in one
   transaction: a submission is durable before it is sent;
3. if the ledger can't be written, nothing is sent, nothing is forgotten, and
   the same is tried again in the next step;
4. only an end that is recorded is released: until then the pod stays as its witness;
5. what a backend holds without its payload (adopted pods) is handed over again, a few in each step.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hybrid_executor.attemptlog import AttemptLog
from hybrid_executor.comparison import contradicted
from hybrid_executor.deletioncost import DeletionCosts
from hybrid_executor.departures import Departures
from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.journal import Journal
from hybrid_executor.lifecycle import (
    Advance,
    AttemptView,
    Close,
    Decision,
    Fail,
    Ignore,
    Phase,
    Policy,
    Restart,
    Resubmit,
    Retry,
    Succeed,
    Witness,
    decide,
    needs_witness,
)
from hybrid_executor.longwaits import LongWaits
from hybrid_executor.model.attempt import (
    BackendName,
    Destination,
    Route,
    Submission,
)
from hybrid_executor.model.errors import Unavailable
from hybrid_executor.model.mismatch import Mismatch
from hybrid_executor.model.observation import Diagnosis, Ended, Observation, Rejected
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord
from hybrid_executor.model.transition import Transition
from hybrid_executor.ports import Backend, Clock, Ledger, Listener, Live, Tasks, Workers
from hybrid_executor.reconcile import Reconciler
from hybrid_executor.restart import Restarts
from hybrid_executor.routing import Pool
from hybrid_executor.timeline import advice, headline

log = logging.getLogger("hybrid_executor")

#: Waits that end for all attempts at once, when their backend answers again.
AWAY = frozenset({Reason.BROKER_UNAVAILABLE, Reason.API_UNAVAILABLE})
#: What an end is called in the task's event log; one that went well leaves no line there.
EVENTS = {
    Outcome.FAILED: "hybrid executor: failed",
    Outcome.REPLACED: "hybrid executor: submitted again",
    Outcome.REVOKED: "hybrid executor: withdrawn",
    Outcome.RESTARTED: "hybrid executor: runs again",
}
#: What a wait is called there, once it is a long one.
WAITS = "hybrid executor: waits"
#: How many payloads one step makes anew: each is a query.
PAYLOADS_AT_ONCE = 20


class Controller:
    """Runs the attempts of one scheduler over its backends."""

    def __init__(
        self,
        *,
        backends: Mapping[BackendName, Backend],
        ledger: Ledger,
        tasks: Tasks,
        listener: Listener,
        inflight: Inflight,
        policy: Policy,
        clock: Clock,
        owner: str,
        token_life_s: float,
        reconcile_interval_s: float,
        refresh_s: float,
        live: Live | None = None,
        workers: Workers | None = None,
        pools: Sequence[Pool] = (),
    ) -> None:
        """``workers`` are given where Celery workers are pods, and ``pools`` with them."""
        self._backends = backends
        self._tasks = tasks
        self._listener = listener
        self.inflight = inflight
        self._policy = policy
        self._clock = clock
        self._owner = owner
        self._token_life_s = token_life_s
        self._journal = Journal(ledger=ledger, backends=backends, clock=clock, owner=owner, live=live)
        self._reconciler = Reconciler(
            backends=backends,
            ledger=ledger,
            tasks=tasks,
            inflight=inflight,
            journal=self._journal,
            listener=listener,
            clock=clock,
            owner=owner,
            interval_s=reconcile_interval_s,
            refresh_s=refresh_s,
            heartbeat_timeout_s=policy.heartbeat_timeout_s,
            close=self._close,
            let_go=self._let_go,
        )
        self._departures: Departures | None = None
        self._costs: DeletionCosts | None = None
        if workers:
            self._departures = Departures(
                workers=workers, inflight=inflight, journal=self._journal, clock=clock
            )
            self._costs = DeletionCosts(workers=workers, pools=pools, ledger=ledger, clock=clock)
        self._long_waits = LongWaits(inflight)
        self._log = AttemptLog()
        self._undecided: list[tuple[BackendName, Observation]] = []
        self._restarts = Restarts(ledger, tasks)
        #: Held by their backends, which lack their payloads; in order, each once.
        self._lacking: dict[Flight, None] = {}

    # --- taking attempts in -------------------------------------------------------------

    def release(self, flight: Flight) -> None:
        """Take in an attempt whose QUEUED is committed; an older one of the same task is withdrawn."""
        for older in self.inflight.others_of(flight):
            if not older.revoked:
                self.revoke(older)
        flight.signed_s = self._clock.monotonic_s()
        flight.reason_seen_s = flight.signed_s
        if not flight.routed:
            # Held back without a timer: ``reroute`` lets it go.
            flight.phase, flight.reason = Phase.BACKOFF, Reason.ROUTES_INVALID
        self.inflight.add(flight)
        self._move(flight, flight.phase.word, flight.reason)
        self._long_waits.begin(flight, flight.signed_s)
        self._journal.opened(flight)

    def adopt(self, flights: Sequence[Flight]) -> None:
        """Take in attempts of a dead scheduler; their backends are asked what became of them."""
        for flight in flights:
            flight.started_s = self._clock.monotonic_s()
            self.inflight.add(flight)
            self._move(flight, flight.phase.word, message="adopted")
            self._long_waits.begin(flight, flight.started_s)
            self._journal.change(Change(id=flight.id, scheduler_job=self._owner))
        if self._departures:
            self._departures.adopted(flights)
        self._reconciler.look_up(flights)

    def inherit(self, flight: Flight) -> None:
        """Take in an attempt that another executor sent and whose process runs."""
        flight.started_s = self._clock.monotonic_s()
        flight.sent_at = flight.accepted_at = flight.started_at = self._clock.now()
        self.inflight.add(flight)
        self._move(flight, flight.phase.word, message="inherited from another executor")
        self._journal.opened(flight)
        self._backends[flight.backend].inherit({flight.id: flight.attempt.workload_id})

    def revoke(self, flight: Flight) -> None:
        """Withdraw an attempt. Airflow is told nothing more of it."""
        flight.revoked = True
        flight.withdrawn_since_s = self._clock.monotonic_s()
        # A wait may be that of a request whose answer was lost, so there, too, the backend is asked.
        if flight.may_live:
            self._backends[flight.backend].cancel([flight.id], flight.destination.cluster)
        else:
            self._close(flight, Outcome.REVOKED, Diagnosis(reason=Reason.REVOKED))

    # --- the step -----------------------------------------------------------------------

    def step(self) -> None:
        """One heartbeat: costs what has changed since the last, and nothing when nothing has."""
        self._hear_backends()
        self._observe()
        self._reconciler.step()
        self._submit(self.inflight.take(self._clock.monotonic_s()))
        if self._costs:
            # What has ended by now stands in the ledger.
            self._costs.step()
        self._complete()
        for flight in self._long_waits.due(self._clock.monotonic_s()):
            self._tell_wait(flight)
        self._log.flush()

    @property
    def ledger_lag_s(self) -> float:
        """For how long the ledger could not be written."""
        return self._journal.lag_s()

    def flush(self) -> None:
        """Write what is not written yet; used once more before the end."""
        self._journal.write()
        self._log.flush()

    # --- observing ----------------------------------------------------------------------

    def _observe(self) -> None:
        seen = self._undecided + [(n, o) for n, backend in self._backends.items() for o in backend.poll()]
        if self._departures:
            # Behind the backends: what a worker said before it went counts.
            seen += self._departures.step()
        if not seen:
            return
        try:
            witnesses = self._witnesses_for(seen)
            restarts = self._restarts.begin(self._known_of(seen))
        except Unavailable as error:
            log.warning("metadata database is away, %d observations wait: %s", len(seen), error)
            self._undecided = seen
            return
        self._undecided = []
        strangers = [(name, o) for name, o in seen if self.inflight.get(o.submission.attempt_id) is None]
        for _, observation in seen:
            flight = self.inflight.get(observation.submission.attempt_id)
            if flight is None:
                continue
            flight.looked_up = False
            witness = witnesses.get(flight.attempt.id)
            if isinstance(observation, Ended) and observation.submission == flight.id:
                flight.resources = observation.resources
            if witness and isinstance(observation, Ended):
                self._note_unseen_start(flight, witness)
            address = flight.attempt.address
            view = flight.view(restarts.get(address, 0) if restarts and address else 0)
            decision = decide(view, observation, witness, self._policy)
            if isinstance(observation, Ended) and not isinstance(decision, Ignore | Close):
                self._note_contradiction(flight, view, observation, witness)
            self._apply(flight, observation, decision)
        self._undecided.extend(self._reconciler.settle_strangers(strangers))

    def _note_contradiction(
        self, flight: Flight, view: AttemptView, end: Ended, witness: Witness | None
    ) -> None:
        """An end that does not fit the ledger or Airflow's tables has a name of its own."""
        if mismatch := contradicted(end, view, witness):
            words = "nothing of it was found"
            if mismatch is Mismatch.RUNS_ELSEWHERE and witness:
                words = f"it has ended, and the task runs in {witness.host}"
            self._listener.mismatched(flight.id, flight.backend, mismatch, words)

    def _note_unseen_start(self, flight: Flight, witness: Witness) -> None:
        """A process that ended between two looks of its backend was never seen to run; Airflow was told."""
        if flight.phase < Phase.STARTED and witness.attempt_id == flight.attempt.id and witness.started_at:
            self._journal.change(Change(id=flight.id, started_at=witness.started_at, where=witness.host))

    def _witnesses_for(self, seen: Iterable[tuple[BackendName, Observation]]) -> Mapping[str, Witness]:
        attempts = {
            flight.attempt.id: flight.attempt.address
            for flight, observation in self._known_of(seen)
            if flight.attempt.address
            and needs_witness(flight.attempt.kind, observation, revoked=flight.revoked)
        }
        return self._tasks.witnesses(attempts) if attempts else {}

    def _known_of(self, seen: Iterable[tuple[BackendName, Observation]]) -> list[tuple[Flight, Observation]]:
        return [(flight, o) for _, o in seen if (flight := self.inflight.get(o.submission.attempt_id))]

    def _apply(self, flight: Flight, observation: Observation, decision: Decision) -> None:
        match decision:
            case Ignore():
                if isinstance(observation, Ended):
                    self._journal.let_go(flight.backend, observation.submission)
            case Advance():
                self._advance(flight, decision)
            case Retry():
                self._retry(flight, decision)
            case Resubmit(after_s=after_s, diagnosis=diagnosis):
                self._resubmit(flight, after_s, diagnosis)
            case Restart():
                self._restart(flight, observation, decision)
            case Succeed():
                self._close(flight, Outcome.SUCCEEDED, None)
                self._listener.succeeded(flight.key)
            case Fail(diagnosis=diagnosis):
                self._fail(flight, observation, diagnosis)
            case Close(outcome=outcome, diagnosis=diagnosis):
                self._close(flight, outcome, diagnosis)

    def _advance(self, flight: Flight, decision: Advance) -> None:
        now = self._clock.now()
        # Repeated on adoption and look-up: the first time is the one that counts.
        if flight.phase < Phase.ACCEPTED <= decision.phase:
            self._log.note(flight, "accepted", decision.external_name or "")
            self._journal.change(Change(id=flight.id, submitted_at=now, external_name=decision.external_name))
            flight.external_name = decision.external_name
            self._move(flight, "accepted")
            flight.accepted_at = now
        if flight.phase < Phase.STARTED is decision.phase:
            self._log.note(flight, "started", decision.where or "")
            self._journal.change(Change(id=flight.id, started_at=now, where=decision.where))
            flight.started_s = self._clock.monotonic_s()
            self._move(flight, "started", where=decision.where)
            flight.started_at = now
        if decision.where and decision.where != flight.where:
            self.inflight.place(flight, decision.where)
            if self._departures and self._costs:
                self._departures.placed(flight)
                self._costs.placed(decision.where)
        if decision.external_name:
            flight.refusals = 0
            self._note_taking(flight.destination)
        if decision.phase > flight.phase:
            self.inflight.advance(flight, decision.phase)
        if decision.reason:
            self._note_wait(flight, decision.reason, decision.message)
        if decision.lacks_payload:
            self._lacking[flight] = None

    def _retry(self, flight: Flight, decision: Retry) -> None:
        flight.refusals += 1
        self._note_wait(flight, decision.reason, decision.message, "backoff")
        self._note_return(flight.destination, decision.reason, decision.message)
        self.inflight.back_off(flight, self._clock.monotonic_s() + decision.after_s)

    def _fail(self, flight: Flight, observation: Observation, diagnosis: Diagnosis) -> None:
        if isinstance(observation, Rejected):
            self._note_taking(flight.destination)
        self._close(flight, Outcome.FAILED, diagnosis)
        self._listener.failed(flight.key, diagnosis)

    # --- breakers -----------------------------------------------------------------------

    def _note_return(self, to: Destination, reason: Reason, message: str) -> None:
        """A submission came back: because nothing answers, or because somebody does and asks for patience."""
        if reason not in AWAY:
            self._note_taking(to)
        elif self.inflight.breakers[to].refused(f"{reason}: {message}", self._clock.monotonic_s()):
            self._tell_breaker(to)

    def _note_taking(self, to: Destination) -> None:
        """It took or judged a submission: whatever waits for it alone may go on."""
        breaker = self.inflight.breakers[to]
        if breaker.is_clean:
            return
        if breaker.took():
            self._tell_breaker(to)
        self.inflight.wake(to, AWAY)

    def _hear_backends(self) -> None:
        """What each backend says of its other sides, submissions or not."""
        for name, backend in self._backends.items():
            for cluster, trouble in backend.troubles.items():
                to = Destination(name, cluster)
                breaker = self.inflight.breakers[to]
                if breaker.heard(trouble, self._clock.monotonic_s()):
                    self._tell_breaker(to)
                    if not breaker.is_open:
                        self.inflight.wake(to, AWAY)

    def _tell_breaker(self, to: Destination) -> None:
        """The one line about an outage, and the one about its end."""
        breaker = self.inflight.breakers[to]
        if breaker.is_open:
            log.warning("backend=%s breaker=open one submission at a time is tried: %s", to, breaker.why)
        else:
            lasted_s = self._clock.monotonic_s() - breaker.since_s
            log.warning("backend=%s breaker=closed after %.0f s: what waited goes on", to, lasted_s)

    def _note_wait(self, flight: Flight, reason: Reason, message: str, state: str = "") -> None:
        is_news = (flight.reason, flight.message) != (reason, message)
        if is_news or state not in ("", flight.told):
            self._move(flight, state or flight.phase.word, reason, message)
        if is_news:
            self._log.tell(flight, "waits", f"{reason}: {message}")
            since = None if flight.reason is reason else self._clock.now()
            self._journal.change(
                Change(id=flight.id, waits_for=reason, waits_message=message, waits_since=since)
            )
        if reason is Reason.NO_NODE is not flight.reason:
            # Only its user can tell whether an autoscaler will bring what is missing.
            words = Diagnosis(reason=reason, message=message).advice
            self._listener.note(flight.key, "hybrid executor: no node could hold it", words)
            flight.waits_told |= {reason}
        now_s = self._clock.monotonic_s()
        if reason is not flight.reason and reason not in flight.waits_told:
            self._long_waits.begin(flight, now_s, reason)
        self.inflight.explain(flight, reason, message)
        flight.reason_seen_s = now_s

    def _resubmit(self, flight: Flight, after_s: float, diagnosis: Diagnosis) -> None:
        self._log.tell(flight, "replaced", str(diagnosis))
        self._tell_end(
            flight,
            Outcome.REPLACED,
            diagnosis,
            f"submission {flight.number} ended before the task started, and the next one follows in "
            f"{after_s:.0f} s and uses no retry: {diagnosis.advice}",
        )
        self._journal.end(flight, Outcome.REPLACED, diagnosis)
        self.inflight.resubmit(flight, self._clock.monotonic_s() + after_s)
        flight.again_at = self._clock.now()
        self.inflight.explain(flight, diagnosis.reason, diagnosis.message)
        self._move(flight, "backoff", diagnosis.reason, diagnosis.message)

    def _restart(self, flight: Flight, observation: Observation, decision: Restart) -> None:
        if not self._restarts.prepare(flight, decision):
            self._undecided.append((flight.backend, observation))
            return
        self._close(flight, Outcome.RESTARTED, decision.diagnosis)
        if flight.attempt.address:
            self._listener.restarted(flight.key, flight.attempt.address, decision.diagnosis)

    def _close(self, flight: Flight, outcome: Outcome, diagnosis: Diagnosis | None) -> None:
        if diagnosis:
            self._log.tell(flight, outcome, str(diagnosis))
        else:
            self._log.note(flight, outcome)
        self._tell_end(flight, outcome, diagnosis, diagnosis.advice if diagnosis else "")
        self._journal.end(flight, outcome, diagnosis)
        if self._costs and flight.where:
            self._costs.left(flight.where)
        self.inflight.remove(flight)

    def _tell_wait(self, flight: Flight) -> None:
        """What ``airflow hybrid why`` says of it, in the task's event log, and in its log if it is there."""
        record = replace(
            self._journal.row_of(flight),
            submitted_at=flight.attempt.queued_at if flight.phase is Phase.ACCEPTED else None,
            waits_for=flight.reason,
            waits_message=flight.message,
        )
        hint = advice(record)
        text = headline(record, self._clock.now()) + (f" -> {hint}" if hint else "")
        self._listener.note(flight.key, WAITS, text)
        if flight.parcel is not None:
            self._listener.log_line(flight.parcel, flight.backend, f"{WAITS}: {text}")

    def _tell_end(self, flight: Flight, outcome: Outcome, diagnosis: Diagnosis | None, text: str) -> None:
        """Every end is counted; what did not go well stands in the task's event log, whoever reported it."""
        self._move_to_end(flight, outcome, diagnosis)
        if text and outcome in EVENTS:
            self._listener.note(flight.key, EVENTS[outcome], text)
            # An adopted one has no workload, and no path of a log.
            if flight.parcel is not None:
                self._listener.log_line(flight.parcel, flight.backend, f"{EVENTS[outcome]}: {text}")

    # --- telling ------------------------------------------------------------------------

    def _move(
        self,
        flight: Flight,
        after: str,
        reason: Reason | None = None,
        message: str = "",
        *,
        where: str | None = None,
        exit_code: int | None = None,
        is_end: bool = False,
    ) -> None:
        """Tell the listener of a step; called before the flight itself notes it."""
        step = Transition(
            attempt=flight.attempt,
            number=flight.number,
            before=flight.told,
            after=after,
            at=self._clock.now(),
            times=flight.times,
            is_end=is_end,
            external_name=flight.external_name,
            where=where or flight.where,
            reason=reason,
            message=message,
            exit_code=exit_code,
        )
        flight.told = None if is_end else after
        self._listener.moved(step, flight.parcel)

    def _move_to_end(self, flight: Flight, outcome: Outcome, diagnosis: Diagnosis | None) -> None:
        if diagnosis:
            said = (diagnosis.reason, diagnosis.message)
            self._move(flight, outcome, *said, exit_code=diagnosis.exit_code, is_end=True)
        else:
            self._move(flight, outcome, is_end=True)

    def _let_go(self, flight: Flight) -> None:
        """Another scheduler has it now."""
        self._move(flight, "let_go", message="another scheduler has it now")
        self.inflight.remove(flight)

    # --- submitting ---------------------------------------------------------------------

    def _submit(self, taken: list[Flight]) -> None:
        ready = [flight for flight in taken if self._prepare(flight)]
        if not self._journal.write([f for f in ready if not f.recorded]):
            for flight in ready:
                if flight.recorded:
                    continue
                self._note_hold(flight, Reason.LEDGER_UNAVAILABLE)
            ready = [flight for flight in ready if flight.recorded]
        now = self._clock.now()
        for flight in ready:
            self.inflight.explain(flight, None, "")
            self._move(flight, "sent")
            flight.sent_at = flight.sent_at or now
        self._hand_over(ready)

    def _hand_over(self, flights: Iterable[Flight]) -> None:
        """One batch for each backend."""
        batches: dict[BackendName, list[Submission]] = {}
        now_s = self._clock.monotonic_s()
        for flight in flights:
            batches.setdefault(flight.backend, []).append(self._submission(flight, now_s))
        for name, batch in batches.items():
            self._backends[name].submit(batch)

    def _note_hold(self, flight: Flight, reason: Reason) -> None:
        flight.reason_seen_s = self._clock.monotonic_s()
        self.inflight.ready(flight, reason=reason)

    def _prepare(self, flight: Flight) -> bool:
        """Make sure that there is something to send; an adopted attempt has no workload yet."""
        try:
            if self._has_parcel(flight):
                return True
        except Unavailable:
            self._note_hold(flight, Reason.LEDGER_UNAVAILABLE)
            return False
        self._close(flight, Outcome.REVOKED, Diagnosis(reason=Reason.SETTLED))
        return False

    def _has_parcel(self, flight: Flight) -> bool:
        """False if the attempt is not to run any more; raises ``Unavailable``."""
        if flight.parcel is None:
            flight.parcel = self._tasks.parcel(flight.attempt)
            flight.signed_s = self._clock.monotonic_s()
        return flight.parcel is not None

    def _complete(self) -> None:
        """Hand over again what lacks its payload, unless it has gone on without meanwhile."""
        ready = []
        for flight in list(self._lacking)[:PAYLOADS_AT_ONCE]:
            wants = self.inflight.get(flight.attempt.id) is flight and flight.phase is Phase.ACCEPTED
            try:
                if wants and not flight.revoked and self._has_parcel(flight):
                    ready.append(flight)
            except Unavailable as error:
                log.warning("%d payloads wait: %s", len(self._lacking), error)
                break
            del self._lacking[flight]
        self._hand_over(ready)

    def _submission(self, flight: Flight, now_s: float) -> Submission:
        # A hundredth of its life is what a token may lose before it is signed again.
        fresh = now_s - flight.signed_s > self._token_life_s / 100
        if fresh:
            flight.signed_s = now_s
        return Submission(
            attempt=flight.attempt,
            number=flight.number,
            payload=self._tasks.payload(flight.parcel, fresh_token=fresh),
            executor_config=self._tasks.executor_config(flight.parcel),
        )

    def row_of(self, flight: Flight) -> SubmissionRecord:
        """The ledger row of a flight's current submission, as it stands before it is sent."""
        return self._journal.row_of(flight)

    # --- routes -------------------------------------------------------------------------

    def reroute(self, flight: Flight, route: Route) -> None:
        """Give an attempt that waited for a valid routes file its route."""
        self.inflight.reroute(flight, replace(flight.attempt, route=route))
