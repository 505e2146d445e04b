"""Results that are pushed: heard at once, read in bulk where a push is lost, and nothing stays behind."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from hybrid_executor.backends.celery import push as push_module
from hybrid_executor.backends.celery import results as results_module
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.lookup import Lookup, Why
from hybrid_executor.backends.celery.observer import Follow, LookUp, Observer
from hybrid_executor.backends.celery.push import Push
from hybrid_executor.backends.celery.results import ResultReader
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Accepted, Ended, Observation, Started
from hybrid_executor.naming import celery_task_id
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.fixtures.celery import celery_app, celery_submission, light_worker

#: Nothing is read for an hour, so that whatever is heard sooner was pushed.
PUSHED = CeleryConfig(poll_interval_s=3600.0, repair_interval_s=3600.0)
#: What is pushed comes within milliseconds, or as soon as a busy machine lets it.
SOON_S = 10.0
PATIENCE_S, WORKER_S = 20.0, 90.0


class Ears:
    """An observer and what it said, with the time of each."""

    def __init__(self, app: Any, config: CeleryConfig) -> None:
        self.app = app
        self.said: dict[tuple[SubmissionId, type], float] = {}
        #: All of it, however often.
        self.words: list[tuple[SubmissionId, type]] = []
        self.observer = Observer(app, config, self._hear)
        self.observer.start()

    def _hear(self, seen: Observation) -> None:
        self.words.append((seen.submission, type(seen)))
        self.said.setdefault((seen.submission, type(seen)), time.monotonic())

    def follow(self) -> SubmissionId:
        """A new submission, whose channel is subscribed to when this returns, where it can be."""
        submission = celery_submission().id
        self.observer.tell(Follow(submission, "default"))
        return submission

    def store(self, submission: SubmissionId, state: str = "SUCCESS") -> float:
        """As a worker stores it; returns when."""
        began = time.monotonic()
        self.app.backend.store_result(celery_task_id(submission), None, state)
        return began

    def time_of(self, submission: SubmissionId, kind: type = Ended, within_s: float = PATIENCE_S) -> float:
        until(lambda: (submission, kind) in self.said, lambda: f"{kind.__name__} was not heard of", within_s)
        return self.said[submission, kind]


def until(done: Callable[[], bool], what: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.005)


@pytest.fixture
def ears() -> Iterator[Callable[..., Ears]]:
    made: list[Ears] = []

    def make(url: str, config: CeleryConfig = PUSHED, **settings: Any) -> Ears:
        made.append(Ears(celery_app("memory://", url, **settings), config))
        return made[-1]

    yield make
    for one in made:
        one.observer.stop(2.0)


def subscribed(client: Any, prefix: str = "") -> int:
    return len(client.pubsub_channels(f"{prefix}celery-task-meta-*"))


def until_subscribed(url: str, submission: SubmissionId, prefix: str = "") -> None:
    with redis.Redis.from_url(url) as client:
        channel = f"{prefix}celery-task-meta-{celery_task_id(submission)}"
        until(lambda: dict(client.pubsub_numsub(channel))[channel.encode()] == 1, lambda: "no subscription")


# --- far below the poll ---------------------------------------------------------------


def test_a_result_is_heard_as_it_is_stored(valkey_url: str, ears: Callable[..., Ears]) -> None:
    one = ears(valkey_url)
    submission = one.follow()
    until_subscribed(valkey_url, submission)
    stored = one.store(submission)
    assert one.time_of(submission) - stored < SOON_S  # of an hour until the next read


def test_start_and_end_on_a_real_worker_are_pushed(
    valkey_url: str, tmp_path: Path, ears: Callable[..., Ears]
) -> None:
    with light_worker(valkey_url, valkey_url, tmp_path):
        one = ears(valkey_url)
        gate = tmp_path / "gate"
        submission = celery_submission({"gate": str(gate)})
        one.observer.tell(Follow(submission.id, "default"))
        until_subscribed(valkey_url, submission.id)
        app = celery_app(valkey_url, valkey_url)
        app.send_task("execute_workload", (submission.payload,), task_id=celery_task_id(submission.id))
        one.time_of(submission.id, Started, WORKER_S)
        gate.touch()
        assert one.time_of(submission.id) > one.time_of(submission.id, Started)


def test_a_result_that_was_stored_before_the_subscription_is_not_lost(
    valkey_url: str, ears: Callable[..., Ears]
) -> None:
    one = ears(valkey_url)
    first = one.follow()
    until_subscribed(valkey_url, first)  # the first read of all is over
    late = celery_submission().id
    stored = one.store(late)
    one.observer.tell(Follow(late, "default"))
    assert one.time_of(late) - stored < SOON_S


def test_nothing_is_lost_between_publishing_and_subscribing_however_they_meet(
    valkey_url: str, ears: Callable[..., Ears]
) -> None:
    one = ears(valkey_url)
    until_subscribed(valkey_url, one.follow())
    ids = [celery_submission().id for _ in range(300)]
    for submission in ids:
        one.observer.tell(Follow(submission, "default"))
        one.store(submission)
    for submission in ids:
        one.time_of(submission)


def test_several_airflows_on_one_server_hear_their_own(valkey_url: str, ears: Callable[..., Ears]) -> None:
    prefixed = {"result_backend_transport_options": {"global_keyprefix": "one-airflow."}}
    mine, other = ears(valkey_url, **prefixed), ears(valkey_url)
    submission = mine.follow()
    until_subscribed(valkey_url, submission, "one-airflow.")
    other.observer.tell(Follow(submission, "default"))
    until_subscribed(valkey_url, submission)
    mine.store(submission)
    mine.time_of(submission)
    assert (submission, Ended) not in other.said


# --- a lost push is normal ------------------------------------------------------------


def test_a_killed_subscription_is_made_anew_and_loses_nothing(
    valkey_url: str, ears: Callable[..., Ears]
) -> None:
    one = ears(valkey_url)
    early, meanwhile, later = one.follow(), one.follow(), one.follow()
    until_subscribed(valkey_url, later)
    with redis.Redis.from_url(valkey_url) as client:
        for _ in range(3):
            client.client_kill_filter(_type="pubsub")
            one.store(meanwhile)
        one.time_of(meanwhile)
    until_subscribed(valkey_url, early)
    stored = one.store(early)
    assert one.time_of(early) - stored < SOON_S


def test_without_any_push_the_bulk_read_finds_it_within_its_interval(
    valkey_url: str, ears: Callable[..., Ears], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(PUSHED, poll_interval_s=0.5)
    monkeypatch.setattr(ResultReader, "pubsub", lambda self: None)
    one = ears(valkey_url, config)
    delays = []
    for _ in range(5):
        submission = one.follow()
        stored = one.store(submission)
        delays.append(one.time_of(submission) - stored)
    # A busy machine may delay some of them.
    assert min(delays) < config.poll_interval_s + 1.0


def test_a_restarted_server_pushes_again(own_valkey: ValkeyServer, ears: Callable[..., Ears]) -> None:
    url = own_valkey.url_of(1)
    one = ears(url)
    before, after = one.follow(), one.follow()
    until_subscribed(url, after)
    own_valkey.kill()
    own_valkey.start()
    one.store(before)
    one.time_of(before)
    until_subscribed(url, after)
    stored = one.store(after)
    assert one.time_of(after) - stored < SOON_S


class Mute:
    """A subscriber whose network drops everything in silence."""

    def __init__(self) -> None:
        self.connection = self
        self._sock = None
        self.closed = 0

    def channel(self, task_id: str) -> bytes:
        return task_id.encode()

    def pubsub(self) -> Any:
        return self

    def can_read(self, timeout: float) -> bool:
        return False

    def subscribe(self, *channels: bytes) -> None: ...

    def ping(self) -> None: ...

    def close(self) -> None:
        self.closed += 1


def test_a_connection_that_has_fallen_silent_is_given_up() -> None:
    mute = Mute()
    push = Push(mute, CeleryConfig())
    push.follow("one")
    push.hear(0.0)
    push.probe(0.0)
    assert push.is_open
    push.probe(10.0)
    assert (push.is_open, mute.closed) == (False, 1)
    assert push.due_s() == pytest.approx(10.5)  # and another one is tried


# --- however many are in flight -------------------------------------------------------

Fetch = Callable[[Any, Any], dict[str, Any]]


@pytest.fixture
def around_reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Fetch], Fetch]], None]:
    """Puts something around each command that reads results."""

    def put(around: Callable[[Fetch], Fetch]) -> None:
        monkeypatch.setattr(results_module._RedisStore, "fetch", around(results_module._RedisStore.fetch))

    return put


def test_what_was_read_before_the_store_stopped_answering_is_heard(
    valkey_url: str,
    ears: Callable[..., Ears],
    around_reads: Callable[[Callable[[Fetch], Fetch]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To read all in flight takes several commands, and any may be the last that is answered."""
    monkeypatch.setattr(ResultReader, "pubsub", lambda self: None)
    ended, unreadable = (celery_submission().id for _ in range(2))

    def around(fetch: Fetch) -> Fetch:
        def failing(store: Any, task_ids: Any) -> dict[str, Any]:
            if celery_task_id(unreadable) in task_ids:
                raise redis.TimeoutError("nothing came")
            return fetch(store, task_ids)

        return failing

    around_reads(around)
    one = ears(valkey_url, CeleryConfig(poll_interval_s=0.2, results_chunk=1, outage_pause_max_s=0.2))
    one.store(ended)
    one.observer.tell(Follow(ended, "default"), Follow(unreadable, "default"))
    one.time_of(ended)


