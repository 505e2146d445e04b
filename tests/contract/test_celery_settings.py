"""The settings of our module are those that a real ``airflow celery worker`` runs with, and they act."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, states
from kombu.exceptions import OperationalError

from hybrid_executor.backends.celery.app import TASK_NAME
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from hybrid_executor.worker.celery_settings import IMPORTS, UNREAD_S, own_settings
from tests.fixtures.celery import celery_app, light_worker

#: What a worker may need for its start on a busy machine.
PATIENCE_S = 120.0
CONCURRENCY = 3
LONGEST_S = 7200
EXTRA = {"worker_max_tasks_per_child": 50, "imports": ["json.tool"]}


def until(look: Callable[[], Any], what: Callable[[], object]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)
    return seen


@dataclass(frozen=True)
class Worker:
    """A worker as our image starts it, and the app that asks it."""

    app: Celery
    events: list[str]
    log: Path

    def asked(self, question: str) -> Any:
        """The answer of the one worker to an inspection."""
        return until(
            lambda: next(
                iter((getattr(self.app.control.inspect(timeout=10, limit=1), question)() or {}).values()),
                None,
            ),
            self.log.read_text,
        )


@pytest.fixture(scope="module")
def worker(valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder, url = tmp_path_factory.mktemp("worker"), valkey.url_of(0)
    settings = {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CELERY__CELERY_CONFIG_OPTIONS": "hybrid_executor.worker.celery_settings.CELERY_CONFIG",
        "AIRFLOW__CELERY__BROKER_URL": url,
        "AIRFLOW__CELERY__RESULT_BACKEND": url,
        "AIRFLOW__HYBRID_EXECUTOR__LONGEST_TASK_S": str(LONGEST_S),
        "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": json.dumps(EXTRA),
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    arguments = ["-q", "default", "-c", str(CONCURRENCY), "--celery-hostname", "celery@pod-1"]
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "celery", "worker", "--skip-serve-logs", *arguments],
            env=environment | settings,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Worker(celery_app(url, url), heard(url, log), log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with redis.Redis.from_url(url) as client:
            client.flushdb()


def heard(url: str, log: Path) -> list[str]:
    """The kinds of event that a worker sends until its first heartbeat."""
    app, kinds = celery_app(url, url), []

    def note(event: dict[str, Any]) -> None:
        kinds.append(event["type"])
        receiver.should_stop = event["type"] == "worker-heartbeat"

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        receiver.capture(limit=None, timeout=PATIENCE_S, wakeup=True)
    assert kinds, log.read_text()
    return kinds


def test_a_worker_runs_with_every_setting_of_the_module(worker: Worker) -> None:
    conf = worker.asked("conf")
    expected = own_settings(LONGEST_S) | {
        "task_acks_late": True,
        "worker_prefetch_multiplier": 1,
        "task_track_started": True,
        "worker_enable_remote_control": True,
        "imports": [*IMPORTS, "json.tool"],
        "worker_max_tasks_per_child": 50,
    }
    assert {name: conf.get(name) for name in expected} == expected
    assert conf["broker_transport_options"]["visibility_timeout"] == LONGEST_S
    assert conf["result_expires"] == LONGEST_S + UNREAD_S


def test_it_holds_no_more_messages_than_it_can_run(worker: Worker) -> None:
    assert worker.asked("stats")["prefetch_count"] == CONCURRENCY


def test_it_knows_our_control_commands_and_bears_the_name_of_its_pod(worker: Worker) -> None:
    [answer] = worker.app.control.broadcast("hybrid_reconnect", reply=True, timeout=10, limit=1)
    assert answer == {"celery@pod-1": {"ok": "reconnecting"}}


def test_flower_hears_of_it(worker: Worker) -> None:
    assert "worker-heartbeat" in worker.events


# --- the settings act: on a worker without Airflow, which starts in a second ------------


class Own:
    """A worker, and a broker of its own that may be ended."""

    def __init__(self, server: ValkeyServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.url = server.url_of(0)
        # Whoever sends with a result store subscribes to it, and waits for it while it is away.
        self.app = celery_app(self.url, "disabled://")

    def send(self, **order: Any) -> str:
        """Send an order to the worker as soon as the broker takes it."""
        return str(until(lambda: self._sent(order), self.log))

    def _sent(self, order: dict[str, Any]) -> str | None:
        try:
            return self.app.send_task(TASK_NAME, [json.dumps(order)], queue="default", retry=False).id
        except (OperationalError, redis.RedisError):
            return None

    def wait(self, task_id: str, state: str) -> None:
        """Until that is what is stored of the task."""
        with redis.Redis.from_url(self.url) as client:
            until(lambda: json.loads(client.get(key(task_id)) or "{}").get("status") == state, self.log)

    def wait_reconnecting(self) -> None:
        def reconnecting() -> bool:
            log = (self.folder / "worker.log").read_text()
            assert "Unrecoverable error" not in log, log[-5000:]
            return "Trying to re-establish" in log

        until(reconnecting, self.log)

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()[-5000:]

    def blocked(self) -> tuple[str, Path]:
        """A task that runs until there is a file."""
        gate = self.folder / "gate"
        task_id = self.send(gate=str(gate), deaf=True)
        self.wait(task_id, states.STARTED)
        return task_id, gate


def key(task_id: str) -> str:
    return f"celery-task-meta-{task_id}"


@pytest.fixture
def own(own_valkey: ValkeyServer, tmp_path: Path) -> Iterator[Own]:
    scene = Own(own_valkey, tmp_path)
    with light_worker(scene.url, scene.url, tmp_path, **own_settings(LONGEST_S)):
        yield scene


def test_a_worker_outlives_a_redis_that_has_become_a_replica(own: Own) -> None:
    """As at a fail-over: the connection stays good, and every command is refused."""
    task_id, gate = own.blocked()
    with redis.Redis.from_url(own.url) as client:
        client.replicaof("127.0.0.1", "1")
        own.wait_reconnecting()
        client.replicaof("NO", "ONE")
    gate.touch()
    own.wait(task_id, states.SUCCESS)
    own.wait(own.send(), states.SUCCESS)


def test_a_task_that_ends_while_the_result_store_is_away_is_stored_as_what_it_was(own: Own) -> None:
    task_id, gate = own.blocked()
    own.server.kill()
    gate.touch()
    own.wait_reconnecting()
    own.server.start()
    own.wait(task_id, states.SUCCESS)


def test_a_process_that_was_killed_is_told_as_such_and_its_message_does_not_return(own: Own) -> None:
    marker = own.folder / "runs"
    killed = own.send(runs=str(marker), dies=True)
    own.wait(killed, states.FAILURE)
    own.wait(own.send(), states.SUCCESS)
    assert len(marker.read_text().splitlines()) == 1
    with redis.Redis.from_url(own.url) as client:
        until(lambda: not client.hlen("unacked"), own.log)
        kept_s = client.ttl(key(killed))
    assert LONGEST_S + UNREAD_S - PATIENCE_S < kept_s <= LONGEST_S + UNREAD_S
