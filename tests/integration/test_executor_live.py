"""The real scheduler's code with the live half on: what Redis has is what the ledger's table has."""

import logging
import threading

import pytest
import redis

from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.ledger.live.reader import LiveReader
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.record import SubmissionRecord
from hybrid_executor.settings import load_live
from tests.fixtures.airflow_side import SchedulerSide
from tests.fixtures.live import until
from tests.fixtures.scheduler import SchedulerOverMemory


@pytest.fixture
def scheduler(
    scheduler_side: SchedulerSide, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> SchedulerOverMemory:
    monkeypatch.setenv("AIRFLOW__HYBRID_EXECUTOR__LIVE_URL", valkey_url)
    monkeypatch.setenv("AIRFLOW__HYBRID_EXECUTOR__RECONCILE_INTERVAL_S", "1")
    return SchedulerOverMemory(scheduler_side)


@pytest.fixture
def reader(scheduler: SchedulerOverMemory):
    config = load_live()
    assert config is not None
    reader = LiveReader(config)
    yield reader
    reader.close()


def rows(scheduler: SchedulerOverMemory) -> list[SubmissionRecord]:
    """What the table has, as records."""
    from hybrid_executor import contract

    ids = [row["attempt_id"] for row in scheduler.ledger_rows()]
    return list(DatabaseLedger(contract.metadata_engine()).find(ids).values())


def agree(scheduler: SchedulerOverMemory, reader: LiveReader) -> bool:
    """Both halves have the same of what is open, in the same sets."""
    open_rows = [row for row in rows(scheduler) if row.ended_at is None]
    standing = reader.standing([scheduler.executor._owner])
    return sum(standing.inflight.values()) == len(open_rows) and all(
        reader.record(row.id.attempt_id) == row
        and row.id.attempt_id in reader.inflight(row.backend, row.queue)
        for row in open_rows
    )


def test_both_halves_agree_from_the_first_queue_to_the_last_end(
    scheduler: SchedulerOverMemory, reader: LiveReader
) -> None:
    scheduler.side.serialize(celery=3, kubernetes=2)
    scheduler.side.trigger()
    scheduler.loops()
    assert len(rows(scheduler)) == 5
    until(lambda: agree(scheduler, reader))
    celery = scheduler.worlds[BackendName.CELERY]
    for submission in celery.received:
        celery.start(submission)
    scheduler.loops()
    until(lambda: agree(scheduler, reader))
    running = [row for row in rows(scheduler) if row.started_at]
    assert len(running) == 3
    scheduler.executor.end()
    assert "hybrid-live" not in {thread.name for thread in threading.enumerate()}


def test_a_scheduler_that_takes_over_has_the_attempts_of_the_dead_one_and_a_flushed_server_is_filled(
    scheduler: SchedulerOverMemory, reader: LiveReader, valkey_url: str
) -> None:
    scheduler.side.serialize(celery=4)
    scheduler.side.trigger()
    scheduler.loops()
    until(lambda: agree(scheduler, reader))
    scheduler.executor._live.stop(10)
    scheduler.killed()
    scheduler.runner.adopt_or_reset_orphaned_tasks()
    scheduler.loops()
    until(lambda: {row.scheduler_job for row in rows(scheduler)} == {scheduler.executor._owner})
    until(lambda: agree(scheduler, reader))
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
    until(lambda: agree(scheduler, reader))
    scheduler.executor.end()


def test_an_executor_starts_and_works_without_the_server_and_says_so_once(
    scheduler_side: SchedulerSide, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hybrid_executor")
    monkeypatch.setenv("AIRFLOW__HYBRID_EXECUTOR__LIVE_URL", "redis://:hunter2@127.0.0.1:1/0")
    scheduler = SchedulerOverMemory(scheduler_side)
    scheduler_side.serialize(celery=2)
    scheduler_side.trigger()
    until(lambda: [line for line in caplog.messages if "live ledger: is away" in line])
    scheduler.loops()
    assert len(scheduler.received) == 2
    scheduler.executor.end()
    assert len([line for line in caplog.messages if "live ledger" in line]) == 1
    assert "hunter2" not in caplog.text


def test_a_wrong_url_is_said_at_the_start_and_stops_nothing(
    scheduler_side: SchedulerSide, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__HYBRID_EXECUTOR__LIVE_URL", "http://:hunter2@somewhere")
    scheduler = SchedulerOverMemory(scheduler_side)
    assert "[hybrid_executor] live_url" in caplog.text
    assert "must begin with one of redis://" in caplog.text
    assert "hunter2" not in caplog.text
    scheduler_side.serialize(celery=1)
    scheduler_side.trigger()
    scheduler.loops()
    assert len(scheduler.received) == 1