def test_what_was_read_and_not_told_is_told_by_the_next_read(valkey_url: str) -> None:
    """Whoever is told may fail, and what has been passed over as known would never end."""
    app = celery_app("memory://", valkey_url)
    reader = ResultReader(app, CeleryConfig())
    ids = [celery_task_id(celery_submission().id) for _ in range(3)]
    for task_id in ids:
        app.backend.store_result(task_id, None, "SUCCESS")
    told = next(iter(reader.changes(ids)))
    assert {told[0], *(task_id for task_id, _ in reader.changes(ids))} == set(ids)
    assert list(reader.changes(ids)) == []
    reader.close()


def test_a_push_is_heard_between_the_commands_that_read_all(
    valkey_url: str,
    ears: Callable[..., Ears],
    around_reads: Callable[[Callable[[Fetch], Fetch]], None],
) -> None:
    """At a hundred thousand in flight they take seconds."""
    one = ears(valkey_url, CeleryConfig(repair_interval_s=1.0, results_chunk=10))
    ids = [one.follow() for _ in range(1000)]
    until_subscribed(valkey_url, ids[-1])
    commands: list[bool] = []

    def around(fetch: Fetch) -> Fetch:
        def storing(store: Any, task_ids: Any) -> dict[str, Any]:
            found = fetch(store, task_ids)
            if commands:
                commands.append((ids[0], Ended) in one.said)
            elif task_ids[0] == celery_task_id(ids[0]):  # the first of a round, which then finds it no more
                commands.append(False)
                one.store(ids[0])
            time.sleep(0.005)
            return found

        return storing

    around_reads(around)
    one.time_of(ids[0])
    until(lambda: any(commands), lambda: f"{len(commands)} commands")
    assert commands.index(True) < 50  # of a hundred


