"""Settles what nothing in flight answers for: rows of the ledger, and submissions in the backends.

Rows that dead schedulers left open, rows of this scheduler's own that drifted
from what it has in flight, and pods that come up in a watch although nobody
here sent them. What Airflow will offer for adoption is left alone, everything
else is closed with what the task instance says. ``reconcile`` calls it.
"""

import logging
from collections.abc import Mapping, Sequence

from hybrid_executor.comparison import gone_on, outcome_of, state_text
from hybrid_executor.inflight import Inflight
from hybrid_executor.journal import Journal
from hybrid_executor.lifecycle import RUNNING, Witness
from hybrid_executor.model.attempt import BackendName, SubmissionId
from hybrid_executor.model.errors import Unavailable
from hybrid_executor.model.mismatch import Mismatch
from hybrid_executor.model.observation import Diagnosis, Ended, Observation
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, SubmissionRecord
from hybrid_executor.naming import is_pod_of
from hybrid_executor.ports import Backend, Clock, Ledger, Listener, Tasks

log = logging.getLogger("hybrid_executor")

#: Reconciliations between two sweeps while the same schedulers live.
SWEEP_EVERY = 60
#: How long every reconciliation sweeps after a scheduler came or went. What ends by itself before Airflow
#: offers it for adoption, which it does every ``orphaned_tasks_check_interval`` (300 s), is offered never.
SWEEP_ON_S = 600.0
#: Rows that one reconciliation looks at, of dead schedulers and of this one each.
ROWS_AT_ONCE = 500
#: Reconciliations between two looks at rows of this scheduler's own.
DRIFT_EVERY = 6
#: How many settled submissions are remembered, so that none is told twice.
SETTLED_MAX = 10_000


