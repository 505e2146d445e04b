"""Compares what is in flight, in the ledger and in the backends with what Airflow's tables say.

It repairs what no observation tells: attempts that Airflow has gone on
without, attempts that another scheduler has adopted, waits whose time would
run out although their reason is known, and what dead schedulers have left.
Bounded work, every few seconds; ``controller`` calls it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.journal import Journal, columns_of
from hybrid_executor.lifecycle import ENDED_BADLY, Phase, Witness
from hybrid_executor.model.attempt import (
    Attempt,
    BackendName,
    Destination,
    SubmissionId,
    TaskAddress,
    WorkloadKind,
)
from hybrid_executor.model.errors import Unavailable
from hybrid_executor.model.observation import Diagnosis, Ended, Observation
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord
from hybrid_executor.ports import Backend, Clock, Ledger, Tasks

log = logging.getLogger("hybrid_executor")

#: States of a task instance in which its attempt may still have a process.
ALIVE = frozenset({"queued", "running", "restarting"})
#: How long a process may live on after Airflow has gone on without it, before it is withdrawn:
#: a task's supervisor reports the state first and ends its log after that.
LINGER_S = 15.0
#: How long a process may take from its start to the task's: it imports Airflow and the DAG, on a busy node
#: many at once. Whoever takes the task for stuck meanwhile would withdraw a process that lives.
START_GRACE_S = 60.0
#: Reconciliations between two sweeps while the same schedulers live.
SWEEP_EVERY = 60
#: How long every reconciliation sweeps after a scheduler came or went. What ends by itself before Airflow
#: offers it for adoption, which it does every ``orphaned_tasks_check_interval`` (300 s), is offered never.
SWEEP_ON_S = 600.0
#: Rows of dead schedulers that one reconciliation looks at.
ORPHANS_AT_ONCE = 500

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
        clock: Clock,
        owner: str,
        interval_s: float,
        close: Close,
    ) -> None:
        """``close`` ends a flight without telling Airflow."""
        self._backends = backends
        self._ledger = ledger
        self._tasks = tasks
        self._inflight = inflight
        self._journal = journal
        self._clock = clock
        self._owner = owner
        self._interval_s = interval_s
        self._close = close
        self._done_s = float("-inf")
        self._swept: tuple[frozenset[str], int] = (frozenset(), 0)
        self._sweep_until_s = float("-inf")

    def run_if_due(self) -> None:
        """Compare, if the last time is long enough ago."""
        now_s = self._clock.monotonic_s()
        if now_s - self._done_s < self._interval_s:
            return
        self._done_s = now_s
        try:
            self._compare_with_tasks()
            self._take_over()
        except Unavailable as error:
            log.warning("reconciliation is put off: %s", error)

    def _compare_with_tasks(self) -> None:
        flights = list(self._inflight)
        self.look_up([f for f in flights if f.phase is Phase.ACCEPTED and not f.looked_up])
        tasks = [f for f in flights if f.attempt.kind is WorkloadKind.TASK]
        if not tasks:
            return
        witnesses = self._tasks.witnesses({f.attempt.address for f in tasks if f.attempt.address})
        waiting: list[Attempt] = []
        for flight in tasks:
            witness = witnesses.get(flight.attempt.address) if flight.attempt.address else None
            if witness and witness.owner not in (None, self._owner):
                log.info("attempt %s now belongs to scheduler job %s", flight.attempt.id, witness.owner)
                self._inflight.remove(flight)
            elif not _carries(witness, flight.attempt.id):
                self._outlived(flight, witness)
            else:
                flight.over_since_s = None
                if witness and witness.state == "queued" and self._wait_is_known(flight):
                    waiting.append(flight.attempt)
        if waiting:
            self._tasks.refresh_queued(waiting)

    def _outlived(self, flight: Flight, witness: Witness | None) -> None:
        """Withdraw what Airflow has gone on without; a process that ran is given time to end by itself."""
        now_s = self._clock.monotonic_s()
        if flight.over_since_s is None:
            flight.over_since_s = now_s
        lingers = flight.is_sent and _has_run(flight, witness)
        if flight.revoked or (lingers and now_s - flight.over_since_s < LINGER_S):
            return
        if flight.may_live:
            self._backends[flight.backend].cancel([flight.id], flight.destination.cluster)
        outcome = _outcome_of(witness, flight.attempt.id)
        self._close(flight, outcome, Diagnosis(reason=Reason.SETTLED, message=_state_text(witness)))

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

    def _take_over(self) -> None:
        live = self._tasks.live_owners() | {self._owner}
        now_s = self._clock.monotonic_s()
        swept, age = self._swept
        if live != swept:
            self._sweep_until_s = now_s + SWEEP_ON_S
        if live == swept and age < SWEEP_EVERY and now_s >= self._sweep_until_s:
            self._swept = (swept, age + 1)
            return
        for backend in self._backends.values():
            backend.sweep(live)
        rows = self._ledger.open_elsewhere(live, ORPHANS_AT_ONCE)
        witnesses = self._tasks.witnesses({r.address for r in rows if r.address})
        self._swept = (live if len(rows) < ORPHANS_AT_ONCE else frozenset(), 0)
        for row in rows:
            if self._inflight.get(row.id.attempt_id) is None and not _may_be_adopted(row, witnesses):
                self._journal.change(self._settled(row, witnesses))
                if row.started_at is None:
                    # A pod whose Secret its scheduler never made would wait for ever, and nobody would ask.
                    self._backends[row.backend].cancel([row.id], row.cluster)

    def _settled(
        self,
        row: SubmissionRecord,
        witnesses: Mapping[TaskAddress, Witness],
        seen: Ended | None = None,
    ) -> Change:
        """Closed with what Airflow says of it, and, where that is no success, with what its backend saw."""
        witness = witnesses.get(row.address) if row.address else None
        outcome = _outcome_of(witness, row.id.attempt_id)
        diagnosis = Diagnosis(reason=Reason.SETTLED, message=_state_text(witness))
        if seen and seen.diagnosis and outcome is not Outcome.SUCCEEDED:
            diagnosis = seen.diagnosis
        return Change(
            id=row.id,
            ended_at=self._clock.now(),
            outcome=outcome,
            reason=diagnosis.reason,
            message=diagnosis.message,
            exit_code=diagnosis.exit_code,
            **columns_of(seen.resources if seen and seen.submission == row.id else None),
        )

    def settle_strangers(
        self, strangers: Sequence[tuple[BackendName, Observation]]
    ) -> Sequence[tuple[BackendName, Observation]]:
        """Close what ended while no scheduler answered for it, unless Airflow will offer it for adoption.

        Returns those that have to be looked at again.
        """
        if not strangers:
            return ()
        try:
            rows = self._ledger.find({o.submission.attempt_id for _, o in strangers})
            witnesses = self._tasks.witnesses({r.address for r in rows.values() if r.address})
        except Unavailable as error:
            log.warning("%d ends of other schedulers' submissions wait: %s", len(strangers), error)
            return strangers
        for name, observation in strangers:
            row = rows.get(observation.submission.attempt_id)
            if row and _may_be_adopted(row, witnesses):
                continue
            if row and row.ended_at is None:
                seen = observation if isinstance(observation, Ended) else None
                self._journal.change(self._settled(row, witnesses, seen))
            self._journal.let_go(name, observation.submission)
        return ()


def _carries(witness: Witness | None, attempt_id: str) -> bool:
    return witness is not None and witness.attempt_id == attempt_id and witness.state in ALIVE


def _has_run(flight: Flight, witness: Witness | None) -> bool:
    """Whether there is a task's process to wait for: its backend saw it, or it told Airflow that it starts.

    A user who marks a task gives it a start as well, but no host; an earlier try left both, but before.
    """
    if flight.phase is Phase.STARTED:
        return True
    if witness is None or not witness.host or not witness.started_at:
        return False
    return witness.started_at >= flight.attempt.queued_at


def _may_be_adopted(row: SubmissionRecord, witnesses: Mapping[TaskAddress, Witness]) -> bool:
    witness = witnesses.get(row.address) if row.address else None
    return _carries(witness, row.id.attempt_id)


def _outcome_of(witness: Witness | None, attempt_id: str) -> Outcome:
    """What the task instance's state says of an attempt that ended unseen."""
    if witness is None or witness.attempt_id != attempt_id:
        return Outcome.REVOKED
    if witness.state in ENDED_BADLY:
        return Outcome.FAILED
    return Outcome.SUCCEEDED


def _state_text(witness: Witness | None) -> str:
    return f"the task instance is {witness.state}" if witness else "the task instance is gone"
