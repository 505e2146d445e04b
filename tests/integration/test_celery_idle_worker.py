"""Workers that are connected and take nothing: found, told to reconnect, reported; and nobody else is."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from hybrid_executor.backends.celery.backend import CeleryBackend
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.workers import Look, Worker, WorkerWatch, idle
from hybrid_executor.meter import IDLE_WORKERS, MISMATCHES, Meter
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Accepted, Ended, Observation, Started
from tests.fixtures.celery import celery_app, celery_submission, light_worker

CONFIG = CeleryConfig(poll_interval_s=0.2, workers_interval_s=0.5)
PATIENCE_S = 40.0


class Scene:
    """A backend, what it said, and what it measures."""

    def __init__(self, url: str) -> None:
        self.meter = Meter()
        self.backend = CeleryBackend(CONFIG, lambda: celery_app(url, url), self.meter)
        self.backend.start()
        self.heard: list[Observation] = []

    def until(self, kind: type[Observation], submission: SubmissionId) -> None:
        def done() -> bool:
            self.heard += self.backend.poll()
            return any(isinstance(o, kind) and o.submission == submission for o in self.heard)

        until(done, f"{kind.__name__} was not heard of: {self.heard}")

    def idle(self) -> float:
        return self.meter.drain().gauges[IDLE_WORKERS, ()]


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def scene(valkey_url: str) -> Iterator[Scene]:
    made = Scene(valkey_url)
    yield made
    made.backend.stop(3.0)


def make_deaf(folder: Path, url: str) -> None:
    """The worker in this folder takes nothing from now on, and knows nothing of it."""
    (folder / "deaf").touch()
    with redis.Redis.from_url(url) as client:
        until(lambda: not any("b" in c["flags"] for c in client.client_list()), "the worker goes on taking")


def run_one(scene: Scene) -> None:
    first = celery_submission()
    scene.backend.submit([first])
    scene.until(Ended, first.id)


def test_an_idle_worker_with_our_package_is_told_to_reconnect_and_takes_again_celery8030(
    scene: Scene, valkey_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = {"imports": ["hybrid_executor.worker.reconnect"]}
    with light_worker(valkey_url, valkey_url, tmp_path, **ours):
        run_one(scene)
        make_deaf(tmp_path, valkey_url)
        waiting = celery_submission()
        scene.backend.submit([waiting])
        scene.until(Ended, waiting.id)
        until(lambda: scene.idle() == 0.0, "still called idle")
    assert [r.getMessage() for r in caplog.records if "told to reconnect" in r.getMessage()]
    assert not [r for r in caplog.records if "restart it" in r.getMessage()]


def test_an_idle_worker_without_our_package_is_reported_celery8030(
    scene: Scene, valkey_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with light_worker(valkey_url, valkey_url, tmp_path):
        run_one(scene)
        make_deaf(tmp_path, valkey_url)
        waiting = celery_submission()
        scene.backend.submit([waiting])
        until(lambda: any("restart it" in r.getMessage() for r in caplog.records), "not reported")
        drained = scene.meter.drain()
        assert drained.gauges[IDLE_WORKERS, ()] == 1.0
        assert drained.counts[MISMATCHES, ("celery", "WorkerIdle")] == 1
        watch = WorkerWatch(celery_app(valkey_url, valkey_url), CONFIG, tuple, Meter())
        ((name, queues),) = watch.find(0.5).items()  # as the doctor asks
        assert (name.startswith("light-"), queues) == (True, {"default"})
        time.sleep(4 * CONFIG.workers_interval_s)  # it is not reported at each look
    assert len([r for r in caplog.records if "restart it" in r.getMessage()]) == 1
    assert any("it knows no command" in r.getMessage() for r in caplog.records)
    assert all(r.levelno < logging.ERROR or "restart it" in r.getMessage() for r in caplog.records)


def test_a_worker_that_reconnects_keeps_all_its_queues(
    own_valkey: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``cancel_consumer`` with ``add_consumer`` would lose the queue at the next reconnect."""
    url = own_valkey.url_of(1)
    scene = Scene(url)
    ours = {"imports": ["hybrid_executor.worker.reconnect"]}
    with light_worker(url, url, tmp_path, **ours):
        run_one(scene)
        make_deaf(tmp_path, url)
        run_one(scene)
        own_valkey.kill()
        own_valkey.start()
        run_one(scene)
    scene.backend.stop(3.0)


def test_whoever_asks_once_gets_no_answer_where_nothing_waits_or_something_is_taken(
    valkey_url: str, tmp_path: Path
) -> None:
    watch = WorkerWatch(celery_app(valkey_url, valkey_url), CONFIG, tuple, Meter())
    assert watch.find(0.1) == {}
    scene = Scene(valkey_url)
    with light_worker(valkey_url, valkey_url, tmp_path):
        run_one(scene)
        scene.backend.submit([celery_submission(queue="unserved")])
        assert watch.find(0.1) == {}
    scene.backend.stop(3.0)


def test_a_busy_worker_is_not_idle_however_long_a_queue_stands_still(
    scene: Scene, valkey_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = tmp_path / "gate"
    with light_worker(valkey_url, valkey_url, tmp_path, worker_concurrency=1):
        # As many as the worker holds, and one more that has to wait.
        blocked = [celery_submission({"gate": str(gate), "deaf": True}) for _ in range(9)]
        scene.backend.submit(blocked)
        scene.until(Started, blocked[0].id)
        scene.until(Accepted, blocked[-1].id)
        time.sleep(5 * CONFIG.workers_interval_s)
        assert scene.idle() == 0.0
        gate.touch()
    assert not [r for r in caplog.records if "takes nothing" in r.getMessage()]


# --- who is idle: pure ---------------------------------------------------------------

ONE = Worker(frozenset({"default"}), at_hand=0, begun=7)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        pytest.param(ONE, Worker(frozenset({"default"}), 0, 8), id="it began a task in between"),
        pytest.param(ONE, Worker(frozenset({"default"}), 1, 7), id="it has something at hand"),
        pytest.param(Worker(frozenset({"default"}), 1, 7), ONE, id="it had something at hand"),
        pytest.param(Worker(frozenset({"gpu"}), 0, 7), Worker(frozenset({"gpu"}), 0, 7), id="another queue"),
        pytest.param(None, ONE, id="it did not answer before"),
        pytest.param(ONE, None, id="it does not answer now"),
    ],
)
def test_no_worker_is_idle_for_which_there_is_another_reason(
    before: Worker | None, now: Worker | None
) -> None:
    looks = [Look({"default": b"same"}, {"w": one} if one else {}) for one in (before, now)]
    assert idle(*looks) == {}


def test_a_queue_that_moves_on_makes_nobody_idle() -> None:
    assert idle(Look({"default": b"one"}, {"w": ONE}), Look({"default": b"two"}, {"w": ONE})) == {}
    assert idle(Look({"default": b"one"}, {"w": ONE}), Look({"default": b"one"}, {"w": ONE})) == {
        "w": frozenset({"default"})
    }
