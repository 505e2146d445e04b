"""What is due to be written to the ledger, in one transaction, and what may go once it is written.

It keeps everything until the ledger has taken it, in the order in which it
happened, and releases an end in its backend only after that: until then the
pod stays as its witness. The live half is told what is durable, and never
before. ``controller`` and ``reconcile`` write into it; only ``controller`` has
it written.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from hybrid_executor.inflight import Flight
from hybrid_executor.model.attempt import BackendName, SubmissionId
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.observation import Diagnosis
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord
from hybrid_executor.model.resources import Resources
from hybrid_executor.ports import Backend, Clock, Ledger, Live

log = logging.getLogger("hybrid_executor")


class Journal:
    """Changes of one scheduler that its ledger does not have yet."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        backends: Mapping[BackendName, Backend],
        clock: Clock,
        owner: str,
        live: Live | None = None,
    ) -> None:
        self._ledger = ledger
        self._backends = backends
        self._clock = clock
        self._owner = owner
        self._live = live
        #: Durable already, and not told to the live half.
        self._opened: list[SubmissionRecord] = []
        self._changes: list[Change] = []
        self._released: dict[BackendName, list[SubmissionId]] = {}
        self._away_since_s: float | None = None

    def lag_s(self) -> float:
        """For how long the ledger could not be written."""
        return 0.0 if self._away_since_s is None else self._clock.monotonic_s() - self._away_since_s

    def change(self, change: Change) -> None:
        """Note new values of a row."""
        self._changes.append(change)

    def end(self, flight: Flight, outcome: Outcome, diagnosis: Diagnosis | None) -> None:
        """Note the end of a flight's current submission; its witness may go once that is written."""
        if flight.recorded:
            self.close(flight.id, outcome, diagnosis, flight.resources)
        self.let_go(flight.backend, flight.id)

    def close(
        self,
        submission: SubmissionId,
        outcome: Outcome,
        diagnosis: Diagnosis | None,
        resources: Resources | None,
    ) -> None:
        """Note the end of a row, whether a flight belongs to it or not."""
        self.change(
            Change(
                id=submission,
                ended_at=self._clock.now(),
                outcome=outcome,
                reason=diagnosis.reason if diagnosis else None,
                message=diagnosis.message if diagnosis else None,
                exit_code=diagnosis.exit_code if diagnosis else None,
                **(asdict(resources) if resources else {}),
            )
        )

    def ends(self, submission: SubmissionId) -> bool:
        """Whether the end of a submission is noted and not written yet."""
        return any(change.id == submission and change.ended_at for change in self._changes)

    def opened(self, flight: Flight) -> None:
        """Note a flight whose row the scheduler's own transaction has committed."""
        if self._live and flight.recorded:
            self._opened.append(self.row_of(flight))

    def let_go(self, backend: BackendName, submission: SubmissionId) -> None:
        """Release a submission in its backend as soon as everything noted so far is written."""
        self._released.setdefault(backend, []).append(submission)

    def write(self, unrecorded: Sequence[Flight] = ()) -> bool:
        """Write rows of new submissions and all changes; say whether they are durable.

        One transaction, and none where nothing is due.
        """
        if not (unrecorded or self._changes or self._released or self._opened):
            return True
        rows = [self.row_of(flight) for flight in unrecorded]
        try:
            self._ledger.record(rows, self._changes)
        except LedgerUnavailable as error:
            if self._away_since_s is None:
                log.warning("the ledger can't be written; nothing unrecorded is sent: %s", error)
                self._away_since_s = self._clock.monotonic_s()
            return False
        if self._away_since_s is not None:
            log.info("the ledger is written again")
        self._away_since_s = None
        for flight in unrecorded:
            flight.recorded = True
        if self._live and (rows or self._changes or self._opened):
            self._live.tell([*self._opened, *rows], self._changes)
        self._opened = []
        released, self._released, self._changes = self._released, {}, []
        for name, ids in released.items():
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
            cluster=attempt.route.cluster,
            rule=attempt.route.rule,
            pod_template_file=attempt.route.pod_template_file,
            retry_on=attempt.route.retry_on,
            retry_limit=attempt.route.retry_limit,
            scheduler_job=self._owner,
            queued_at=attempt.queued_at,
        )
