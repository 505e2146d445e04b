"""What a step of the controller asks and hands over, counted: the same for 1 attempt, 100 and 5,000.

What a call then costs is counted where it is made: statements by
``tests/contract/test_ledger.py``, Redis commands by
``tests/contract/test_celery_message.py`` and ``tests/integration/test_ledger_live.py``.
"""

import logging
from collections.abc import Callable
from itertools import cycle, islice
from typing import NamedTuple

import psutil
import pytest

from hybrid_executor.controller import Controller
from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.ledger.memory import MemoryLedger
from hybrid_executor.lifecycle import Policy
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.observation import How
from tests.fixtures.airflow_double import FakeTasks, Heard, ManualClock, Row, make_flight
from tests.fixtures.collector import threads
from tests.fixtures.rig import MemoryBackend, MemoryWorld, Told


class Counts(NamedTuple):
    """Calls of one step."""

    queries: int
    writes: int
    told: int
    batches: int


class Counting(MemoryBackend):
    """Counts what it is handed."""

    batches = 0

    def submit(self, batch):
        self.batches += 1
        super().submit(batch)


class Scene:
    """A controller over both backends with so many attempts, every other one for each."""

    def __init__(self, count: int) -> None:
        self.clock, self.tasks, self.ledger = ManualClock(), FakeTasks(), MemoryLedger()
        self.live = Told(self.ledger)
        self.worlds = {name: MemoryWorld() for name in BackendName}
        self.backends = {name: Counting(world, name=name) for name, world in self.worlds.items()}
        for backend in self.backends.values():
            backend.start()
        self.controller = Controller(
            backends=self.backends,
            ledger=self.ledger,
            tasks=self.tasks,
            listener=Heard(),
            inflight=Inflight(parallelism=100_000, limits={}, held_limit=100_000),
            policy=Policy(),
            clock=self.clock,
            owner="1",
            token_life_s=1000.0,
            reconcile_interval_s=1e9,
            refresh_s=1e9,
            live=self.live,
        )
        self.controller.step()
        self.flights = [
            make_flight(backend=name, task_id=f"task-{number}")
            for number, name in enumerate(islice(cycle(BackendName), count))
        ]

    def queue(self) -> None:
        """As the scheduler's transaction does it: the rows are there before the release."""
        self.ledger.insert(None, [self.controller.row_of(flight) for flight in self.flights])
        for flight in self.flights:
            assert flight.attempt.address
            row = Row(flight.attempt.address, "queued", flight.attempt.id, "1")
            self.tasks.rows[flight.attempt.address] = row
            flight.recorded = True
            self.controller.release(flight)

    def start(self) -> None:
        for flight in self.flights:
            assert self.tasks.run(flight.attempt)
            self.worlds[flight.backend].start(flight.id)

    def end(self) -> None:
        for flight in self.flights:
            self._row(flight).state = "success"
            self.worlds[flight.backend].end(flight.id, How.SUCCEEDED)

    def _row(self, flight: Flight) -> Row:
        assert flight.attempt.address
        return self.tasks.rows[flight.attempt.address]

    def step(self, happens: Callable[[], None] = lambda: None) -> Counts:
        """What the step after it cost."""
        happens()
        before = self._counts()
        self.controller.step()
        return Counts(*(now - then for now, then in zip(self._counts(), before, strict=True)))

    def _counts(self) -> Counts:
        return Counts(
            queries=self.tasks.queries,
            writes=self.ledger.writes,
            told=len(self.live.calls),
            batches=sum(backend.batches for backend in self.backends.values()),
        )


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The test runner keeps every line, which takes it longer than the steps."""
    caplog.set_level(logging.WARNING, "hybrid_executor")


@pytest.mark.parametrize("count", [1, 100, 5000])
def test_a_step_costs_as_many_calls_for_five_thousand_changes_as_for_one(count: int) -> None:
    scene = Scene(count)
    sent = scene.step(scene.queue)
    assert sent == Counts(queries=0, writes=0, told=1, batches=min(count, 2)), "rows came with the commit"
    assert scene.step() == Counts(queries=0, writes=1, told=1, batches=0), "accepted"
    assert scene.step(scene.start) == Counts(queries=0, writes=1, told=1, batches=0)
    assert scene.step(scene.end) == Counts(queries=1, writes=1, told=1, batches=0)
    assert not len(scene.controller.inflight)


@pytest.mark.parametrize("count", [1, 100, 5000])
def test_a_step_without_a_change_asks_nothing_however_many_are_in_flight(count: int) -> None:
    scene = Scene(count)
    scene.step(scene.queue)
    scene.step()
    scene.step(scene.start)
    # Servers that other tests share may be children of this process, and have children that come and go.
    before, children = threads(), psutil.Process().children()
    assert [scene.step() for _ in range(5)] == [Counts(0, 0, 0, 0)] * 5
    assert len(scene.controller.inflight) == count
    assert (threads(), psutil.Process().children()) == (before, children)
