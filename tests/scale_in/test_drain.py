"""Workers run dry before they are ended: real Celery workers, told as a preStop hook tells them."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from hybrid_executor.backends.celery.app import TASK_NAME
from hybrid_executor.worker.drain import SETTLE_S
from tests.fixtures.celery import celery_app, light_worker
from tests.fixtures.kube import until

OURS: dict[str, Any] = {"imports": ["hybrid_executor.worker.draining"]}
PATIENCE_S = 40.0
#: For a worker's answer; who is late is asked again.
ANSWER_S = 2.0


@pytest.fixture(autouse=True)
def container(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files that is this worker's alone, and short: a socket's path has 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="hx"))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


class Queue:
    """Where messages wait, and what became of the tasks."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._app = celery_app(url, url)

    def publish(self, **order: Any) -> None:
        order |= {"deaf": True, "runs": str(self._folder / "runs")}
        self._app.send_task(TASK_NAME, (json.dumps(order),), queue="default")

    def runs(self) -> int:
        path = self._folder / "runs"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def waiting(self) -> int:
        with redis.Redis.from_url(self._url) as client:
            return int(client.llen("default"))

    def taken(self) -> int:
        """Messages that a worker holds."""
        with redis.Redis.from_url(self._url) as client:
            return int(client.hlen("unacked"))

    def is_done(self, runs: int) -> bool:
        """Whether so many tasks have run and no message is held any more: a worker lets go after the end."""
        return self.runs() == runs and not self.taken()

    def is_served(self) -> bool:
        """Whether a worker takes from it, as workers say themselves; one that says nothing may."""
        said = self._app.control.inspect(timeout=ANSWER_S).active_queues()
        return said is None or any(said.values())


def drain(timeout_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hybrid_executor.worker.drain", "--timeout", str(timeout_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(draining: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = draining.communicate(timeout=PATIENCE_S)
    return draining.returncode, said


def until_asked(draining: subprocess.Popen[str]) -> None:
    assert draining.stdout
    assert "left" in draining.stdout.readline()


@pytest.fixture
def queue(valkey_url: str, tmp_path: Path) -> Queue:
    return Queue(valkey_url, tmp_path)


def test_a_draining_worker_finishes_what_it_has_and_takes_nothing_more_af26587(
    queue: Queue, valkey_url: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with light_worker(valkey_url, valkey_url, tmp_path, **OURS) as worker:
        queue.publish(gate=str(gate))
        until(lambda: queue.runs() == 1, "it does not run", PATIENCE_S)
        draining = drain(60)
        until_asked(draining)
        # It answers before its event loop has let go of the queue.
        until(lambda: not queue.is_served(), "it goes on taking", PATIENCE_S)
        for _ in range(6):
            queue.publish()
        with pytest.raises(subprocess.TimeoutExpired):
            draining.wait(SETTLE_S + 1.0)
        gate.touch()
        assert finish(draining)[0] == 0
        until(lambda: queue.is_done(1), "a message is held", PATIENCE_S)
        assert queue.waiting() == 6
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0, "a dry worker has nothing to wait for"
    assert queue.waiting() == 6


def test_a_full_worker_has_nothing_in_store_that_it_would_begin_while_it_drains(
    queue: Queue, valkey_url: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with light_worker(valkey_url, valkey_url, tmp_path, **OURS):
        for _ in range(7):
            queue.publish(gate=str(gate))
        until(lambda: queue.runs() == 4, "it does not fill up", PATIENCE_S)
        draining = drain(60)
        until_asked(draining)
        gate.touch()
        code, said = finish(draining)
        until(lambda: not queue.taken(), "a message is held", PATIENCE_S)
    assert (code, queue.runs(), queue.waiting()) == (0, 4, 3), said


def test_a_draining_worker_takes_nothing_after_a_reconnect_either(own_valkey: Any, tmp_path: Path) -> None:
    url = own_valkey.url_of(1)
    queue = Queue(url, tmp_path)
    with light_worker(url, url, tmp_path, **OURS):
        queue.publish()
        until(lambda: queue.runs() == 1, "it does not run", PATIENCE_S)
        assert finish(drain(20))[0] == 0
        own_valkey.kill()
        own_valkey.start()
        log = tmp_path / "worker.log"
        until(lambda: log.read_text().count("Connected to redis") >= 2, "it never came back", PATIENCE_S)
        queue.publish()
        assert finish(drain(20))[0] == 0
        assert (queue.runs(), queue.waiting()) == (1, 1)


def test_a_worker_drains_while_its_broker_is_away(own_valkey: Any, tmp_path: Path) -> None:
    url = own_valkey.url_of(1)
    queue = Queue(url, tmp_path)
    with light_worker(url, url, tmp_path, **OURS):
        queue.publish()
        # A task that has run is at hand until its result is stored.
        until(lambda: queue.is_done(1), "it does not end", PATIENCE_S)
        own_valkey.kill()
        code, said = finish(drain(20))
        assert (code, "0 left" in said) == (0, True), said
        own_valkey.start()
        queue.publish()
        log = tmp_path / "worker.log"
        until(lambda: log.read_text().count("Connected to redis") >= 2, "it never came back", PATIENCE_S)
        assert finish(drain(20))[0] == 0
        assert (queue.runs(), queue.waiting()) == (1, 1)


def test_nothing_is_lost_or_run_twice_where_messages_come_while_a_worker_begins_to_drain_af13591(
    queue: Queue, valkey_url: str, tmp_path: Path
) -> None:
    total, over = 300, threading.Event()

    def publish() -> None:
        for _ in range(total):
            queue.publish()
        over.set()

    with light_worker(valkey_url, valkey_url, tmp_path, **OURS) as worker:
        publisher = threading.Thread(target=publish)
        publisher.start()
        until(lambda: queue.runs() > 10, "it does not run", PATIENCE_S)
        code, said = finish(drain(30))
        assert code == 0, said
        until(lambda: not queue.taken(), "a message is held", PATIENCE_S)
        publisher.join()
        ran = queue.runs()
        worker.send_signal(signal.SIGTERM)
        worker.wait(PATIENCE_S)
    assert ran + queue.waiting() == total
    with light_worker(valkey_url, valkey_url, tmp_path):
        # One that is on its way to the worker is in neither place.
        until(
            lambda: queue.runs() >= total and not queue.waiting() + queue.taken(),
            "the rest is not run",
            PATIENCE_S,
        )
    assert queue.runs() == total


def test_a_drain_ends_with_its_time_and_says_what_is_left(
    queue: Queue, valkey_url: str, tmp_path: Path
) -> None:
    with light_worker(valkey_url, valkey_url, tmp_path, **OURS):
        queue.publish(gate=str(tmp_path / "never"))
        until(lambda: queue.runs() == 1, "it does not run", PATIENCE_S)
        code, said = finish(drain(1.0))
    assert code == 0
    assert "has 1 left" in said


def test_a_worker_without_our_module_is_named_in_the_hooks_failure(
    queue: Queue, valkey_url: str, tmp_path: Path
) -> None:
    with light_worker(valkey_url, valkey_url, tmp_path):
        queue.publish()
        until(lambda: queue.runs() == 1, "it does not run", PATIENCE_S)
        code, said = finish(drain(5.0))
    assert code == 1
    assert "hybrid_executor.worker.draining" in said
