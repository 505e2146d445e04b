"""Workers that are connected and take nothing: found, told to reconnect, reported; and nobody else is."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from hybrid_executor.backends.celery import workers
from hybrid_executor.backends.celery.backend import CeleryBackend
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.workers import Look, Worker, WorkerWatch, idle
from hybrid_executor.meter import IDLE_WORKERS, MISMATCHES, Drained, Meter, Metric
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Accepted, Ended, Observation, Started
from tests.fixtures.celery import celery_app, celery_submission, light_worker

CONFIG = CeleryConfig(poll_interval_s=0.2, workers_interval_s=0.5)
#: What a worker may need for its start on a busy machine.
PATIENCE_S = 90.0


class Scene:
    """A backend, what it said, and what it measures."""

    def __init__(self, url: str) -> None:
        self.meter = Meter()
        self.backend = CeleryBackend(CONFIG, lambda: celery_app(url, url), self.meter)
        self.backend.start()
        self.heard: list[Observation] = []
        self._counts: Counter[Any] = Counter()

    def until(self, kind: type[Observation], submission: SubmissionId) -> None:
        def done() -> bool:
            self.heard += self.backend.poll()
            return any(isinstance(o, kind) and o.submission == submission for o in self.heard)

        until(done, f"{kind.__name__} was not heard of: {self.heard}")

    def idle(self) -> float:
        return self._drained().gauges[IDLE_WORKERS, ()]

    def counted(self, metric: Metric, *tags: str) -> int:
        """Since the beginning."""
        self._drained()
        return self._counts[metric, tags]

    def _drained(self) -> Drained:
        drained = self.meter.drain()
        self._counts.update(drained.counts)
        return drained


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
    told = folder / "deaf"
    told.touch()
    # Between two of its questions to the broker a worker that hears well waits for none.
    until(lambda: not told.exists(), "the worker goes on listening")
    with redis.Redis.from_url(url) as client:
        until(lambda: not any("b" in c["flags"] for c in client.client_list()), "the worker goes on taking")


def lines(caplog: pytest.LogCaptureFixture, words: str) -> int:
    """How many lines of the log have these words."""
    return sum(words in record.getMessage() for record in caplog.records)


def run_one(scene: Scene) -> None:
    first = celery_submission()
    scene.backend.submit([first])
    scene.until(Ended, first.id)


def test_an_idle_worker_with_our_package_is_told_to_reconnect_and_takes_again_celery8030(
    scene: Scene,
    valkey_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A worker of a busy machine answers late, and reconnects late.
    monkeypatch.setattr(workers, "ANSWER_S", 4.0)
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
    caplog.set_level(logging.INFO, workers.__name__)
    with light_worker(valkey_url, valkey_url, tmp_path):
        run_one(scene)
        make_deaf(tmp_path, valkey_url)
        waiting = celery_submission()
        scene.backend.submit([waiting])
        until(lambda: lines(caplog, "restart it") > 0, "not reported")
        until(lambda: scene.idle() == 1.0, "not shown")
        found: list[tuple[str, Any]] = []

        def doctor_finds() -> bool:
            """Unless the worker answers too late, which it may on a busy machine."""
            watch = WorkerWatch(celery_app(valkey_url, valkey_url), CONFIG, tuple, Meter())
            found[:] = watch.find(0.5).items()
            return bool(found)

        until(doctor_finds, "not found")
        ((name, queues),) = found
        assert (name.startswith("light-"), queues) == (True, {"default"})
        time.sleep(4 * CONFIG.workers_interval_s)  # it is not reported at each look
    scene.backend.stop(10.0)
    # One that answered too late is taken for busy, and reported again when it is found again.
    times = 1 + lines(caplog, "is no longer idle")
    assert scene.counted(MISMATCHES, "celery", "WorkerIdle") == lines(caplog, "and takes nothing")
    assert 1 <= lines(caplog, "restart it") <= lines(caplog, "and takes nothing") <= times
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
