"""The Celery backend on real servers: kills, doubts, queues, both kinds of result store."""

import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from hybrid_executor.backends.celery.backend import CeleryBackend
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.lookup import Why
from hybrid_executor.backends.celery.observer import LookUp, Observer
from hybrid_executor.backends.celery.queues import Behind, Held, Queued, QueueReader
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Accepted, Ended, How, Observation, Rejected, Started, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import celery_task_id
from hybrid_executor.standalone.stack.postgres import PostgresServer
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.fixtures.celery import TOKEN, celery_app, celery_submission, light_worker

CONFIG = CeleryConfig(poll_interval_s=0.1, look_again_s=0.2, absent_after_s=0.5, publish_retry_s=0.05)
#: What a worker may need for its start on a busy machine.
PATIENCE_S = 90.0


def until(done: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


class Ears:
    """Everything that a backend has said."""

    def __init__(self, backend: CeleryBackend) -> None:
        self.backend = backend
        self.heard: list[Observation] = []

    def until(self, kind: type[Observation], *ids: SubmissionId) -> list[Observation]:
        def done() -> bool:
            self.heard += self.backend.poll()
            return set(ids) <= {o.submission for o in self.heard if isinstance(o, kind)}

        until(done, lambda: f"waited for {kind.__name__}, heard {self.heard}")
        return [o for o in self.heard if isinstance(o, kind) and o.submission in ids]


@pytest.fixture
def backends() -> Iterator[Callable[..., CeleryBackend]]:
    """Started backends, stopped at the end."""
    started: list[CeleryBackend] = []

    def make(app: Any, config: CeleryConfig = CONFIG) -> CeleryBackend:
        backend = CeleryBackend(config, lambda: app)
        backend.start()
        started.append(backend)
        return backend

    yield make
    for backend in started:
        backend.stop(2.0)


# --- outages ---------------------------------------------------------------------


def test_a_killed_broker_and_result_store_lose_no_answer(
    own_valkey: ValkeyServer, tmp_path: Path, backends: Callable[..., CeleryBackend]
) -> None:
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    with light_worker(own_valkey.url_of(1), own_valkey.url_of(1), tmp_path):
        ears = Ears(backends(celery_app(own_valkey.url_of(1), own_valkey.url_of(1))))
        batch = [celery_submission({"gate": str(gate), "runs": str(runs), "deaf": True}) for _ in range(12)]
        ears.backend.submit(batch)
        ears.until(Started, *(s.id for s in batch[:4]))
        own_valkey.kill()
        late = celery_submission()
        ears.backend.submit([late])
        assert ears.until(Waiting, late.id)
        gate.touch()
        own_valkey.start()
        ends = ears.until(Ended, *(s.id for s in batch))
        assert {o.how for o in ends if isinstance(o, Ended)} == {How.SUCCEEDED}
        assert len(ends) == len(batch)


def test_what_meets_a_connection_that_died_unnoticed_is_not_in_doubt(
    own_valkey: ValkeyServer, backends: Callable[..., CeleryBackend]
) -> None:
    """It is let go, so that it takes no slot while the broker is away."""
    ears = Ears(backends(celery_app(own_valkey.url_of(1), own_valkey.url_of(1))))
    first = celery_submission(queue="unserved")
    ears.backend.submit([first])
    ears.until(Accepted, first.id)
    own_valkey.kill()
    batch = [celery_submission(queue="unserved") for _ in range(5)]
    ears.backend.submit(batch)
    waits = ears.until(Waiting, *(s.id for s in batch))
    assert {o.retry_after_s for o in waits if isinstance(o, Waiting)} == {CONFIG.publish_retry_s}


def test_a_killed_postgres_result_store_loses_no_answer(
    own_postgres: PostgresServer, valkey_url: str, tmp_path: Path, backends: Callable[..., CeleryBackend]
) -> None:
    store = "db+" + own_postgres.dsn.replace("postgresql://", "postgresql+psycopg2://", 1)
    gate = tmp_path / "gate"
    with light_worker(valkey_url, store, tmp_path):
        ears = Ears(backends(celery_app(valkey_url, store)))
        running, failing = (
            celery_submission({"gate": str(gate), "deaf": True}),
            celery_submission({"fails": "on purpose"}),
        )
        ears.backend.submit([running, failing])
        (started,) = ears.until(Started, running.id)
        assert isinstance(started, Started)
        assert started.where.startswith("light-")
        (failed,) = ears.until(Ended, failing.id)
        assert isinstance(failed, Ended)
        assert failed.diagnosis is not None
        assert failed.diagnosis.reason is Reason.ERROR
        assert failed.diagnosis.message == "ValueError: on purpose"
        own_postgres.kill()
        own_postgres.start()
        gate.touch()
        (end,) = ears.until(Ended, running.id)
        assert end == Ended(running.id, How.SUCCEEDED)


def test_a_message_in_doubt_is_found_and_not_sent_twice(valkey_url: str) -> None:
    """AF#58570 and its like: the scheduler does not know whether the broker took the message."""
    app = celery_app(valkey_url, valkey_url)
    seen: list[Observation] = []
    observer = Observer(app, CONFIG, seen.append)
    taken, lost = celery_submission(), celery_submission()
    with app.connection_for_write() as connection:
        app.tasks["execute_workload"].apply_async(
            (taken.payload,), queue="default", task_id=celery_task_id(taken.id), connection=connection
        )
    observer.start()
    try:
        for submission in (taken, lost):
            observer.tell(LookUp(submission.id, Why.DOUBT, "default"))
        until(lambda: {taken.id, lost.id} <= {one.submission for one in seen}, lambda: seen)
    finally:
        observer.stop(2.0)
    assert Accepted(taken.id, celery_task_id(taken.id)) in seen
    (again,) = [o for o in seen if o.submission == lost.id]
    assert isinstance(again, Waiting)
    assert again.retry_after_s == CONFIG.publish_retry_s


def test_a_broker_that_hangs_while_it_takes_messages_gets_each_of_them_once(
    own_valkey: ValkeyServer, backends: Callable[..., CeleryBackend]
) -> None:
    app = celery_app(own_valkey.url_of(1), own_valkey.url_of(1))
    fast = CeleryConfig(operation_timeout_s=0.3, poll_interval_s=0.1, look_again_s=0.2, absent_after_s=0.5)
    ears = Ears(backends(app, fast))
    first = celery_submission(queue="unserved")
    ears.backend.submit([first])
    ears.until(Accepted, first.id)
    batch = {s.id: s for s in (celery_submission(queue="unserved") for _ in range(5))}
    with redis.Redis.from_url(own_valkey.url_of(1)) as client:
        # Until all of them have met it, however long a busy machine takes to send them.
        client.client_pause(60_000, all=False)
        ears.backend.submit(list(batch.values()))
        waits = ears.until(Waiting, *batch)
        assert {o.retry_after_s for o in waits if isinstance(o, Waiting)} == {None}
        client.client_unpause()

        def accepted() -> bool:
            fresh = ears.backend.poll()
            let_go = [o.submission for o in fresh if isinstance(o, Waiting) and o.retry_after_s]
            ears.backend.submit([batch[submission] for submission in let_go])
            ears.heard += fresh
            return batch.keys() <= {o.submission for o in ears.heard if isinstance(o, Accepted)}

        until(accepted, lambda: ears.heard)
        ids = [json.loads(entry)["headers"]["id"] for entry in client.lrange("unserved", 0, -1)]
    assert sorted(ids) == sorted([first.attempt.id, *(s.attempt_id for s in batch)])


def test_what_was_handed_over_is_published_before_a_stop_returns(
    valkey_url: str, backends: Callable[..., CeleryBackend]
) -> None:
    backend = backends(celery_app(valkey_url, valkey_url))
    backend.submit([celery_submission() for _ in range(300)])
    backend.stop(10.0)
    with redis.Redis.from_url(valkey_url) as client:
        assert client.llen("default") == 300


def test_a_broker_that_accepts_and_never_answers_blocks_nobody(
    tmp_path: Path, backends: Callable[..., CeleryBackend]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        config = CeleryConfig(operation_timeout_s=0.2, read_timeout_s=0.2, publish_retry_s=0.05)
        ears = Ears(backends(celery_app(url, url), config))
        submission = celery_submission()
        ears.backend.submit([submission])
        (wait,) = ears.until(Waiting, submission.id)
        assert isinstance(wait, Waiting)
        assert wait.reason is Reason.BROKER_UNAVAILABLE
        began = time.monotonic()
        ears.backend.stop(2.0)
        # It would never end by itself.
        assert time.monotonic() - began < 20.0


# --- twice -----------------------------------------------------------------------


def test_the_same_submission_published_twice_is_one_message(
    valkey_url: str, backends: Callable[..., CeleryBackend]
) -> None:
    backend = backends(celery_app(valkey_url, valkey_url))
    ears, submission = Ears(backend), celery_submission(queue="unserved")
    backend.submit([submission])
    backend.submit([submission])
    ears.until(Accepted, submission.id)
    backend.submit([submission])
    other = celery_submission(queue="unserved")
    backend.submit([other])
    ears.until(Accepted, other.id)
    with redis.Redis.from_url(valkey_url) as client:
        assert client.llen("unserved") == 2


# --- ends --------------------------------------------------------------------------


def test_a_worker_process_that_is_killed_says_that_memory_was_the_likely_cause_af61521(
    valkey_url: str, tmp_path: Path, backends: Callable[..., CeleryBackend]
) -> None:
    with light_worker(valkey_url, valkey_url, tmp_path):
        ears = Ears(backends(celery_app(valkey_url, valkey_url)))
        submission = celery_submission({"dies": True})
        ears.backend.submit([submission])
        (end,) = ears.until(Ended, submission.id)
    assert isinstance(end, Ended)
    assert end.how is How.FAILED
    assert end.diagnosis is not None
    assert end.diagnosis.reason is Reason.WORKER_LOST
    assert "signal 9" in end.diagnosis.message
    assert "OOM killer: give the worker more memory or fewer slots" in end.diagnosis.message


def test_an_error_that_quotes_the_workload_shows_no_token(
    valkey_url: str, tmp_path: Path, backends: Callable[..., CeleryBackend]
) -> None:
    with light_worker(valkey_url, valkey_url, tmp_path):
        ears = Ears(backends(celery_app(valkey_url, valkey_url)))
        submission = celery_submission({"fails": f'input_value={{"token": "{TOKEN}"'})
        ears.backend.submit([submission])
        (end,) = ears.until(Ended, submission.id)
    assert isinstance(end, Ended)
    assert end.diagnosis is not None
    assert TOKEN not in end.diagnosis.message
    assert "input_value" in end.diagnosis.message


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["silent", "gone"])
def test_a_worker_that_has_fallen_silent_is_no_loss_while_its_tasks_may_run_on(
    valkey_url: str, tmp_path: Path, backends: Callable[..., CeleryBackend], how: signal.Signals
) -> None:
    """Its main process; that of the task lives on. Only Airflow's heartbeat of the task can tell."""
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    with light_worker(valkey_url, valkey_url, tmp_path) as worker:
        ears = Ears(backends(celery_app(valkey_url, valkey_url)))
        submission = celery_submission({"gate": str(gate), "deaf": True, "runs": str(runs)})
        ears.backend.submit([submission])
        ears.until(Started, submission.id)
        os.kill(worker.pid, how)
        for _ in range(5):
            ears.heard.clear()
            ears.backend.adopt([submission.id])  # as each reconciliation asks
            ears.until(Started, submission.id)
            time.sleep(CONFIG.absent_after_s)
            ears.heard += ears.backend.poll()
            assert [o for o in ears.heard if isinstance(o, Ended)] == []
        if how is signal.SIGSTOP:
            os.kill(worker.pid, signal.SIGCONT)
            gate.touch()
            (end,) = ears.until(Ended, submission.id)
            assert end == Ended(submission.id, How.SUCCEEDED)
    assert len(runs.read_text().split()) == 1


# --- withdrawal --------------------------------------------------------------------


def test_a_withdrawn_message_leaves_its_queue_so_that_no_late_worker_runs_it(
    valkey_url: str, backends: Callable[..., CeleryBackend]
) -> None:
    ears = Ears(backends(celery_app(valkey_url, valkey_url)))
    kept, withdrawn = celery_submission(), celery_submission()
    ears.backend.submit([kept, withdrawn])
    ears.backend.cancel([withdrawn.id])
    (end,) = ears.until(Ended, withdrawn.id)
    assert isinstance(end, Ended)
    assert end.how is How.CANCELLED
    with redis.Redis.from_url(valkey_url) as client:
        (left,) = client.lrange("default", 0, -1)
    assert json.loads(left)["headers"]["id"] == kept.attempt.id


def test_a_revoked_task_that_goes_on_running_has_not_ended(
    valkey_url: str, tmp_path: Path, backends: Callable[..., CeleryBackend]
) -> None:
    """A worker stores REVOKED as soon as it hears of it; the process lives on until Airflow stops it."""
    gate = tmp_path / "gate"
    with light_worker(valkey_url, valkey_url, tmp_path):
        ears = Ears(backends(celery_app(valkey_url, valkey_url)))
        submission = celery_submission({"gate": str(gate), "deaf": True})
        ears.backend.submit([submission])
        ears.until(Started, submission.id)
        ears.backend.cancel([submission.id])
        with redis.Redis.from_url(valkey_url) as client:
            key = f"celery-task-meta-{celery_task_id(submission.id)}"
            until(lambda: b"REVOKED" in (client.get(key) or b""), lambda: "no REVOKED")
        time.sleep(CONFIG.absent_after_s + 5 * CONFIG.look_again_s)  # long enough for a wrong answer
        assert [o for o in ears.backend.poll() if isinstance(o, Ended)] == []
        gate.touch()
        (end,) = ears.until(Ended, submission.id)
    assert isinstance(end, Ended)
    assert end.how is How.CANCELLED


# --- look-ups in the queues --------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "team-"])
def test_a_look_up_finds_messages_of_every_queue_and_says_how_many_go_before(
    valkey_url: str, prefix: str, backends: Callable[..., CeleryBackend]
) -> None:
    app = celery_app(valkey_url, valkey_url, broker_transport_options={"global_keyprefix": prefix})
    batch = [celery_submission(queue=name) for name in ("a", "b", "b", "b")]
    sender = Ears(backends(app))
    sender.backend.submit(batch)
    sender.until(Accepted, *(s.id for s in batch))
    reader = QueueReader(app, CeleryConfig(queue_chunk=2))
    places = reader.find({celery_task_id(s.id): None for s in batch} | {str(uuid.uuid4()): None})
    reader.close()
    found = [places[celery_task_id(s.id)] for s in batch]
    assert [(p.queue, p.ahead, p.total) for p in found if isinstance(p, Queued)] == [
        ("a", 0, 1),
        ("b", 0, 3),
        ("b", 1, 3),
        ("b", 2, 3),
    ]
    assert len(places) == 4


def test_what_a_worker_holds_is_found_although_it_has_not_started(valkey_url: str) -> None:
    app = celery_app(valkey_url, valkey_url)
    task_id = str(uuid.uuid4())
    app.tasks["execute_workload"].apply_async(("{}",), queue="default", task_id=task_id)
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get("default")
        assert message is not None
        reader = QueueReader(app, CONFIG)
        assert reader.find({task_id: "default"}) == {task_id: Held()}
        reader.close()


def test_a_queue_longer_than_is_read_is_taken_to_hold_the_rest(valkey_url: str) -> None:
    app = celery_app(valkey_url, valkey_url)
    ids = [str(uuid.uuid4()) for _ in range(12)]
    for task_id in ids:
        app.tasks["execute_workload"].apply_async(("{}",), queue="default", task_id=task_id)
    reader = QueueReader(app, CeleryConfig(queue_limit=5, queue_chunk=2))
    places = reader.find(dict.fromkeys(ids, "default"))
    reader.close()
    kinds = [type(places[task_id]) for task_id in ids]
    assert kinds == [Queued] * 5 + [Behind] * 7


def test_a_look_up_never_loses_a_message_that_moves_meanwhile(
    valkey_url: str, backends: Callable[..., CeleryBackend]
) -> None:
    """A worker takes messages while the queue is read: none of them is called absent."""
    app = celery_app(valkey_url, valkey_url)
    ears = Ears(backends(app))
    batch = [celery_submission() for _ in range(60)]
    ears.backend.submit(batch)
    ears.until(Accepted, *(s.id for s in batch))
    stop = threading.Event()

    def take_and_give_back() -> None:
        with app.connection_for_read() as connection:
            channel = connection.default_channel
            while not stop.is_set():
                if message := channel.basic_get("default"):
                    message.requeue() if message.delivery_tag[-1] in "02468ace" else None

    taker = threading.Thread(target=take_and_give_back)
    taker.start()
    # The taker may stand still with a message in its hand, which is nowhere to be seen then.
    adopter = Ears(backends(app, replace(CONFIG, absent_after_s=10.0)))
    adopter.backend.adopt([s.id for s in batch])
    until(lambda: _all_heard(adopter, len(batch)), lambda: adopter.heard)
    stop.set()
    taker.join()
    assert [o for o in adopter.heard if isinstance(o, Ended | Rejected)] == []


def _all_heard(ears: Ears, number: int) -> bool:
    ears.heard += ears.backend.poll()
    return len({o.submission for o in ears.heard}) == number
