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
4. only an end that is recorded is released: until then the pod stays as its witness.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.lifecycle import (
    Advance,
    Close,
    Decision,
    Fail,
    Ignore,
    Phase,
    Policy,
    Resubmit,
    Retry,
    Succeed,
    Witness,
    decide,
    needs_witness,
)
from hybrid_executor.model.attempt import (
    Attempt,
    BackendName,
    Route,
    Submission,
    SubmissionId,
    TaskAddress,
    WorkloadKind,
)
from hybrid_executor.model.errors import LedgerUnavailable, Unavailable
from hybrid_executor.model.observation import Diagnosis, Ended, Observation
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord
from hybrid_executor.ports import Backend, Clock, Ledger, Listener, Tasks

log = logging.getLogger("hybrid_executor")

#: Waits that end for all attempts at once, when their backend answers again.
AWAY = frozenset({Reason.BROKER_UNAVAILABLE, Reason.API_UNAVAILABLE})
#: States of a task instance in which its attempt may still have a process.
ALIVE = frozenset({"queued", "running", "restarting"})
#: How long a process may live on after Airflow has gone on without it, before it is withdrawn:
#: a task's supervisor reports the state first and ends its log after that.
LINGER_S = 15.0
#: Reconciliations between two sweeps while the same schedulers live.
SWEEP_EVERY = 20
#: Rows of dead schedulers that one reconciliation looks at.
ORPHANS_AT_ONCE = 500


