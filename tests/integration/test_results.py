"""``hybrid_executor.results``: any process learns what became of an attempt, from either backend."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine, create_engine, text

from hybrid_executor import contract, results
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.ledger.tables import metadata
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord
from tests.contract.ledger_suite import START, a_full_record, a_record

LATER = START + timedelta(seconds=9)


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    engine = create_engine(database_url)
    metadata.create_all(engine)
    monkeypatch.setattr(contract, "metadata_engine", lambda: engine)
    monkeypatch.setenv("AIRFLOW__HYBRID_EXECUTOR__LIVE_URL", "off")
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine: Engine) -> DatabaseLedger:
    return DatabaseLedger(engine)


def task_of(record: SubmissionRecord, try_number: int | None = None) -> results.Task:
    assert record.address
    a = record.address
    return results.Task(a.dag_id, a.run_id, a.task_id, a.map_index, try_number)


def test_an_attempt_is_found_by_its_id_and_by_its_task_long_after_its_end(ledger: DatabaseLedger) -> None:
    ended = a_full_record()
    ledger.record([ended], [])
    assert results.get(ended.id.attempt_id) == ended
    assert results.get(task_of(ended)) == ended
    assert results.wait(task_of(ended), deadline_s=0) == ended
    assert results.get("nobody") is None


def test_the_newest_try_counts_unless_another_is_named(ledger: DatabaseLedger) -> None:
    first = a_full_record()
    assert first.address
    second = a_record(address=replace(first.address, try_number=3), queued_at=LATER)
    ledger.record([first, second], [])
    assert results.get(task_of(first)) == second
    assert results.get(task_of(first, try_number=2)) == first


def test_a_wait_lasts_until_the_last_submission_has_ended(ledger: DatabaseLedger) -> None:
    first = a_record()
    second = replace(first, id=SubmissionId(first.id.attempt_id, 2))

    ledger.record([first], [])
    ledger.record([], [Change(id=first.id, ended_at=LATER, outcome=Outcome.REPLACED)])

    def life() -> None:
        ledger.record([second], [])
        ledger.record([], [Change(id=second.id, started_at=LATER, where="celery@w")])
        ledger.record([], [Change(id=second.id, ended_at=LATER, outcome=Outcome.SUCCEEDED)])

    thread = threading.Timer(0.3, life)
    thread.start()
    ended = results.wait(first.id.attempt_id, deadline_s=60)
    thread.join()
    assert (ended.id.number, ended.outcome) == (2, Outcome.SUCCEEDED)
    moments = [moment.event for moment in results.stream(first.id.attempt_id, deadline_s=60)]
    assert moments == ["queued", "ended", "queued", "started", "ended"]


def test_a_stream_tells_each_thing_once_and_as_it_comes(ledger: DatabaseLedger) -> None:
    record = a_record()
    ledger.record([record], [])
    steps = iter(
        [
            Change(id=record.id, submitted_at=LATER, external_name="ns/pod"),
            Change(id=record.id, started_at=LATER, where="pod on node"),
            Change(id=record.id, ended_at=LATER, outcome=Outcome.FAILED, reason=Reason.OOM_KILLED),
        ]
    )
    heard = []
    for moment in results.stream(task_of(record), deadline_s=60):
        heard.append(moment.event)
        if change := next(steps, None):
            ledger.record([], [change])
    assert heard == ["queued", "submitted", "started", "ended"]


def test_a_deadline_says_how_it_stood(ledger: DatabaseLedger) -> None:
    waiting = a_record(waits_for=Reason.QUOTA, waits_message="pods, used 10 of 10")
    ledger.record([waiting], [])
    with pytest.raises(TimeoutError, match="it is queued, QuotaExceeded: pods, used 10 of 10"):
        results.wait(waiting.id.attempt_id, deadline_s=0.1)
    with pytest.raises(TimeoutError, match="the ledger knows nothing of it"):
        results.wait("nobody", deadline_s=0)


def test_a_database_that_is_away_for_a_while_is_waited_for(engine: Engine, ledger: DatabaseLedger) -> None:
    ended = a_full_record()
    ledger.record([ended], [])
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE hybrid_submission RENAME TO elsewhere"))

    def back() -> None:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO hybrid_submission"))

    thread = threading.Timer(0.5, back)
    thread.start()
    assert results.wait(ended.id.attempt_id, deadline_s=60) == ended
    thread.join()
