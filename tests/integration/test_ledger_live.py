"""The ledger's live half on a real Valkey: it has what the database has, whatever happens to the server."""

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import redis

from hybrid_executor.cli import livehalf
from hybrid_executor.ledger.live import backlog, schema
from hybrid_executor.ledger.live.store import LiveStore, Survey, item_change, item_new
from hybrid_executor.model.attempt import BackendName, SubmissionId
from hybrid_executor.model.errors import LiveUnavailable
from hybrid_executor.model.record import Change, Outcome, Stage, SubmissionRecord
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.contract.ledger_suite import START, a_full_record, a_record
from tests.fixtures.live import DEADLINE_S, LiveRig, all_keys, live_config, until

LATER = START + timedelta(seconds=9)


def started(record: SubmissionRecord) -> Change:
    return Change(id=record.id, started_at=LATER, where="celery@w")


def ended(record: SubmissionRecord, outcome: Outcome = Outcome.SUCCEEDED) -> Change:
    return Change(id=record.id, ended_at=LATER, outcome=outcome)


@pytest.fixture
def client(valkey_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def own_rig(own_valkey: ValkeyServer) -> Iterator[LiveRig]:
    # Some tests wait for a timeout, and the threads of a busy machine stand still for a part of one.
    rig = LiveRig(own_valkey.url, timeout_s=6.0)
    yield rig
    rig.stop()


def rebuilds(rig: LiveRig) -> int:
    """How many times all was written anew since the last time; counted when it has been written."""
    found: int = until(lambda: rig.counted().get("live_rebuilds"))
    return found


def states(client: "redis.Redis", rig: LiveRig, record: SubmissionRecord) -> list[str]:
    """What the stream tells of an attempt, in turn."""
    entries = client.xrange(rig.keys.transitions)
    return [told["state"] for _, told in entries if told["attempt"] == record.id.attempt_id]


# --- what is written ----------------------------------------------------------------------


def test_an_attempt_is_there_with_all_that_the_ledger_knows_of_it_until_just_after_its_end(
    live_rig: LiveRig, client: "redis.Redis"
) -> None:
    record = a_full_record(
        ended_at=None, outcome=None, submitted_at=None, started_at=None, scheduler_job="17"
    )
    live_rig.writer.start()
    live_rig.do(record)
    until(lambda: live_rig.agrees(record) and states(client, live_rig, record))
    live_rig.do(changes=[Change(id=record.id, submitted_at=LATER, external_name="ns/pod")])
    until(lambda: live_rig.agrees(record))
    live_rig.do(changes=[started(record)])
    live_rig.do(changes=[Change(id=record.id)])
    live_rig.do(changes=[ended(record)])
    until(
        lambda: live_rig.found(record) == live_rig.ledger.find([record.id.attempt_id])[record.id.attempt_id]
    )
    assert live_rig.reader.inflight(record.backend, record.queue) == frozenset()
    told = states(client, live_rig, record)
    assert (told[0], told[-1]) == ("queued", "succeeded")
    assert live_rig.reader.standing(["17"]).inflight == {}


def test_the_first_end_stays_and_a_later_submission_takes_the_place_of_the_earlier(live_rig: LiveRig) -> None:
    first = a_record()
    second = replace(first, id=SubmissionId(first.id.attempt_id, 2))
    live_rig.writer.start()
    live_rig.do(first)
    live_rig.do(changes=[ended(first, Outcome.REPLACED)])
    live_rig.do(changes=[ended(first, Outcome.FAILED), started(first)])
    until(lambda: (found := live_rig.found(first)) and found.outcome is Outcome.REPLACED)
    live_rig.do(second)
    until(lambda: live_rig.agrees(second))
    live_rig.do(changes=[ended(first, Outcome.FAILED)])
    live_rig.do(changes=[started(second)])
    until(lambda: live_rig.agrees(second))
    assert live_rig.found(second).id.number == 2  # type: ignore[union-attr]


def test_what_another_scheduler_adopts_moves_to_it(live_rig: LiveRig, valkey_url: str) -> None:
    record = a_record()
    live_rig.writer.start()
    live_rig.do(record)
    until(lambda: live_rig.agrees(record))
    heir = LiveRig(valkey_url, owner="18", ledger=live_rig.ledger)
    heir.writer.start()
    heir.do(changes=[Change(id=record.id, scheduler_job="18")])
    until(lambda: heir.store.survey().index == {record.id.attempt_id: "1 queued"})
    assert LiveStore(heir.config, "17").survey().index == {}
    assert heir.agrees(record)
    heir.stop()


def test_what_is_adopted_and_unknown_is_read_from_the_database(
    live_rig: LiveRig, client: "redis.Redis"
) -> None:
    record = a_record(scheduler_job="dead", started_at=LATER)
    live_rig.ledger.record([record], [])
    live_rig.interval_s = 3600
    live_rig.writer._interval_s = 3600
    live_rig.writer.start()
    until(lambda: live_rig.store.survey().written)
    live_rig.do(changes=[Change(id=record.id, scheduler_job="17")])
    until(lambda: live_rig.agrees(record))


def test_every_key_has_a_time_to_live_or_a_cap(live_rig: LiveRig, client: "redis.Redis") -> None:
    records = [a_record(queue=f"q{n % 7}", backend=list(BackendName)[n % 2]) for n in range(50)]
    live_rig.writer.start()
    live_rig.do(*records)
    live_rig.do(changes=[started(record) for record in records])
    live_rig.do(changes=[ended(record) for record in records[:20]])
    until(lambda: live_rig.agrees(*records[20:]))
    until(lambda: client.hget(live_rig.keys.scheduler("17"), "checked_at"))
    keys = all_keys(client)
    assert len(keys) > 50
    longest = {live_rig.keys.transitions: schema.STREAM_S}
    for key in keys:
        assert key.startswith("{hybrid-test}:")
        assert 0 < client.ttl(key) <= longest.get(key, schema.LEASE_S), key


def test_the_stream_is_capped(live_rig: LiveRig, client: "redis.Redis") -> None:
    records = [a_record() for _ in range(schema.BATCH_ITEMS)]
    live_rig.writer.start()
    live_rig.do(*records)
    for number in range(20):
        live_rig.do(changes=[Change(id=record.id, exit_code=number) for record in records])
        until(live_rig.is_idle)
    length = client.xlen(live_rig.keys.transitions)
    assert schema.STREAM_ENTRIES <= length < schema.STREAM_ENTRIES * 1.1


def test_status_says_in_one_line_what_is_in_flight_and_how_old_that_is(live_rig: LiveRig) -> None:
    live_rig.writer.start()
    live_rig.do(a_record(), a_record(started_at=LATER))
    until(lambda: sum(live_rig.reader.standing(["17"]).inflight.values()) == 2)
    state = livehalf.look_at(live_rig.config, ["17", "18"], 3)
    now = datetime.now(UTC)
    line = livehalf.line(state, now)
    assert line.startswith(
        "live ledger: 2 in flight, 3 in the database; nothing from scheduler job 18; compared "
    )
    assert "written anew " in line
    told = livehalf.as_json(state, now)
    assert (told["state"], told["in_flight"], told["silent_schedulers"]) == ("on", 2, ["18"])
    assert 0 <= told["lag_s"] < DEADLINE_S


# --- what it costs ------------------------------------------------------------------------


@contextmanager
def commands(url: str) -> Iterator[list[str]]:
    """Collect what others send to the server; what a script calls is no round trip."""
    sent: list[str] = []
    with redis.Redis.from_url(url) as other, redis.Redis.from_url(url).monitor() as monitor:
        other.ping()
        while "PING" not in str(monitor.next_command()["command"]):
            pass
        yield sent
        other.echo("it is over")
        for heard in monitor.listen():
            if heard["command"] == "ECHO it is over":
                break
            if heard["client_type"] != "lua":
                sent.append(heard["command"].partition(" ")[0])


@pytest.mark.parametrize("changes", [1, 100, 1_000])
def test_a_heartbeat_is_one_round_trip_however_much_has_changed_and_none_where_nothing_has(
    live_rig: LiveRig, client: "redis.Redis", changes: int
) -> None:
    records = [a_record() for _ in range(changes)]
    live_rig.writer._interval_s = 3600
    live_rig.writer.start()
    live_rig.do(*records)
    until(lambda: states(client, live_rig, records[-1]) == ["queued"])
    with commands(live_rig.url) as sent:
        live_rig.do(changes=[started(record) for record in records])
        until(live_rig.is_idle)
        for _ in range(20):
            live_rig.do()
            until(lambda: not live_rig.writer._wake.is_set())
    assert sent == ["EVAL"]
    assert states(client, live_rig, records[-1]) == ["queued", "running"]


def test_a_thousand_changes_cost_the_heartbeat_a_few_milliseconds(live_rig: LiveRig) -> None:
    """Without a thread that takes them: this is what the scheduler's own thread pays."""
    records = [a_record() for _ in range(1_000)]
    live_rig.writer.tell(records, [])
    changes = [started(record) for record in records]
    took = []
    for _ in range(5):
        # Of this thread alone: what else runs on the machine does not count.
        begin = time.thread_time()
        live_rig.writer.tell([], changes)
        took.append(time.thread_time() - begin)
    assert min(took) < 0.02


# --- what is lost is made anew --------------------------------------------------------------


def test_a_server_that_is_emptied_is_filled_again(live_rig: LiveRig, client: "redis.Redis") -> None:
    records = [a_record(started_at=LATER) for _ in range(1_500)]
    live_rig.writer.start()
    live_rig.do(*records)
    until(lambda: len(live_rig.store.survey().index) == len(records))
    live_rig.counted()
    client.flushdb()
    until(lambda: len(live_rig.store.survey().index) == len(records))
    assert live_rig.agrees(records[0], records[-1])
    assert rebuilds(live_rig) == 1


def test_a_batch_that_finds_the_server_emptied_is_not_lost_and_brings_the_rest_back(
    live_rig: LiveRig, client: "redis.Redis"
) -> None:
    changing, silent, new = a_record(), a_record(), a_record()
    live_rig.writer._interval_s = 3600
    live_rig.writer.start()
    live_rig.do(changing, silent)
    until(lambda: live_rig.agrees(changing, silent))
    client.flushdb()
    live_rig.do(new, changes=[started(changing)])
    until(lambda: live_rig.agrees(changing, silent, new))
    until(lambda: states(client, live_rig, changing) == ["running"])
    assert states(client, live_rig, new) == ["queued"]


def test_a_server_that_is_killed_comes_back_as_the_database_says(
    own_rig: LiveRig, own_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hybrid_executor")
    first, second = a_record(), a_record()
    own_rig.writer.start()
    own_rig.do(first)
    until(lambda: own_rig.agrees(first))
    own_valkey.kill()
    own_rig.do(second, changes=[ended(first)])
    until(lambda: own_rig.writer._away)
    for _ in range(3):
        own_rig.do(changes=[started(second)])
    own_valkey.start()
    until(lambda: own_rig.agrees(second))
    until(lambda: "is back" in caplog.text)
    found = own_rig.found(first)
    assert found is None or found.outcome is Outcome.SUCCEEDED
    told = [line for line in caplog.messages if "is away" in line or "is back" in line]
    assert len(told) == 2, told
    assert own_valkey.password not in caplog.text


def test_an_old_snapshot_is_noticed_and_overwritten(own_rig: LiveRig, own_valkey: ValkeyServer) -> None:
    old, going, new = a_record(), a_record(), a_record()
    own_rig.writer.start()
    own_rig.do(old, going)
    until(lambda: own_rig.agrees(old, going))
    snapshot = own_valkey.state / "appendonlydir"
    copy = own_valkey.state / "copy"
    own_valkey.stop()
    shutil.copytree(snapshot, copy)
    own_valkey.start()
    own_rig.do(new, changes=[ended(old), started(going)])
    until(lambda: own_rig.agrees(going, new))
    own_valkey.kill()
    shutil.rmtree(snapshot)
    copy.rename(snapshot)
    own_rig.counted()
    own_valkey.start()
    until(lambda: own_rig.agrees(going, new) and own_rig.found(going).started_at)  # type: ignore[union-attr]
    assert own_rig.store.survey().index.keys() == {going.id.attempt_id, new.id.attempt_id}
    assert own_rig.reader.inflight(old.backend, old.queue) == {going.id.attempt_id, new.id.attempt_id}
    assert rebuilds(own_rig) == 1


def test_drift_is_found_repaired_and_counted(live_rig: LiveRig, client: "redis.Redis") -> None:
    gone, outside, stale, over = records = [a_record() for _ in range(4)]
    live_rig.writer.start()
    live_rig.do(*records)
    until(lambda: live_rig.agrees(*records))
    live_rig.counted()
    keys = live_rig.keys
    inflight = keys.inflight + f"{gone.backend}:{gone.queue}"
    client.delete(keys.attempts + gone.id.attempt_id)
    client.zrem(inflight, outside.id.attempt_id)
    client.zadd(inflight, {"phantom": 2**40})
    # What this scheduler was never told of, as if its process had died in between.
    live_rig.ledger.record([], [started(stale), ended(over)])
    until(lambda: live_rig.agrees(gone, outside, stale) and live_rig.found(over) is None)
    assert live_rig.reader.inflight(gone.backend, gone.queue) == {
        r.id.attempt_id for r in (gone, outside, stale)
    }
    until(lambda: "phantom" not in client.zrange(inflight, 0, -1))
    counted = live_rig.counted()
    assert counted["live_repairs:missing"] == 1
    assert counted["live_repairs:stale"] == 1
    assert counted["live_repairs:ended"] == 1
    # ``gone`` was in its set and without a hash; whether it was taken out first is a matter of order.
    assert counted["live_repairs:set"] >= 2
    assert "live_rebuilds" not in counted


def test_what_is_on_its_way_is_no_drift(live_rig: LiveRig, monkeypatch: pytest.MonkeyPatch) -> None:
    live_rig.interval_s = live_rig.writer._interval_s = 0.05
    # This thread may stand still between recording and telling for longer than two comparisons are apart:
    # that would be drift, so what is compared is recorded and told.
    between, stages_of = threading.Lock(), live_rig.ledger.stages_of

    def stages_between_changes(owner: str) -> Mapping[str, tuple[int, Stage]]:
        with between:
            return stages_of(owner)

    def do(*new: SubmissionRecord, changes: list[Change] | None = None) -> None:
        with between:
            live_rig.do(*new, changes=changes)

    monkeypatch.setattr(live_rig.ledger, "stages_of", stages_between_changes)
    live_rig.writer.start()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        record = a_record()
        do(record)
        do(changes=[started(record)])
        do(changes=[ended(record)])
    until(lambda: not live_rig.store.survey().index)
    assert live_rig.counted() == {}


def test_a_difference_is_drift_once_two_comparisons_in_a_row_have_seen_it() -> None:
    rig = LiveRig("redis://127.0.0.1:1")
    survey = Survey("1", {"ended": "1 running", "same": "1 queued", "moving": "1 queued"}, {})
    standing = {"same": "1 queued", "moving": "1 submitted", "lost": "2 running"}
    assert rig.writer._confirmed(survey, standing) == []
    moved = standing | {"moving": "1 running"}
    assert sorted(rig.writer._confirmed(survey, moved)) == ["ended", "lost"]
    assert rig.writer._confirmed(survey, moved) == ["moving"]


def test_the_attempts_of_a_dead_scheduler_leave_the_sets_when_its_lease_is_over(
    live_rig: LiveRig, client: "redis.Redis", monkeypatch: pytest.MonkeyPatch, valkey_url: str
) -> None:
    # The living one must not stand still for as long.
    monkeypatch.setattr(schema, "LEASE_S", 4)
    dead, alive = a_record(scheduler_job="16"), a_record()
    LiveStore(live_rig.config, "16").write("1", None, [item_new(dead)], anew=True)
    live_rig.writer.start()
    live_rig.do(alive)
    until(lambda: live_rig.agrees(dead, alive) or live_rig.agrees(alive))
    until(lambda: live_rig.reader.inflight(dead.backend, dead.queue) == {alive.id.attempt_id})
    until(lambda: not client.exists(live_rig.keys.attempts + dead.id.attempt_id))
    assert live_rig.agrees(alive)


def test_a_lease_that_is_over_counts_no_more_although_others_keep_the_set(
    live_rig: LiveRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, alive = a_record(scheduler_job="16"), a_record()
    LiveStore(live_rig.config, "17").write("1", None, [item_new(alive)], anew=True)
    # It must not be over before it is looked at for the first time.
    monkeypatch.setattr(schema, "LEASE_S", 4)
    store = LiveStore(live_rig.config, "16")
    store.write("1", None, [item_new(dead)], anew=True)
    monkeypatch.undo()
    LiveStore(live_rig.config, "17").write(
        "2", "1", [item_new(a_record(queue=alive.queue, started_at=LATER))]
    )
    assert dead.id.attempt_id in live_rig.reader.inflight(dead.backend, dead.queue)
    until(lambda: dead.id.attempt_id not in live_rig.reader.inflight(dead.backend, dead.queue))
    assert alive.id.attempt_id in live_rig.reader.inflight(dead.backend, dead.queue)


def test_a_batch_whose_answer_was_lost_is_not_told_twice(live_rig: LiveRig, client: "redis.Redis") -> None:
    record, store = a_record(), live_rig.store
    assert store.write("s:1", None, [item_new(record)], anew=True) == []
    items = [item_change(started(record))]
    assert store.write("s:2", "s:1", items) == []
    assert store.write("s:2", "s:1", items) == []
    assert states(client, live_rig, record) == ["queued", "running"]
    assert store.write("s:4", "s:3", items) is None


def test_more_than_can_be_kept_is_let_go_and_read_from_the_database(
    own_rig: LiveRig, own_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_rig.writer._backlog._entries_max = 10
    own_valkey.kill()
    records = [a_record() for _ in range(25)]
    own_rig.writer.start()
    for record in records:
        own_rig.do(record)
    assert len(own_rig.writer._backlog) <= 10 < backlog.ENTRIES_MAX
    own_valkey.start()
    until(lambda: own_rig.agrees(*records))


# --- it never holds anybody up --------------------------------------------------------------


def test_a_server_that_hangs_delays_no_heartbeat(
    own_rig: LiveRig, own_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hybrid_executor")
    record = a_record()
    own_rig.writer.start()
    own_rig.do(record)
    until(lambda: own_rig.agrees(record))
    pid = own_valkey.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        slowest = 0.0
        for number in range(100):
            begin = time.perf_counter()
            own_rig.do(changes=[Change(id=record.id, exit_code=number)])
            slowest = max(slowest, time.perf_counter() - begin)
        until(lambda: own_rig.writer._away)
        assert slowest < own_rig.timeout_s / 2
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: own_rig.agrees(record))
    until(lambda: "is back" in caplog.text)
    assert len([line for line in caplog.messages if "is away" in line]) == 1


def test_a_server_that_hangs_holds_up_no_shutdown(own_valkey: ValkeyServer) -> None:
    rig = LiveRig(own_valkey.url, timeout_s=20.0)
    rig.writer.start()
    until(lambda: rig.store.survey().written)
    pid = own_valkey.process.pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        rig.do(a_record())
        begin = time.monotonic()
        rig.writer.stop(0.5)
        assert time.monotonic() - begin < 5
    finally:
        os.kill(pid, signal.SIGCONT)
    rig.stop()


def test_what_was_told_before_the_end_is_written_at_the_end(live_rig: LiveRig) -> None:
    record = a_record()
    live_rig.writer.start()
    until(lambda: live_rig.store.survey().written)
    live_rig.do(record)
    live_rig.writer.stop(10)
    assert live_rig.agrees(record)


def test_an_unknown_host_and_a_wrong_password_are_away_in_words_without_a_secret(valkey_url: str) -> None:
    for url in ("redis://:secret@127.0.0.1:1/0", valkey_url.replace("redis://:", "redis://:secret")):
        store = LiveStore(live_config(url), "1")
        with pytest.raises(LiveUnavailable) as raised:
            store.survey()
        assert "secret" not in str(raised.value)