def test_a_subscription_that_the_server_has_cut_for_not_being_read_loses_nothing(
    own_valkey: ValkeyServer, ears: Callable[..., Ears]
) -> None:
    """As ``client-output-buffer-limit`` wants it of a scheduler that had no processor for a while."""
    url = own_valkey.url_of(1)
    one = ears(url)
    ids = [one.follow() for _ in range(300)]
    until_subscribed(url, ids[-1])
    with redis.Redis.from_url(url) as client:
        client.config_set("client-output-buffer-limit", "pubsub 1mb 1mb 1")
        before = [found["id"] for found in client.client_list(_type="pubsub")]
        with client.pipeline(transaction=True) as pipe:  # so that nothing is sent before all is published
            for submission in ids:
                channel = f"celery-task-meta-{celery_task_id(submission)}"
                raw = one.app.backend.encode({"status": "SUCCESS", "traceback": "x" * 10_000})
                pipe.set(channel, raw).publish(channel, raw)
            pipe.execute()
        until(lambda: not client.client_list(client_id=before), lambda: "the server has not cut it")
    for submission in ids:
        one.time_of(submission)


def test_what_a_look_up_stumbles_over_keeps_nobody_from_hearing_of_the_others(
    valkey_url: str, ears: Callable[..., Ears], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: Any) -> None:
        raise ValueError("a message that nobody can read")

    monkeypatch.setattr(Lookup, "step", stumble)
    one = ears(valkey_url)
    submission = one.follow()
    until_subscribed(valkey_url, submission)
    one.store(submission)
    one.time_of(submission)


