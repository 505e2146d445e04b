"""Measures what the ledger costs a heartbeat in which 1,000 attempts change, with and without it in one run.

    python -m pytest -s tests/integration/measure_ledger.py

The controller is the real one, its backend is in memory, the ledger is in a
PostgreSQL server as the stack runs it, behind a history of 100,000 rows. In
each round 1,000 attempts are sent, accepted, start and end, a step for each,
once with the ledger and once with one that does nothing, in turn. Prints the
medians of both, and asserts the promise: at most ``LIMIT_MS`` per changed
attempt. What counts is the processor time of this process and of the server's
that serves it, one of which always waits for the other: on a machine that does
nothing else that is the time on the wall, but for the disk, and it is the same
on one that is busy.
"""

import logging
import os
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text

from hybrid_executor.backends.memory import MemoryBackend, MemoryWorld
from hybrid_executor.controller import Controller
from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.ledger.memory import MemoryLedger
from hybrid_executor.ledger.tables import metadata
from hybrid_executor.lifecycle import Policy
from hybrid_executor.model.attempt import BackendName, TaskAddress
from hybrid_executor.model.observation import How
from hybrid_executor.model.record import Change, SubmissionRecord
from tests.fixtures.airflow_double import FakeTasks, Heard, ManualClock, Row, make_flight
from tests.fixtures.servers import SharedPostgres

pytestmark = pytest.mark.timeout(900)

ATTEMPTS = int(os.environ.get("ATTEMPTS") or 1000)
ROUNDS = int(os.environ.get("ROUNDS") or 15)
LIMIT_MS = 0.15
HISTORY = """
INSERT INTO hybrid_submission
    (attempt_id, submission, kind, workload_id, dag_id, task_id, run_id, map_index, try_number,
     queue, backend, rule, scheduler_job, queued_at, ended_at)
SELECT md5(g::text)::uuid::text, 1, 'task', md5('w' || g)::uuid::text, 'dag' || g % 100, 'task' || g % 20,
       'run' || g / 2000, -1, 1, 'default', 'celery', 'default', '1',
       now() - g * interval '1 second', now() - (g - 1) * interval '1 second'
FROM generate_series(1, 100000) AS g
"""


class NoLedger(MemoryLedger):
    """Takes everything and keeps nothing."""

    def insert(self, connection: Any, records: Sequence[SubmissionRecord]) -> None: ...

    def record(self, new: Sequence[SubmissionRecord], changes: Sequence[Change]) -> None: ...

    def find(self, attempt_ids: Collection[str]) -> Mapping[str, SubmissionRecord]:
        return {}

    def restarts(self, addresses: Collection[TaskAddress]) -> Mapping[TaskAddress, int]:
        return dict.fromkeys(addresses, 0)


@pytest.fixture
def engine(postgres: SharedPostgres) -> Iterator[Engine]:
    with postgres.fresh_database() as dsn:
        engine = create_engine(dsn, pool_size=1, max_overflow=0)
        metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(text(HISTORY))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE hybrid_submission"))
        yield engine
        engine.dispose()


class Took(NamedTuple):
    """Seconds."""

    wall: float
    processor: float