class Leftovers:
    """What is left over in the sight of one scheduler."""

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
    ) -> None:
        self._backends = backends
        self._ledger = ledger
        self._tasks = tasks
        self._inflight = inflight
        self._journal = journal
        self._listener = listener
        self._clock = clock
        self._owner = owner
        self._swept: tuple[frozenset[str], int] = (frozenset(), 0)
        self._sweep_until_s = float("-inf")
        self._live: frozenset[str] = frozenset({owner})
        self._drift_age = 0
        self._drift_after: SubmissionRecord | None = None
        #: Withdrawn or let go without a flight; their backends go on speaking of them until they are gone.
        self._settled: set[SubmissionId] = set()

    # --- rows -----------------------------------------------------------------------------

    def take_over(self) -> None:
        """Sweep the backends for what dead schedulers left, and close their rows; raises ``Unavailable``."""
        live = self._live = self._tasks.live_owners() | {self._owner}
        now_s = self._clock.monotonic_s()
        swept, age = self._swept
        if live != swept:
            self._sweep_until_s = now_s + SWEEP_ON_S
        if live == swept and age < SWEEP_EVERY and now_s >= self._sweep_until_s:
            self._swept = (swept, age + 1)
            return
        for backend in self._backends.values():
            backend.sweep(live)
        rows = self._ledger.open_elsewhere(live, ROWS_AT_ONCE)
        self._swept = (live if len(rows) < ROWS_AT_ONCE else frozenset(), 0)
        self._close_rows(rows, Mismatch.ROW_WITHOUT_SCHEDULER)

    def find_drift(self) -> None:
        """Look at the next page of this scheduler's own open rows, now and then; raises ``Unavailable``."""
        self._drift_age += 1
        if self._drift_age < DRIFT_EVERY:
            return
        self._drift_age = 0
        rows = self._ledger.open_of(self._owner, self._drift_after, ROWS_AT_ONCE)
        self._drift_after = rows[-1] if len(rows) == ROWS_AT_ONCE else None
        self._close_rows([r for r in rows if not self._journal.ends(r.id)], Mismatch.IN_FLIGHT_DRIFTED)

    def _close_rows(self, rows: Sequence[SubmissionRecord], mismatch: Mismatch) -> None:
        loose = [row for row in rows if self._inflight.get(row.id.attempt_id) is None]
        attempts = {row.id.attempt_id: row.address for row in loose if row.address}
        witnesses = self._tasks.witnesses(attempts) if attempts else {}
        for row in loose:
            if _may_be_adopted(row, witnesses):
                continue
            self._settle(row, witnesses, mismatch)
            if row.started_at is None:
                # A pod whose Secret its scheduler never made would wait for ever, and nobody would ask.
                self.withdraw(row.backend, row.id, row.cluster)

    def withdraw(self, backend: BackendName, submission: SubmissionId, *clusters: str) -> None:
        """Have a submission end for which nothing is in flight (any more)."""
        self._remember(submission)
        for cluster in clusters:
            self._backends[backend].cancel([submission], cluster)

    def _remember(self, submission: SubmissionId) -> None:
        if len(self._settled) >= SETTLED_MAX:
            self._settled.clear()
        self._settled.add(submission)

    def _settle(
        self,
        row: SubmissionRecord,
        witnesses: Mapping[str, Witness],
        mismatch: Mismatch | None,
        seen: Ended | None = None,
    ) -> None:
        """Close it with what Airflow says of it, and, where that is no success, with what its backend saw."""
        witness = witnesses.get(row.id.attempt_id)
        outcome = outcome_of(witness, row.id.attempt_id)
        diagnosis = Diagnosis(reason=Reason.SETTLED, message=state_text(witness))
        if seen and seen.diagnosis and outcome is not Outcome.SUCCEEDED:
            diagnosis = seen.diagnosis
        if mismatch:
            self._listener.mismatched(row.id, row.backend, mismatch, f"closed as {outcome}: {diagnosis}")
        resources = seen.resources if seen and seen.submission == row.id else None
        self._journal.close(row.id, outcome, diagnosis, resources)

    # --- submissions in backends -------------------------------------------------------------

    def settle_strangers(
        self, strangers: Sequence[tuple[BackendName, Observation]]
    ) -> Sequence[tuple[BackendName, Observation]]:
        """Close what ended while no scheduler answered for it, and remove pods that nobody sent.

        What Airflow will offer for adoption is let be. Returns those that have to be looked at again.
        """
        strangers = [(name, o) for name, o in strangers if isinstance(o, Ended) or self._is_news(name, o)]
        if not strangers:
            return ()
        try:
            rows = self._ledger.find({o.submission.attempt_id for _, o in strangers})
            attempts = {attempt: row.address for attempt, row in rows.items() if row.address}
            witnesses = self._tasks.witnesses(attempts)
        except Unavailable as error:
            log.warning("%d submissions of nobody here wait: %s", len(strangers), error)
            return strangers
        for name, observation in strangers:
            row = rows.get(observation.submission.attempt_id)
            if row and _may_be_adopted(row, witnesses):
                continue
            if isinstance(observation, Ended):
                self._settle_end(name, observation, row, witnesses)
            elif row and (row.ended_at is None or _runs_the_task(row, observation.submission, witnesses)):
                continue
            elif self._is_news(name, observation):
                self._withdraw_stranger(observation.submission, row)
        return ()

    def _is_news(self, name: BackendName, observation: Observation) -> bool:
        """Whether it is a pod that lives, and not because its deletion takes its time."""
        return name is BackendName.KUBERNETES and observation.submission not in self._settled

    def _settle_end(
        self,
        name: BackendName,
        end: Ended,
        row: SubmissionRecord | None,
        witnesses: Mapping[str, Witness],
    ) -> None:
        if row and row.ended_at is None:
            is_orphan = row.scheduler_job not in self._live
            self._settle(row, witnesses, Mismatch.ROW_WITHOUT_SCHEDULER if is_orphan else None, end)
        elif row is None and name is BackendName.KUBERNETES and end.submission not in self._settled:
            words = "it has ended, and the ledger does not know it"
            self._listener.mismatched(end.submission, name, Mismatch.POD_WITHOUT_ATTEMPT, words)
            self._remember(end.submission)
        self._journal.let_go(name, end.submission)

    def _withdraw_stranger(self, submission: SubmissionId, row: SubmissionRecord | None) -> None:
        words = f"it lives, and was closed as {row.outcome}" if row else "it lives, and the ledger has no row"
        name = BackendName.KUBERNETES
        self._listener.mismatched(submission, name, Mismatch.POD_WITHOUT_ATTEMPT, words)
        # Without a row nobody knows in which cluster it is.
        self.withdraw(name, submission, *([row.cluster] if row else self._backends[name].troubles))


def _runs_the_task(row: SubmissionRecord, submission: SubmissionId, witnesses: Mapping[str, Witness]) -> bool:
    """Whether Airflow let this very pod start the task, whatever has become of its attempt."""
    witness = witnesses.get(row.id.attempt_id)
    return bool(
        witness
        and witness.state == RUNNING
        and witness.host
        and is_pod_of(witness.host, row.address, submission)
    )


def _may_be_adopted(row: SubmissionRecord, witnesses: Mapping[str, Witness]) -> bool:
    witness = witnesses.get(row.id.attempt_id)
    return gone_on(witness, row.id.attempt_id) is None
