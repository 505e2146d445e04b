"""``hybrid_executor.results`` with the live half on: woken by Redis, answered by the database."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, create_engine

from hybrid_executor import contract, results
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.ledger.live import bell
from hybrid_executor.ledger.tables import metadata
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.contract.ledger_suite import a_record
from tests.contract.test_ledger import counted
from tests.fixtures.live import PREFIX, LiveRig, until
from tests.integration.test_ledger_live import LATER, ended, started, states

#: What a test takes for "at once": far less than the pauses that it sets.
AT_ONCE_S = 15.0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not woken looks again when the test is over."""
    monkeypatch.setattr(results, "LOOK_WOKEN_S", 60.0)
    monkeypatch.setattr(bell, "_alone_until_s", {})


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    engine = create_engine(database_url)
    metadata.create_all(engine)
    monkeypatch.setattr(contract, "metadata_engine", lambda: engine)
    yield engine
    engine.dispose()


def rig_on(url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> LiveRig:
    monkeypatch.setenv("AIRFLOW__HYBRID_EXECUTOR__LIVE_URL", url)
    monkeypatch.setenv("AIRFLOW__HYBRID_EXECUTOR__LIVE_PREFIX", PREFIX)
    rig: Any = LiveRig(url, ledger=DatabaseLedger(engine))  # type: ignore[arg-type]
    rig.writer.start()
    return rig


@pytest.fixture
def rig(valkey_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveRig]:
    rig = rig_on(valkey_url, engine, monkeypatch)
    yield rig
    rig.stop()


class Waiter:
    """Someone who waits in a thread, and when it was over."""

    def __init__(self, what: results.What) -> None:
        self.found: SubmissionRecord | None = None
        self.over_s = 0.0
        self.thread = threading.Thread(target=self._wait, args=(what,), daemon=True)
        self.thread.start()

    def _wait(self, what: results.What) -> None:
        self.found = results.wait(what, deadline_s=120)
        self.over_s = time.monotonic()


def listeners(url: str) -> int:
    """How many connections wait for the stream."""
    with redis.Redis.from_url(url) as client:
        return sum(one["cmd"] == "xread" for one in client.client_list())


def task_of(record: SubmissionRecord) -> results.Task:
    a = record.address
    assert a
    return results.Task(a.dag_id, a.run_id, a.task_id, a.map_index)


@pytest.mark.parametrize("by_task", [False, True], ids=["attempt", "task"])
def test_who_waits_is_woken_by_the_end_and_told_what_the_database_says(rig: LiveRig, by_task: bool) -> None:
    record = a_record()
    rig.do(record)
    waiter = Waiter(task_of(record) if by_task else record.id.attempt_id)
    until(lambda: listeners(rig.url))
    rig.do(changes=[started(record)])
    rig.do(changes=[ended(record)])
    done_s = time.monotonic()
    waiter.thread.join(30)
    assert waiter.over_s - done_s < AT_ONCE_S
    assert waiter.found == rig.ledger.find([record.id.attempt_id])[record.id.attempt_id]


def test_who_waits_for_a_task_that_is_not_queued_yet_is_woken_by_it(rig: LiveRig) -> None:
    record = a_record()
    waiter = Waiter(task_of(record))
    until(lambda: listeners(rig.url))
    rig.do(record)
    rig.do(changes=[ended(record)])
    waiter.thread.join(30)
    assert waiter.found


def test_who_waits_asks_the_database_when_something_happened_and_not_before(
    rig: LiveRig, engine: Engine
) -> None:
    record, other = a_record(), a_record(address=None)
    rig.writer._interval_s = 3600
    until(lambda: rig.writer._check_at_s > time.monotonic() + 60)
    rig.do(record, other)
    # Else it is woken by what became of them before it waited.
    until(lambda: rig.agrees(record, other))
    waiter = Waiter(record.id.attempt_id)
    until(lambda: listeners(rig.url))
    with counted(engine) as asked:
        rig.writer.tell([], [started(other)])
        until(lambda: (found := rig.found(other)) and found.started_at)
        time.sleep(1.5)
    assert [sql for sql in asked if "WHERE hybrid_submission.attempt_id" in sql] == []
    rig.do(changes=[ended(record)])
    waiter.thread.join(30)
    assert waiter.found


def test_a_stream_is_told_as_it_happens_and_ends_with_the_end(rig: LiveRig) -> None:
    first = a_record()
    second = replace(first, id=SubmissionId(first.id.attempt_id, 2))
    rig.do(first)
    until(lambda: rig.found(first))
    steps: list[dict[str, Any]] = [
        {"changes": [ended(first, Outcome.REPLACED)], "new": [second]},
        {"changes": [Change(id=second.id, submitted_at=LATER, external_name="x")]},
        {"changes": [started(second)]},
        {"changes": [ended(second)]},
    ]
    begin, heard = time.monotonic(), []
    for moment in results.stream(first.id.attempt_id, deadline_s=100):
        heard.append(str(moment.event))
        if steps:
            step = steps.pop(0)
            rig.do(changes=step["changes"])
            rig.do(*step.get("new", []))
    assert heard[0] == "queued"
    assert heard[-1] == "ended"
    assert heard.count("started") == 1
    assert time.monotonic() - begin < 3 * AT_ONCE_S


def test_a_bell_that_rings_for_nothing_is_no_answer(rig: LiveRig) -> None:
    """An old snapshot, or anybody who writes into the stream: the database has the last word."""
    record = a_record()
    rig.do(record)
    until(lambda: rig.found(record))
    waiter = Waiter(record.id.attempt_id)
    until(lambda: listeners(rig.url))
    rig.writer.tell([], [ended(record)])
    with redis.Redis.from_url(rig.url, decode_responses=True) as client:
        until(lambda: "succeeded" in states(client, rig, record))
    waiter.thread.join(1.0)
    assert waiter.thread.is_alive()
    # What has ended there already is told of no more.
    until(lambda: rig.agrees(record))
    rig.do(changes=[ended(record, Outcome.FAILED)])
    waiter.thread.join(30)
    assert waiter.found is not None
    assert waiter.found.outcome is Outcome.FAILED


@pytest.mark.parametrize("how", ["killed", "hangs"])
def test_a_server_that_goes_away_costs_a_moment_and_no_answer(
    own_valkey: ValkeyServer, engine: Engine, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    rig = rig_on(own_valkey.url, engine, monkeypatch)
    record = a_record()
    rig.do(record)
    waiter = Waiter(record.id.attempt_id)
    until(lambda: listeners(rig.url))
    pid = own_valkey.process.pid
    assert pid
    try:
        if how == "killed":
            own_valkey.kill()
        else:
            os.kill(pid, signal.SIGSTOP)
        rig.do(changes=[ended(record)])
        waiter.thread.join(30)
        assert waiter.found
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            results.wait(a_record().id.attempt_id, deadline_s=0.5)
        assert time.monotonic() - begin < AT_ONCE_S
    finally:
        if how == "hangs":
            os.kill(pid, signal.SIGCONT)
        rig.stop()


def test_without_a_live_half_the_database_alone_is_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__HYBRID_EXECUTOR__LIVE_URL", "off")
    record, ledger = a_record(), DatabaseLedger(engine)
    ledger.record([record], [])
    waiter = Waiter(record.id.attempt_id)
    ledger.record([], [ended(record)])
    waiter.thread.join(30)
    assert waiter.found