class Flood(Mute):
    """A subscriber to whom more comes in than can be taken."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def can_read(self, timeout: float) -> bool:
        return True

    def get_message(self, timeout: float) -> dict[str, Any]:
        self.taken += 1
        assert self.taken < 100_000, "this would go on for ever"
        return {"type": "message", "channel": b"one", "data": b"%d" % self.taken}


def test_however_much_is_pushed_something_else_gets_its_turn() -> None:
    flood, config = Flood(), CeleryConfig()
    push = Push(flood, config)
    push.follow("one")
    assert push.hear(0.0).raws == {"one": b"%d" % config.push_chunk}
    assert push.due_s() == 0.0  # the rest may have been read from the socket, which is still by now


# --- rights ---------------------------------------------------------------------------


def limited_user(url: str, *rights: str) -> str:
    """The URL of a user with these rights besides those that reading results takes."""
    with redis.Redis.from_url(url) as client:
        client.execute_command("ACL", "SETUSER", "airflow", "reset", "on", ">pass", "~*", "+mget", *rights)
        client.execute_command("ACL", "SETUSER", "airflow", "+select", "+client", "+hello", "+auth")
    scheme, _, rest = url.partition("://")
    return f"{scheme}://airflow:pass@{rest.rpartition('@')[2]}"


@pytest.mark.parametrize(
    "rights",
    [
        ("+subscribe", "+unsubscribe", "+ping"),
        ("&celery-task-meta-*", "+unsubscribe", "+ping"),
        ("&celery-task-meta-*", "+subscribe", "+unsubscribe"),
    ],
    ids=["channels", "subscribe", "ping"],
)
def test_who_may_not_subscribe_is_told_once_and_reads(
    own_valkey: ValkeyServer,
    ears: Callable[..., Ears],
    caplog: pytest.LogCaptureFixture,
    rights: tuple[str, ...],
) -> None:
    url = own_valkey.url_of(1)
    one = ears(limited_user(url, *rights), CeleryConfig(poll_interval_s=0.2, repair_interval_s=0.2))
    writer = celery_app("memory://", url)
    for _ in range(3):
        submission = one.follow()
        writer.backend.store_result(celery_task_id(submission), None, "SUCCESS")
        one.time_of(submission)
    last = one.follow()
    time.sleep(1.0)  # several reads, and with them probes
    writer.backend.store_result(celery_task_id(last), None, "SUCCESS")
    one.time_of(last)
    told = [r.getMessage() for r in caplog.records if "pushes nothing" in r.getMessage()]
    assert len(told) == 1
    assert "+subscribe +unsubscribe +ping &celery-task-meta-*" in told[0]
    assert [
        r for r in caplog.records if r.levelno >= logging.WARNING and "pushes" not in r.getMessage()
    ] == []


def test_a_right_that_is_granted_is_used_without_a_restart(
    own_valkey: ValkeyServer, ears: Callable[..., Ears], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "REFUSAL_LIFE_S", 0.3)
    url = own_valkey.url_of(1)
    one = ears(limited_user(url, "+subscribe", "+unsubscribe", "+ping"))
    submission = one.follow()
    with redis.Redis.from_url(url) as client:
        until(lambda: bool(client.execute_command("ACL", "LOG")), lambda: "nothing was refused")
    limited_user(url, "+subscribe", "+unsubscribe", "+ping", "&celery-task-meta-*")
    until_subscribed(url, submission)


# --- nothing is left behind -----------------------------------------------------------


def test_ten_thousand_attempts_leave_no_subscription_and_take_few_commands(
    own_valkey: ValkeyServer, ears: Callable[..., Ears]
) -> None:
    url = own_valkey.url_of(1)
    one = ears(url)
    with redis.Redis.from_url(url) as client:
        for _ in range(10):
            ids = [celery_submission().id for _ in range(1000)]
            for submission in ids:
                one.observer.tell(Follow(submission, "default"))
            until(lambda: subscribed(client) == 1000, lambda: subscribed(client))
            with client.pipeline(transaction=False) as pipe:
                for submission in ids:
                    task_id = celery_task_id(submission)
                    raw = one.app.backend.encode({"status": "SUCCESS", "task_id": task_id})
                    pipe.set(f"celery-task-meta-{task_id}", raw).publish(f"celery-task-meta-{task_id}", raw)
                pipe.execute()
            for submission in ids:
                one.time_of(submission)
        until(lambda: client.client_list(_type="pubsub") == [], lambda: client.client_list(_type="pubsub"))
        commands = client.info("commandstats")
    assert subscribed(redis.Redis.from_url(url)) == 0
    assert one.observer._push._followed == set()
    assert (one.observer._results._seen, one.observer._joined, one.observer._round) == ({}, {}, {})
    # It closes its connection first.
    until(lambda: one.observer._push._task_of == {}, lambda: len(one.observer._push._task_of))
    assert commands["cmdstat_subscribe"]["calls"] < 1000
    assert commands["cmdstat_mget"]["calls"] < 1000


def test_the_connection_is_held_only_while_something_is_followed(
    own_valkey: ValkeyServer, ears: Callable[..., Ears]
) -> None:
    url = own_valkey.url_of(1)
    one = ears(url)
    with redis.Redis.from_url(url) as client:
        for _ in range(3):
            submission = one.follow()
            until_subscribed(url, submission)
            one.store(submission)
            one.time_of(submission)
            until(lambda: client.client_list(_type="pubsub") == [], lambda: "still subscribed")


# --- other result backends ------------------------------------------------------------


def test_a_database_is_read_with_one_query_however_many_are_in_flight(
    tmp_path: Path, ears: Callable[..., Ears]
) -> None:
    config = replace(PUSHED, poll_interval_s=0.3)
    one = ears(f"db+sqlite:///{tmp_path / 'results.db'}", config)
    one.store(celery_submission().id)  # makes the tables
    queries: list[str] = []

    def count(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT"):
            queries.append(statement)

    ids = [one.follow() for _ in range(500)]
    one.store(ids[0])
    one.time_of(ids[0])
    engine = one.observer._results._store._engine  # type: ignore[union-attr]
    sa.event.listen(engine, "before_cursor_execute", count)
    before = time.monotonic()
    one.store(ids[1])
    one.time_of(ids[1])
    # One may have been due before, and have been late.
    assert 1 <= len(queries) <= (time.monotonic() - before) / config.poll_interval_s + 2


def test_what_is_looked_up_is_followed_by_push_too(valkey_url: str, ears: Callable[..., Ears]) -> None:
    one = ears(valkey_url)
    one.app.conf.broker_url = valkey_url
    submission = celery_submission().id
    one.store(submission, "STARTED")
    one.observer.tell(LookUp(submission, Why.ADOPT))
    one.time_of(submission, Started)
    until_subscribed(valkey_url, submission)
    stored = one.store(submission)
    assert one.time_of(submission) - stored < SOON_S
    assert (submission, Accepted) not in one.said


def test_what_a_look_up_has_told_is_not_told_again_by_the_read_after_its_subscription(
    valkey_url: str, ears: Callable[..., Ears]
) -> None:
    """A scheduler that adopts thousands would hear of each twice."""
    one = ears(valkey_url)
    one.app.conf.broker_url = valkey_url
    submission = celery_submission().id
    one.store(submission, "STARTED")
    one.observer.tell(LookUp(submission, Why.ADOPT))
    until_subscribed(valkey_url, submission)
    # What is subscribed to later is read later, and this one is known by that read alone.
    later = celery_submission().id
    one.store(later)
    one.observer.tell(Follow(later, None))
    one.time_of(later)
    one.store(submission)
    one.time_of(submission)
    assert one.words == [(submission, Started), (later, Ended), (submission, Ended)]
