"""The seams: what the controller asks of a backend, a ledger, a clock and Airflow.

Backends live in ``hybrid_executor.backends`` and ledgers in
``hybrid_executor.ledger``; each passes the contract suite of its Protocol in
``tests/contract``. ``Tasks`` and ``Listener`` are Airflow's side, in
``hybrid_executor.contract`` and ``hybrid_executor.executor``. Speed work
changes the inside of a backend, never this.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from hybrid_executor.lifecycle import Witness
from hybrid_executor.model.attempt import Attempt, BackendName, Submission, SubmissionId, TaskAddress
from hybrid_executor.model.mismatch import Mismatch
from hybrid_executor.model.observation import Diagnosis, Observation
from hybrid_executor.model.record import Change, Stage, SubmissionRecord
from hybrid_executor.model.transition import Transition
from hybrid_executor.model.worker import WorkerPod


class Clock(Protocol):
    """Two clocks: one for people, one for durations."""

    def now(self) -> datetime:
        """The time, aware, in UTC."""

    def monotonic_s(self) -> float:
        """Seconds that never go back."""


class Backend(Protocol):
    """Runs submissions. Every method but ``start``, ``stop`` and ``log`` returns at once.

    All answers arrive through ``poll``, in the order in which they were seen.
    No method raises for what the outside world does: that becomes an
    observation. Handing the same submission over twice is harmless.

    A backend may have several clusters; "" is the one of its own settings, and
    the only one of most. Each answers, waits and is away by itself.
    """

    name: BackendName

    @property
    def troubles(self) -> Mapping[str, str | None]:
        """By cluster: why nothing of it answers now, as far as was noticed; None while it does.

        Names every cluster that it has. Costs nothing to ask. One lost request is no trouble.
        """

    def start(self) -> None:
        """Open what is needed. Returns although the other side is away; then attempts wait."""

    def stop(self, deadline_s: float) -> None:
        """Close everything within the deadline. What was handed over goes on running."""

    def submit(self, batch: Sequence[Submission]) -> None:
        """Take the batch, most urgent first; answers: Accepted, Waiting or Rejected for each."""

    def poll(self) -> list[Observation]:
        """Drain what has arrived; does no I/O."""

    def cancel(self, ids: Collection[SubmissionId], cluster: str = "") -> None:
        """Withdraw submissions of one cluster, running or not; answer: Ended, once it is gone."""

    def adopt(self, ids: Collection[SubmissionId], cluster: str = "") -> None:
        """Look submissions up that a former process, or this one, sent to a cluster; watch them from now on.

        Answer for each: Waiting (held by the backend), Started, Ended, or
        Ended with ``How.ABSENT`` where no trace is left. While the other side
        is away the look-up goes on by itself; nothing is answered until it is back.
        """

    def inherit(self, wanted: Mapping[SubmissionId, str], unwanted: Collection[str] = ()) -> None:
        """Take over what another executor sent; all that is known is Airflow's id of the workload.

        What runs for a workload of ``wanted`` is watched from now on as the
        submission given with it; answers are those of ``adopt``. That no trace
        of it is found ends nothing: the task's own heartbeat is then the only
        witness. What was sent for a workload of ``unwanted`` is withdrawn
        without an answer.
        """

    def sweep(self, live_owners: Collection[str]) -> None:
        """Take over what schedulers that are not among ``live_owners`` (job ids) have left.

        Ended submissions among it are answered with Ended, so that somebody
        closes and releases them; the living ones are left for adoption.
        """

    def release(self, ids: Collection[SubmissionId]) -> None:
        """The end of these is recorded: what was kept as its witness (the pod) may go."""

    def log(self, attempt_id: str, cluster: str = "") -> list[str] | None:
        """Lines of a running attempt's log, or None where the backend has none to give.

        Blocks on I/O, works on a backend that was never started (the API
        server calls it), and never raises.
        """


class Workers(Protocol):
    """The pods of Celery workers, where they are pods. No method blocks or raises."""

    @property
    def pods(self) -> Mapping[str, WorkerPod] | None:
        """Those that are there, by name; None until that is known."""

    def poll(self) -> list[WorkerPod]:
        """Those that came, changed or went since the last time, in order; does no I/O."""

    def mark(self, costs: Mapping[str, int]) -> None:
        """Have these pods cost so much: a ReplicaSet that shrinks ends the cheapest first.

        What can't be done is not done, and ``pods`` shows it.
        """


class Ledger(Protocol):
    """Knows where every submission is and how it ended. Raises ``LedgerUnavailable`` only."""

    def insert(self, connection: Any, records: Sequence[SubmissionRecord]) -> None:
        """Write rows inside the caller's open transaction, in a savepoint of their own.

        A failure rolls the savepoint back, leaves the caller's transaction
        whole and raises ``LedgerUnavailable``. One statement however many rows.
        """

    def record(self, new: Sequence[SubmissionRecord], changes: Sequence[Change]) -> None:
        """Write in one transaction of its own: new rows first, then changes.

        All or nothing. A new row that is already there is left as it is. A
        change to a row that has ended, or that is not there, does nothing.
        Does not touch the database if both are empty.
        """

    def find(self, attempt_ids: Collection[str]) -> Mapping[str, SubmissionRecord]:
        """The newest submission of each attempt that is known; one query."""

    def restarts(self, addresses: Collection[TaskAddress]) -> Mapping[TaskAddress, int]:
        """How many tries in a row, right before each address's own, ended as ``restarted``; one query."""

    def open_elsewhere(self, live_owners: Collection[str], limit: int) -> list[SubmissionRecord]:
        """Open rows whose ``scheduler_job`` is not among ``live_owners``, oldest first."""

    def open_of(self, owner: str, after: SubmissionRecord | None, limit: int) -> list[SubmissionRecord]:
        """Open rows of one scheduler, oldest first, from the one that follows ``after`` on."""

    def celery_loads(self) -> Sequence[tuple[str, str | None, int]]:
        """Queue, worker (None: not started) and how many open Celery submissions; one query.

        Without those whose worker leaves.
        """

    def stages_of(self, owner: str) -> Mapping[str, tuple[int, Stage]]:
        """Every attempt that is open with this scheduler: its newest open submission; one query."""


