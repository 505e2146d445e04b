"""Measures how soon a stored result is known, and what following costs, with pushes and without, in one run.

    python -m pytest -s tests/integration/measure_results.py

``IN_FLIGHT`` (5,000) attempts are followed on a Valkey of their own. Turns
alternate, A B A B: first ``ROUNDS`` results are stored one by one, and the time
is taken from the store to the observation; then nothing happens for ``IDLE_S``,
and the processor time of the observing thread is taken. Prints medians.
Asserts only that every result was heard.
"""

import os
import random
import statistics
import threading
import time
from typing import Any

import pytest

from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.observer import Follow, Observer
from hybrid_executor.model.observation import Observation
from hybrid_executor.naming import celery_task_id
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.fixtures.celery import celery_app, celery_submission

pytestmark = pytest.mark.timeout(900)

IN_FLIGHT = int(os.environ.get("IN_FLIGHT") or 5000)
ROUNDS = int(os.environ.get("ROUNDS") or 15)
TURNS = int(os.environ.get("TURNS") or 2)
IDLE_S = 10.0


class Reading(Observer):
    """An observer to whom nothing is pushed."""

    def __init__(self, app: Any, say: Any) -> None:
        super().__init__(app, CeleryConfig(), say)
        self._results.pubsub = lambda: None  # type: ignore[method-assign]


def processor_s(thread: threading.Thread) -> float:
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))


def turn(url: str, *, pushed: bool) -> tuple[list[float], float]:
    """Delays of results in seconds; the share of a processor that following took while nothing happened."""
    heard: dict[object, float] = {}
    news = threading.Event()

    def say(seen: Observation) -> None:
        heard[seen.submission] = time.monotonic()
        news.set()

    app = celery_app("memory://", url)
    observer = Observer(app, CeleryConfig(), say) if pushed else Reading(app, say)
    observer.start()
    ids = [celery_submission().id for _ in range(IN_FLIGHT)]
    for one in ids:
        observer.tell(Follow(one, "default"))
    time.sleep(3.0)
    delays = []
    for one in ids[:ROUNDS]:
        time.sleep(random.random())
        news.clear()
        stored = time.monotonic()
        app.backend.store_result(celery_task_id(one), None, "SUCCESS")
        assert news.wait(30.0)
        delays.append(heard[one] - stored)
    thread = observer._thread
    before = processor_s(thread)
    time.sleep(IDLE_S)
    share = (processor_s(thread) - before) / IDLE_S
    observer.stop(2.0)
    return delays, share


def test_how_soon_and_at_what_cost(own_valkey: ValkeyServer, capsys: pytest.CaptureFixture[str]) -> None:
    delays: dict[bool, list[float]] = {True: [], False: []}
    shares: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(TURNS):
        for pushed in (True, False):
            took, share = turn(own_valkey.url_of(1), pushed=pushed)
            delays[pushed] += took
            shares[pushed].append(share)
    with capsys.disabled():
        for pushed, name in ((True, "pushed"), (False, "read")):
            delay, share = statistics.median(delays[pushed]), statistics.median(shares[pushed])
            slowest = max(delays[pushed])
            print(f"\n{name:7} median {delay * 1000:7.1f} ms, slowest {slowest * 1000:7.1f} ms,", end=" ")
            print(f"{share * 100:5.2f} % of a processor with {IN_FLIGHT} in flight and nothing happening")