class Turn:
    """One controller, and 1,000 attempts that it has been given."""

    def __init__(self, ledger: Any, engine: Engine) -> None:
        self.world, self.tasks = MemoryWorld(), FakeTasks()
        backend = MemoryBackend(self.world)
        backend.start()
        self.controller = Controller(
            backends={BackendName.CELERY: backend},
            ledger=ledger,
            tasks=self.tasks,
            listener=Heard(),
            inflight=Inflight(parallelism=10 * ATTEMPTS, limits={}, held_limit=100),
            policy=Policy(),
            clock=ManualClock(),
            owner="1",
            token_life_s=1000.0,
            reconcile_interval_s=1e9,
            refresh_s=1e9,
        )
        self.controller.step()
        self.flights = [make_flight() for _ in range(ATTEMPTS)]
        self._ledger = ledger
        self._engine = engine
        self._watch = Watch(engine)

    def queue(self) -> Took:
        """The scheduler's transaction, and what the rows take in it."""
        records = [self.controller._journal.row_of(flight) for flight in self.flights]
        with self._engine.begin() as connection:
            took = self._watch.time(lambda: self._insert(connection, records))
        for flight in self.flights:
            address = flight.attempt.address
            assert address
            self.tasks.rows[address] = Row(address, "queued", flight.attempt.id, "1")
            flight.recorded = True
            self.controller.release(flight)
        return took

    def _insert(self, connection: Connection, records: Sequence[SubmissionRecord]) -> None:
        self._ledger.insert(connection, records)

    def steps(self) -> dict[str, Took]:
        """What each step took."""
        watch = self._watch
        took = {"queued": self.queue(), "sent": watch.time(self.controller.step)}
        took["accepted"] = watch.time(self.controller.step)
        self.each(self.start)
        took["started"] = watch.time(self.controller.step)
        self.each(self.end)
        took["ended"] = watch.time(self.controller.step)
        assert not list(self.controller.inflight)
        return took

    def start(self, flight: Flight) -> None:
        assert self.tasks.run(flight.attempt)
        self.world.start(flight.id)

    def end(self, flight: Flight) -> None:
        assert flight.attempt.address
        self.tasks.rows[flight.attempt.address].state = "success"
        self.world.end(flight.id, How.SUCCEEDED)

    def each(self, happens: Any) -> None:
        for flight in self.flights:
            happens(flight)


class Watch:
    """Tells how long work took on the wall, and how long on a processor: this process and its server's."""

    def __init__(self, engine: Engine) -> None:
        with engine.connect() as connection:
            server = connection.scalar(text("SELECT pg_backend_pid()"))
        self._server = Path(f"/proc/{server}/schedstat")

    def time(self, work: Callable[[], None]) -> Took:
        wall, processor = time.perf_counter(), self._processor_s()
        work()
        return Took(time.perf_counter() - wall, self._processor_s() - processor)

    def _processor_s(self) -> float:
        return time.process_time() + int(self._server.read_text().split()[0]) / 1e9


def test_what_the_ledger_costs(
    engine: Engine, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # The lines are the same with and without, and the test runner keeps them all.
    caplog.set_level(logging.WARNING, "hybrid_executor")
    took: dict[tuple[str, bool], list[Took]] = {}
    statements: list[str] = []
    Turn(DatabaseLedger(engine), engine).steps()  # warm
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    for _ in range(ROUNDS):
        for with_ledger in (True, False):
            turn = Turn(DatabaseLedger(engine) if with_ledger else NoLedger(), engine)
            for name, one in turn.steps().items():
                took.setdefault((name, with_ledger), []).append(one)
    names = [name for name, with_ledger in took if with_ledger]
    costs = {}
    with capsys.disabled():
        # One of each round is asked by the watch, and none by the turn without the ledger.
        count = len([s for s in statements if "pg_backend_pid" not in s]) / ROUNDS
        print(f"\n{ATTEMPTS} attempts, {ROUNDS} rounds, {count:g} statements a round; ms, with and without")
        for name in names:
            wall, processor = ([median(took[name, w], i) for w in (True, False)] for i in (0, 1))
            costs[name] = (processor[0] - processor[1]) / ATTEMPTS
            print(f"{name:8} wall {wall[0]:6.1f} {wall[1]:6.1f}", end="  ")
            print(f"processor {processor[0]:6.1f} {processor[1]:6.1f}", end="  ")
            print(f"the ledger's, per attempt: {costs[name]:.3f}")
    assert max(costs.values()) <= LIMIT_MS


def median(took: Sequence[Took], which: int) -> float:
    return statistics.median(one[which] for one in took) * 1000