class Live(Protocol):
    """A copy of what is in flight, for whoever wants to know at once. Nothing waits for it."""

    def tell(self, new: Sequence[SubmissionRecord], changes: Sequence[Change]) -> None:
        """Take what has just become durable, in this order. Returns at once and never raises."""


class Tasks(Protocol):
    """Airflow's own tables. Every method may raise ``Unavailable``; all are single statements."""

    def witnesses(self, attempts: Mapping[str, TaskAddress]) -> Mapping[str, Witness]:
        """What the task instances' rows say, by attempt; one whose address has no row is left out.

        ``try_number`` is not compared. Where several rows are at one address,
        the one that carries the attempt speaks.
        """

    def not_running(self, attempts: Mapping[str, TaskAddress], owner: str) -> Mapping[str, Witness | None]:
        """What ``witnesses`` says of those that do not run as they should; None for one that has no row.

        Left out is who ``is_running_as`` himself, for the scheduler ``owner``:
        most of what is in flight, and not worth bringing from the database.
        """

    def refresh_queued(self, attempts: Collection[Attempt]) -> None:
        """Start the clock of ``task_queued_timeout`` anew for those that are still queued."""

    def live_owners(self) -> frozenset[str]:
        """Job ids of the schedulers that live."""

    def restart(self, attempt: Attempt, reason: str, after_s: float) -> bool:
        """Turn a running task instance into one that runs again in ``after_s`` seconds and costs no retry.

        In one transaction, and only if it is still running as this attempt:
        False means that it is not. ``reason`` stands as its ``retry_reason``. It
        then is RESTARTING and waits for the word that its process has failed;
        where Airflow has a row for each try, the next one waits already.
        """

    def parcel(self, attempt: Attempt) -> Any | None:
        """The workload of an adopted attempt, made anew; None if it is not to run any more."""

    def payload(self, parcel: Any, *, fresh_token: bool) -> str:
        """The workload as JSON, its token signed anew if asked. Never raises."""

    def executor_config(self, parcel: Any) -> Mapping[str, Any] | None:
        """The task's own ``executor_config``. Never raises."""


class Listener(Protocol):
    """What Airflow is told."""

    def succeeded(self, key: Hashable) -> None: ...

    def failed(self, key: Hashable, diagnosis: Diagnosis) -> None: ...

    def restarted(self, key: Hashable, address: TaskAddress, diagnosis: Diagnosis) -> None:
        """The task instance is prepared; a failure is the word that makes Airflow go on with a new try."""

    def moved(self, step: Transition, parcel: Any) -> None:
        """A submission made a step on its way, its end included, whether Airflow is told or not.

        ``parcel`` is what its payload is made from; None for one that was adopted.
        """

    def mismatched(
        self, submission: SubmissionId, backend: BackendName, mismatch: Mismatch, words: str
    ) -> None:
        """Two sources said different things of a submission, and it was repaired by the mismatch's rule."""

    def note(self, key: Hashable, event: str, text: str) -> None:
        """A line in the task instance's event log."""

    def log_line(self, parcel: Any, backend: BackendName, text: str) -> None:
        """A line in the log of the try itself, where that can be had."""
