"""What every ``ports.Ledger`` keeps, whatever stands behind it.

``test_ledger.py`` runs this suite over each implementation, by way of a
``Harness`` that knows how to open a transaction of the caller's.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Protocol
from uuid import uuid4

import pytest

from hybrid_executor.model.attempt import BackendName, SubmissionId, TaskAddress, WorkloadKind
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Change, Outcome, Stage, SubmissionRecord
from hybrid_executor.ports import Ledger

START = datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=UTC)


class Transaction(Protocol):
    def commit(self) -> None: ...
    def rollback(self) -> None: ...


@dataclass(frozen=True)
class Harness:
    """One ledger under test, and a way into a transaction of its caller."""

    ledger: Ledger

    def transaction(self) -> AbstractContextManager[tuple[Any, Transaction]]:
        """Yield the connection to pass to ``insert``, and what commits or rolls it back."""
        raise NotImplementedError


def a_record(**values: Any) -> SubmissionRecord:
    """A row as the executor first writes it; ``attempt`` and ``number`` make up its id."""
    attempt = values.pop("attempt", None) or str(uuid4())
    number = values.pop("number", 1)
    record = SubmissionRecord(
        id=SubmissionId(attempt, number),
        kind=WorkloadKind.TASK,
        workload_id=str(uuid4()),
        address=TaskAddress(dag_id="etl", task_id="load", run_id="manual__2026", map_index=3, try_number=2),
        queue="kubernetes",
        backend=BackendName.KUBERNETES,
        rule="routes.yaml rule 2: queue kubernetes",
        scheduler_job="17",
        queued_at=START,
    )
    return replace(record, **values)


def a_full_record(**values: Any) -> SubmissionRecord:
    """A row with every column set."""
    later = [START + timedelta(seconds=second) for second in (1, 2, 3)]
    return a_record(
        **{
            "pod_template_file": "/opt/templates/gpu.yaml",
            "submitted_at": later[0],
            "started_at": later[1],
            "ended_at": later[2],
            "external_name": "airflow/etl-load-abc-1",
            "where": "etl-load-abc-1 on node-7",
            "waits_for": Reason.QUOTA,
            "waits_message": "exceeded quota: pods",
            "waits_since": later[0],
            "worker_leaves_at": later[1],
            "outcome": Outcome.FAILED,
            "reason": Reason.OOM_KILLED,
            "message": "container base: OOMKilled, limit 512Mi ✗",
            "exit_code": 137,
            "retry_on": frozenset({Reason.OOM_KILLED, Reason.EVICTED}),
            "retry_limit": 3,
            "cpu_request_m": 500,
            "memory_request_bytes": 256 << 20,
            "memory_limit_bytes": 3 << 40,
            "cpu_peak_m": 1250,
            "cpu_used_s": 86_400.125,
            "memory_peak_bytes": 3 << 40,
            "cluster": "eu-west",
        }
        | values
    )


class LedgerSuite:
    """Inherit, and give a ``harness`` fixture."""

    @pytest.fixture
    def ledger(self, harness: Harness) -> Iterator[Ledger]:
        return harness.ledger

    # --- record and find ---------------------------------------------------------

    def test_a_record_comes_back_as_it_was_written(self, ledger: Ledger) -> None:
        bare, full = a_record(), a_full_record()
        ledger.record([bare, full], [])
        assert ledger.find([bare.id.attempt_id, full.id.attempt_id]) == {
            bare.id.attempt_id: bare,
            full.id.attempt_id: full,
        }

    def test_a_callback_has_no_task_address(self, ledger: Ledger) -> None:
        callback = a_record(kind=WorkloadKind.CALLBACK, address=None)
        ledger.record([callback], [])
        assert ledger.find([callback.id.attempt_id])[callback.id.attempt_id] == callback

    def test_times_come_back_in_utc_to_the_microsecond(self, ledger: Ledger) -> None:
        elsewhere = START.astimezone(timezone(timedelta(hours=5, minutes=30)))
        record = a_record(queued_at=elsewhere)
        ledger.record([record], [])
        found = ledger.find([record.id.attempt_id])[record.id.attempt_id]
        assert found.queued_at == START
        assert found.queued_at.utcoffset() == timedelta(0) or found.queued_at is elsewhere

    def test_unknown_attempts_are_left_out(self, ledger: Ledger) -> None:
        assert ledger.find([str(uuid4()), "not-a-uuid", ""]) == {}
        assert ledger.find([]) == {}

    def test_the_newest_submission_of_an_attempt_is_found(self, ledger: Ledger) -> None:
        rows = [a_record(attempt="a" * 36, number=number) for number in (10, 2, 9)]
        ledger.record(rows, [])
        assert ledger.find(["a" * 36])["a" * 36].id.number == 10

    def test_more_attempts_than_one_statement_takes_are_found(self, ledger: Ledger) -> None:
        rows = [a_record() for _ in range(2_345)]
        ledger.record(rows, [])
        assert len(ledger.find([row.id.attempt_id for row in rows])) == 2_345

    def test_a_new_row_that_is_there_already_is_left_as_it_is(self, ledger: Ledger) -> None:
        record = a_record()
        ledger.record([record], [])
        ledger.record([replace(record, queue="other"), other := a_record()], [])
        found = ledger.find([record.id.attempt_id, other.id.attempt_id])
        assert found == {record.id.attempt_id: record, other.id.attempt_id: other}

    def test_a_row_that_comes_twice_in_a_batch_is_written_once_and_the_first_counts(
        self, ledger: Ledger
    ) -> None:
        record = a_record()
        ledger.record([record, replace(record, queue="other")], [])
        assert ledger.find([record.id.attempt_id])[record.id.attempt_id] == record

    # --- tries that cost no retry -------------------------------------------------

    def test_restarts_in_a_row_are_counted_and_another_end_begins_anew(self, ledger: Ledger) -> None:
        address = a_record().address
        assert address
        ends = {1: Outcome.RESTARTED, 2: Outcome.FAILED, 3: Outcome.RESTARTED, 4: Outcome.RESTARTED}
        rows = [
            a_record(address=replace(address, try_number=number), outcome=outcome, ended_at=START)
            for number, outcome in ends.items()
        ]
        ledger.record(rows, [])
        expected = {1: 0, 2: 1, 3: 0, 4: 1, 5: 2, 6: 0}
        asked = {number: replace(address, try_number=number) for number in expected}
        found = ledger.restarts(asked.values())
        assert {number: found[asked[number]] for number in expected} == expected

    def test_restarts_of_another_task_or_map_index_are_not_counted(self, ledger: Ledger) -> None:
        address = a_record().address
        assert address
        others = [
            replace(address, **{name: value}, try_number=1)
            for name, value in (("dag_id", "x"), ("run_id", "x"), ("task_id", "x"), ("map_index", 4))
        ]
        ledger.record([a_record(address=o, outcome=Outcome.RESTARTED, ended_at=START) for o in others], [])
        assert ledger.restarts([address]) == {address: 0}
        assert ledger.restarts([]) == {}

    # --- changes -----------------------------------------------------------------

    def test_a_change_sets_what_it_names_and_leaves_the_rest(self, ledger: Ledger) -> None:
        record = a_record(waits_for=Reason.HELD, external_name="x")
        ledger.record([record], [])
        ledger.record([], [Change(id=record.id, submitted_at=START, scheduler_job="18")])
        expected = replace(record, submitted_at=START, scheduler_job="18")
        assert ledger.find([record.id.attempt_id])[record.id.attempt_id] == expected

    def test_a_change_can_set_every_column_that_it_has(self, ledger: Ledger) -> None:
        full = a_full_record()
        bare = a_record(attempt=full.id.attempt_id, workload_id=full.workload_id)
        of_route = ("pod_template_file", "retry_on", "retry_limit", "cluster")
        kept = {name: getattr(full, name) for name in of_route}
        bare = replace(bare, **kept)
        names = [field.name for field in fields(Change)]
        change = Change(**{name: getattr(full, name) for name in names})
        ledger.record([bare], [change])
        assert ledger.find([full.id.attempt_id])[full.id.attempt_id] == full

    def test_an_exit_code_of_zero_is_a_value(self, ledger: Ledger) -> None:
        record = a_record(exit_code=1)
        ledger.record([record], [Change(id=record.id, exit_code=0)])
        assert ledger.find([record.id.attempt_id])[record.id.attempt_id].exit_code == 0

    def test_the_first_terminal_result_wins(self, ledger: Ledger) -> None:
        record = a_record()
        ledger.record([record], [Change(id=record.id, ended_at=START, outcome=Outcome.SUCCEEDED)])
        late = Change(id=record.id, ended_at=START + timedelta(1), outcome=Outcome.FAILED, exit_code=1)
        ledger.record([], [late])
        found = ledger.find([record.id.attempt_id])[record.id.attempt_id]
        assert found == replace(record, ended_at=START, outcome=Outcome.SUCCEEDED)

    def test_the_first_terminal_result_wins_within_a_batch(self, ledger: Ledger) -> None:
        record = a_record()
        first = Change(id=record.id, ended_at=START, outcome=Outcome.SUCCEEDED)
        late = Change(id=record.id, ended_at=START + timedelta(1), outcome=Outcome.FAILED, exit_code=1)
        ledger.record([record], [first, late])
        found = ledger.find([record.id.attempt_id])[record.id.attempt_id]
        assert found == replace(record, ended_at=START, outcome=Outcome.SUCCEEDED)

    def test_of_several_changes_to_a_row_the_later_values_win(self, ledger: Ledger) -> None:
        record = a_record()
        changes = [
            Change(id=record.id, waits_for=Reason.HELD, external_name="first"),
            Change(id=record.id, waits_for=Reason.IN_QUEUE, where="worker-1"),
        ]
        ledger.record([record], changes)
        found = ledger.find([record.id.attempt_id])[record.id.attempt_id]
        assert found == replace(record, waits_for=Reason.IN_QUEUE, external_name="first", where="worker-1")

    def test_a_change_to_a_row_that_is_not_there_does_nothing(self, ledger: Ledger) -> None:
        known = a_record()
        missing = SubmissionId(known.id.attempt_id, 2)
        ledger.record([known], [Change(id=missing, exit_code=1), Change(id=known.id, exit_code=2)])
        assert ledger.find([known.id.attempt_id]) == {known.id.attempt_id: replace(known, exit_code=2)}

    def test_more_changes_than_one_statement_takes_are_all_made(self, ledger: Ledger) -> None:
        rows = [a_record() for _ in range(2_100)]
        ledger.record(rows, [Change(id=row.id, exit_code=index) for index, row in enumerate(rows)])
        found = ledger.find([row.id.attempt_id for row in rows])
        assert [found[row.id.attempt_id].exit_code for row in rows] == list(range(2_100))

    # --- open_elsewhere ----------------------------------------------------------

    def test_open_rows_of_schedulers_that_are_gone_come_oldest_first(self, ledger: Ledger) -> None:
        def queued(minute: int, **values: Any) -> SubmissionRecord:
            return a_record(queued_at=START + timedelta(minutes=minute), **values)

        # Their ids are random: so many are in no other order by chance.
        oldest_first = [queued(minute, scheduler_job="dead") for minute in range(1, 13)]
        mine = queued(0, scheduler_job="17")
        ended = queued(0, scheduler_job="dead", ended_at=START, outcome=Outcome.SUCCEEDED)
        ledger.record([*reversed(oldest_first), mine, ended], [])
        assert ledger.open_elsewhere(["17", "19"], 20) == oldest_first
        assert ledger.open_elsewhere(frozenset({"17"}), 2) == oldest_first[:2]

    def test_without_a_live_scheduler_every_open_row_is_elsewhere(self, ledger: Ledger) -> None:
        record = a_record()
        ledger.record([record], [])
        assert ledger.open_elsewhere([], 10) == [record]

    def test_a_schedulers_own_open_rows_come_in_pages_oldest_first(self, ledger: Ledger) -> None:
        # Two of each minute: the key decides between rows of one time.
        times = [START + timedelta(minutes=minute // 2) for minute in range(10)]
        mine = [a_record(queued_at=time) for time in times]
        mine.append(a_record(attempt=mine[-1].id.attempt_id, number=2, queued_at=times[-1]))
        ended = a_record(ended_at=START, outcome=Outcome.SUCCEEDED)
        ledger.record([*reversed(mine), ended, a_record(scheduler_job="19")], [])
        pages = [ledger.open_of("17", None, 4)]
        while page := ledger.open_of("17", pages[-1][-1], 4):
            pages.append(page)
        assert [len(page) for page in pages] == [4, 4, 3]
        assert [row for page in pages for row in page] == sorted(
            mine, key=lambda row: (row.queued_at, row.id)
        )

    # --- stages_of -----------------------------------------------------------------

    def test_what_is_open_with_one_scheduler_is_counted_up_by_its_newest_submission(
        self, ledger: Ledger
    ) -> None:
        queued, running = a_record(), a_record(started_at=START)
        first = a_record(ended_at=START, outcome=Outcome.REPLACED)
        second = replace(first, id=SubmissionId(first.id.attempt_id, 2), ended_at=None, outcome=None)
        second = replace(second, submitted_at=START)
        over = a_full_record()
        ledger.record([queued, running, first, second, over, a_record(scheduler_job="18")], [])
        assert ledger.stages_of("17") == {
            queued.id.attempt_id: (1, Stage.QUEUED),
            running.id.attempt_id: (1, Stage.RUNNING),
            second.id.attempt_id: (2, Stage.SUBMITTED),
        }
        assert ledger.stages_of("nobody") == {}

    # --- celery_loads ----------------------------------------------------------------

    def test_celery_work_is_counted_by_queue_and_worker_without_what_leaves(self, ledger: Ledger) -> None:
        celery, queue = BackendName.CELERY, "light"
        there = {"backend": celery, "queue": queue, "started_at": START, "where": "celery@light-1"}
        ledger.record(
            [
                a_record(backend=celery, queue=queue),
                *(a_record(**there) for _ in range(2)),
                a_record(**there, worker_leaves_at=START),
                a_record(**there, ended_at=START, outcome=Outcome.SUCCEEDED),
                a_record(backend=BackendName.KUBERNETES, queue=queue),
                a_record(backend=celery, queue="heavy"),
            ],
            [],
        )
        expected = {("light", None, 1), ("light", "celery@light-1", 2), ("heavy", None, 1)}
        assert set(ledger.celery_loads()) == expected

    # --- insert ------------------------------------------------------------------

    def test_an_inserted_row_is_there_after_the_commit(self, harness: Harness) -> None:
        record, other = a_record(), a_full_record()
        with harness.transaction() as (connection, transaction):
            harness.ledger.insert(connection, [record, other])
            harness.ledger.insert(connection, [])
            transaction.commit()
        assert harness.ledger.find([record.id.attempt_id])[record.id.attempt_id] == record
        assert harness.ledger.find([other.id.attempt_id])[other.id.attempt_id] == other

    def test_a_rolled_back_transaction_leaves_no_row(self, harness: Harness) -> None:
        record = a_record()
        with harness.transaction() as (connection, transaction):
            harness.ledger.insert(connection, [record])
            transaction.rollback()
        assert harness.ledger.find([record.id.attempt_id]) == {}

    def test_an_insert_that_fails_leaves_the_callers_transaction_whole(self, harness: Harness) -> None:
        taken, first, batch_mate = a_record(), a_record(), a_record()
        harness.ledger.record([taken], [])
        with harness.transaction() as (connection, transaction):
            harness.ledger.insert(connection, [first])
            with pytest.raises(LedgerUnavailable):
                harness.ledger.insert(connection, [batch_mate, replace(taken, queue="other")])
            transaction.commit()
        ids = [record.id.attempt_id for record in (taken, first, batch_mate)]
        assert harness.ledger.find(ids) == {ids[0]: taken, ids[1]: first}