@dataclass(slots=True)
class _Step:
    """What one step has gathered and not yet written."""

    new: list[SubmissionRecord] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    released: dict[BackendName, list[SubmissionId]] = field(default_factory=dict)


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
    ) -> None:
        self._backends = backends
        self._ledger = ledger
        self._tasks = tasks
        self._listener = listener
        self.inflight = inflight
        self._policy = policy
        self._clock = clock
        self._owner = owner
        self._token_life_s = token_life_s
        self._reconcile_interval_s = reconcile_interval_s
        self._reconciled_s = float("-inf")
        self._swept: tuple[frozenset[str], int] = (frozenset(), 0)
        self._undecided: list[tuple[BackendName, Observation]] = []
        self._unwritten = _Step()
        self._away: set[BackendName] = set()
        self._ledger_away = False

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

    def adopt(self, flights: Sequence[Flight]) -> None:
        """Take in attempts of a dead scheduler; their backends are asked what became of them."""
        for flight in flights:
            self.inflight.add(flight)
            self._unwritten.changes.append(Change(id=flight.id, scheduler_job=self._owner))
        self._look_up(flights)

    def revoke(self, flight: Flight) -> None:
        """Withdraw an attempt. Airflow is told nothing more of it."""
        flight.revoked = True
        if flight.phase is Phase.BACKOFF:
            # The wait may be that of a request whose answer was lost, so the backend is asked.
            self.inflight.advance(flight, Phase.SENT)
        if flight.is_sent:
            self._backends[flight.backend].cancel([flight.id])
        else:
            self._close(flight, Outcome.REVOKED, Diagnosis(reason=Reason.REVOKED))

    # --- the step -----------------------------------------------------------------------

    def step(self) -> None:
        """One heartbeat: costs what has changed since the last, and nothing when nothing has."""
        self._observe()
        now_s = self._clock.monotonic_s()
        if now_s - self._reconciled_s >= self._reconcile_interval_s:
            self._reconciled_s = now_s
            self._reconcile()
        self._submit(self.inflight.take(now_s))

    def flush(self) -> None:
        """Write what is not written yet; used once more before the end."""
        self._record([])

    # --- observing ----------------------------------------------------------------------

    def _observe(self) -> None:
        seen = self._undecided + [(n, o) for n, backend in self._backends.items() for o in backend.poll()]
        if not seen:
            return
        try:
            witnesses = self._witnesses_for(seen)
        except Unavailable as error:
            log.warning("metadata database is away, %d observations wait: %s", len(seen), error)
            self._undecided = seen
            return
        self._undecided = []
        strangers = [
            (name, o)
            for name, o in seen
            if isinstance(o, Ended) and self.inflight.get(o.submission.attempt_id) is None
        ]
        for _, observation in seen:
            flight = self.inflight.get(observation.submission.attempt_id)
            if flight is None:
                continue
            flight.looked_up = False
            witness = witnesses.get(flight.attempt.address) if flight.attempt.address else None
            self._apply(flight, observation, decide(flight.view(), observation, witness, self._policy))
        self._settle_strangers(strangers)

    def _witnesses_for(
        self, seen: Iterable[tuple[BackendName, Observation]]
    ) -> Mapping[TaskAddress, Witness]:
        addresses = {
            flight.attempt.address
            for _, observation in seen
            if (flight := self.inflight.get(observation.submission.attempt_id))
            and flight.attempt.address
            and needs_witness(flight.view(), observation)
        }
        return self._tasks.witnesses(addresses) if addresses else {}

    def _apply(self, flight: Flight, observation: Observation, decision: Decision) -> None:
        match decision:
            case Ignore():
                if isinstance(observation, Ended):
                    self._let_go(flight.backend, observation.submission)
            case Advance():
                self._advance(flight, decision)
            case Retry(after_s=after_s, reason=reason, message=message):
                flight.refusals += 1
                self._note_wait(flight, reason, message)
                if reason in AWAY:
                    self._away.add(flight.backend)
                self.inflight.back_off(flight, self._clock.monotonic_s() + after_s)
            case Resubmit(after_s=after_s, diagnosis=diagnosis):
                self._resubmit(flight, after_s, diagnosis)
            case Succeed():
                self._close(flight, Outcome.SUCCEEDED, None)
                self._listener.succeeded(flight.key)
            case Fail(diagnosis=diagnosis):
                self._close(flight, Outcome.FAILED, diagnosis)
                self._listener.failed(flight.key, diagnosis)
            case Close(outcome=outcome, diagnosis=diagnosis):
                self._close(flight, outcome, diagnosis)

    def _advance(self, flight: Flight, decision: Advance) -> None:
        now = self._clock.now()
        if flight.phase < Phase.ACCEPTED <= decision.phase:
            self._log(flight, "accepted", decision.external_name or "")
        if decision.phase is Phase.STARTED and flight.phase is not Phase.STARTED:
            self._log(flight, "started", decision.where or "")
        if decision.external_name:
            flight.refusals = 0
            self._unwritten.changes.append(
                Change(id=flight.id, submitted_at=now, external_name=decision.external_name)
            )
            if flight.backend in self._away:
                self._away.discard(flight.backend)
                self.inflight.wake(flight.backend, AWAY)
        if decision.where:
            self._unwritten.changes.append(Change(id=flight.id, started_at=now, where=decision.where))
        if decision.phase > flight.phase:
            self.inflight.advance(flight, decision.phase)
        if decision.reason:
            self._note_wait(flight, decision.reason, decision.message)

    def _note_wait(self, flight: Flight, reason: Reason, message: str) -> None:
        if (flight.reason, flight.message) != (reason, message):
            self._log(flight, "waits", f"{reason}: {message}")
            self._unwritten.changes.append(Change(id=flight.id, waits_for=reason))
        flight.reason, flight.message = reason, message
        flight.reason_seen_s = self._clock.monotonic_s()

    def _resubmit(self, flight: Flight, after_s: float, diagnosis: Diagnosis) -> None:
        self._log(flight, "replaced", f"{diagnosis.reason}: {diagnosis.message}")
        self._listener.note(
            flight.key,
            "hybrid executor: submitted again",
            f"submission {flight.number} ended before the task started: {diagnosis.reason} "
            f"{diagnosis.message}; the next one follows in {after_s:.0f} s and uses no retry",
        )
        self._end_row(flight, Outcome.REPLACED, diagnosis)
        self.inflight.resubmit(flight, self._clock.monotonic_s() + after_s)
        flight.reason, flight.message = diagnosis.reason, diagnosis.message

    def _close(self, flight: Flight, outcome: Outcome, diagnosis: Diagnosis | None) -> None:
        self._log(flight, outcome, f"{diagnosis.reason}: {diagnosis.message}" if diagnosis else "")
        self._end_row(flight, outcome, diagnosis)
        self.inflight.remove(flight)

    def _end_row(self, flight: Flight, outcome: Outcome, diagnosis: Diagnosis | None) -> None:
        if flight.recorded:
            self._unwritten.changes.append(
                Change(
                    id=flight.id,
                    ended_at=self._clock.now(),
                    outcome=outcome,
                    reason=diagnosis.reason if diagnosis else None,
                    message=diagnosis.message if diagnosis else None,
                    exit_code=diagnosis.exit_code if diagnosis else None,
                )
            )
        self._let_go(flight.backend, flight.id)

    def _let_go(self, backend: BackendName, submission: SubmissionId) -> None:
        self._unwritten.released.setdefault(backend, []).append(submission)

    def _settle_strangers(self, strangers: Sequence[tuple[BackendName, Observation]]) -> None:
        """Close what ended while no scheduler answered for it, unless Airflow will offer it for adoption."""
        if not strangers:
            return
        try:
            rows = self._ledger.find({o.submission.attempt_id for _, o in strangers})
            witnesses = self._tasks.witnesses({r.address for r in rows.values() if r.address})
        except Unavailable as error:
            log.warning("%d ends of other schedulers' submissions wait: %s", len(strangers), error)
            self._undecided.extend(strangers)
            return
        for name, observation in strangers:
            row = rows.get(observation.submission.attempt_id)
            if row and _may_be_adopted(row, witnesses):
                continue
            if row and row.ended_at is None:
                self._unwritten.changes.append(self._settled(row, witnesses))
            self._let_go(name, observation.submission)

    # --- submitting ---------------------------------------------------------------------

    def _submit(self, taken: list[Flight]) -> None:
        ready = [flight for flight in taken if self._prepare(flight)]
        if not self._record([f for f in ready if not f.recorded]):
            for flight in ready:
                if flight.recorded:
                    continue
                self._note_hold(flight, Reason.LEDGER_UNAVAILABLE)
            ready = [flight for flight in ready if flight.recorded]
        batches: dict[BackendName, list[Submission]] = {}
        now_s = self._clock.monotonic_s()
        for flight in ready:
            flight.reason, flight.message = None, ""
            batches.setdefault(flight.backend, []).append(self._submission(flight, now_s))
        for name, batch in batches.items():
            self._backends[name].submit(batch)

    def _note_hold(self, flight: Flight, reason: Reason) -> None:
        flight.reason_seen_s = self._clock.monotonic_s()
        self.inflight.ready(flight, reason=reason)

    def _prepare(self, flight: Flight) -> bool:
        """Make sure that there is something to send; an adopted attempt has no workload yet."""
        if flight.parcel is not None:
            return True
        try:
            flight.parcel = self._tasks.parcel(flight.attempt)
        except Unavailable:
            self._note_hold(flight, Reason.LEDGER_UNAVAILABLE)
            return False
        if flight.parcel is None:
            self._close(flight, Outcome.REVOKED, Diagnosis(reason=Reason.SETTLED))
            return False
        flight.signed_s = self._clock.monotonic_s()
        return True

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

    def _record(self, unrecorded: Sequence[Flight]) -> bool:
        """Write everything that is due in one transaction; say whether it is durable."""
        due = self._unwritten
        new = [self.row_of(flight) for flight in unrecorded]
        if not (new or due.changes or due.released):
            return True
        try:
            self._ledger.record(new, due.changes)
        except LedgerUnavailable as error:
            if not self._ledger_away:
                log.warning("the ledger can't be written; nothing unrecorded is sent: %s", error)
            self._ledger_away = True
            return False
        if self._ledger_away:
            log.info("the ledger is written again")
        self._ledger_away = False
        for flight in unrecorded:
            flight.recorded = True
        self._unwritten = _Step()
        for name, ids in due.released.items():
            self._backends[name].release(ids)
        return True

    def row_of(self, flight: Flight) -> SubmissionRecord:
        """The ledger row of a flight's current submission, as it stands before it is sent."""
        attempt = flight.attempt
        return SubmissionRecord(
            id=flight.id,
            kind=attempt.kind,
            workload_id=attempt.workload_id,
            address=attempt.address,
            queue=attempt.queue,
            backend=attempt.route.backend,
            rule=attempt.route.rule,
            pod_template_file=attempt.route.pod_template_file,
            scheduler_job=self._owner,
            queued_at=attempt.queued_at,
        )

    # --- reconciling --------------------------------------------------------------------

    def _reconcile(self) -> None:
        """Compare what is in flight with what the metadata database says; bounded work."""
        try:
            self._compare_with_tasks()
            self._take_over()
        except Unavailable as error:
            log.warning("reconciliation is put off: %s", error)

    def _compare_with_tasks(self) -> None:
        flights = list(self.inflight)
        self._look_up([f for f in flights if f.phase is Phase.ACCEPTED and not f.looked_up])
        tasks = [f for f in flights if f.attempt.kind is WorkloadKind.TASK]
        if not tasks:
            return
        witnesses = self._tasks.witnesses({f.attempt.address for f in tasks if f.attempt.address})
        waiting: list[Attempt] = []
        for flight in tasks:
            witness = witnesses.get(flight.attempt.address) if flight.attempt.address else None
            if witness and witness.owner not in (None, self._owner):
                log.info("attempt %s now belongs to scheduler job %s", flight.attempt.id, witness.owner)
                self.inflight.remove(flight)
            elif not _carries(witness, flight.attempt.id):
                self._outlived(flight, witness)
            else:
                flight.over_since_s = None
                if witness and witness.state == "queued" and self._wait_is_known(flight):
                    waiting.append(flight.attempt)
        if waiting:
            self._tasks.refresh_queued(waiting)

    def _outlived(self, flight: Flight, witness: Witness | None) -> None:
        """Withdraw what Airflow has gone on without, once its process had time to end by itself."""
        now_s = self._clock.monotonic_s()
        if flight.over_since_s is None:
            flight.over_since_s = now_s
        if flight.revoked or (flight.is_sent and now_s - flight.over_since_s < LINGER_S):
            return
        if flight.is_sent:
            self._backends[flight.backend].cancel([flight.id])
        outcome = _outcome_of(witness, flight.attempt.id)
        self._close(flight, outcome, Diagnosis(reason=Reason.SETTLED, message=_state_text(witness)))

    def _wait_is_known(self, flight: Flight) -> bool:
        """Whether it is known why a queued attempt has not started: then its time does not run out."""
        if not flight.is_sent:
            return True
        if flight.looked_up:
            # Its backend has not answered since the last look-up: it is away.
            return True
        age_s = self._clock.monotonic_s() - flight.reason_seen_s
        return flight.reason is not None and age_s <= 3 * self._reconcile_interval_s

    def _look_up(self, flights: Sequence[Flight]) -> None:
        asked: dict[BackendName, list[SubmissionId]] = {}
        for flight in flights:
            flight.looked_up = True
            asked.setdefault(flight.backend, []).append(flight.id)
        for name, ids in asked.items():
            self._backends[name].adopt(ids)

    def _take_over(self) -> None:
        live = self._tasks.live_owners() | {self._owner}
        swept, age = self._swept
        if live == swept and age < SWEEP_EVERY:
            self._swept = (swept, age + 1)
            return
        for backend in self._backends.values():
            backend.sweep(live)
        rows = self._ledger.open_elsewhere(live, ORPHANS_AT_ONCE)
        witnesses = self._tasks.witnesses({r.address for r in rows if r.address})
        self._swept = (live if len(rows) < ORPHANS_AT_ONCE else frozenset(), 0)
        self._unwritten.changes.extend(
            self._settled(row, witnesses)
            for row in rows
            if self.inflight.get(row.id.attempt_id) is None and not _may_be_adopted(row, witnesses)
        )

    def _settled(self, row: SubmissionRecord, witnesses: Mapping[TaskAddress, Witness]) -> Change:
        witness = witnesses.get(row.address) if row.address else None
        return Change(
            id=row.id,
            ended_at=self._clock.now(),
            outcome=_outcome_of(witness, row.id.attempt_id),
            reason=Reason.SETTLED,
            message=_state_text(witness),
        )

    # --- routes -------------------------------------------------------------------------

    def reroute(self, flight: Flight, route: Route) -> None:
        """Give an attempt that waited for a valid routes file its route."""
        self.inflight.reroute(flight, replace(flight.attempt, route=route))

    def _log(self, flight: Flight, phase: str, text: str) -> None:
        log.info(
            "attempt_id=%s submission=%d backend=%s phase=%s %s",
            flight.attempt.id,
            flight.number,
            flight.backend,
            phase,
            text,
        )


def _carries(witness: Witness | None, attempt_id: str) -> bool:
    return witness is not None and witness.attempt_id == attempt_id and witness.state in ALIVE


def _may_be_adopted(row: SubmissionRecord, witnesses: Mapping[TaskAddress, Witness]) -> bool:
    witness = witnesses.get(row.address) if row.address else None
    return _carries(witness, row.id.attempt_id)


def _outcome_of(witness: Witness | None, attempt_id: str) -> Outcome:
    """What the task instance's state says of an attempt that ended unseen."""
    if witness is None or witness.attempt_id != attempt_id:
        return Outcome.REVOKED
    if witness.state in ("failed", "up_for_retry", "upstream_failed"):
        return Outcome.FAILED
    return Outcome.SUCCEEDED


def _state_text(witness: Witness | None) -> str:
    return f"the task instance is {witness.state}" if witness else "the task instance is gone"
