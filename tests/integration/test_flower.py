"""Pods as events on a real broker, from a real PostgreSQL: what a receiver as Flower's makes of them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from celery.events import EventReceiver
from celery.events.state import State
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import Engine, create_engine

from hybrid_executor import flower
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.events import EventSender
from hybrid_executor.backends.celery.podevents import Event, events_of
from hybrid_executor.flower import FlowerTeller, open_teller
from hybrid_executor.ledger import tables
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.meter import FLOWER_EVENTS, Meter
from hybrid_executor.model.errors import BrokerUnavailable
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord
from hybrid_executor.naming import celery_task_id
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.contract.ledger_suite import a_record
from tests.fixtures.celery import celery_app
from tests.fixtures.live import until

# An event that nobody but a listener of these tests knows.
GREETING = "greeting-sent"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    tables.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "LOOK_S", 0.1)
    monkeypatch.setattr(flower, "TRY_S", 0.1)
    # Longer than the thread of a holder that is well may stand still.
    monkeypatch.setattr(flower, "LEASE_S", 8.0)
    monkeypatch.setattr(flower, "BEAT_S", 0.5)


class Listener:
    """What Flower does with a broker: follows its events, again and again."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self.state = State()
        self._hears = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(OperationalError, OSError, RedisError), self._app.connection() as connection:
                handlers = {"*": self.state.event, GREETING: lambda _: self._hears.set()}
                self._receiver = EventReceiver(connection, handlers=handlers, app=self._app)
                self._receiver.capture(limit=None, timeout=None, wakeup=False)
            self._stopping.wait(0.1)

    def wait(self) -> None:
        """Until it hears: it subscribes some time after it says that it is ready."""

        def hears() -> bool:
            with self._app.events.default_dispatcher() as dispatcher:
                dispatcher.send(GREETING)
            return self._hears.wait(0.1)

        until(hears)

    def stop(self) -> None:
        self._stopping.set()
        self._receiver.should_stop = True
        self._thread.join(10)

    def states(self) -> dict[str, str]:
        return {uuid: task.state for uuid, task in list(self.state.tasks.items())}

    def named(self, name: str) -> Any:
        return self.state.workers.get(name)


@pytest.fixture
def listening() -> Iterator[Callable[[str], Listener]]:
    opened: list[Listener] = []

    def listen(url: str) -> Listener:
        opened.append(Listener(celery_app(url, url)))
        opened[-1].wait()
        return opened[-1]

    yield listen
    for listener in opened:
        listener.stop()


@pytest.fixture
def tellers(engine: Engine) -> Iterator[Callable[..., FlowerTeller]]:
    opened: list[FlowerTeller] = []

    def tell(url: str, owner: str = "17", meter: Meter | None = None) -> FlowerTeller:
        teller = open_teller(
            engine,
            owner=owner,
            namespaces={"": "airflow"},
            celery=CeleryConfig(operation_timeout_s=1.0),
            meter=meter or Meter(),
            make_app=lambda: celery_app(url, url),
        )
        opened.append(teller)
        return teller

    yield tell
    for teller in opened:
        teller.stop(10)


def run_and_end(ledger: DatabaseLedger, records: list[SubmissionRecord], how: Outcome) -> None:
    now = datetime.now(UTC)
    started = [
        Change(id=r.id, submitted_at=now, started_at=now, external_name=f"airflow/pod-{i}")
        for i, r in enumerate(records)
    ]
    ledger.record(records, started)
    ledger.record([], [Change(id=r.id, ended_at=now, outcome=how) for r in records])


def test_what_listens_shows_pods_as_the_ledger_has_them_across_a_takeover(
    engine: Engine, valkey_url: str, listening: Any, tellers: Any
) -> None:
    listener, meter, ledger = listening(valkey_url), Meter(), DatabaseLedger(engine)
    first = tellers(valkey_url, "17", meter)
    tellers(valkey_url, "18")
    until(lambda: listener.named("kubernetes@airflow"))
    well = [a_record(queued_at=datetime.now(UTC)) for _ in range(150)]
    run_and_end(ledger, well, Outcome.SUCCEEDED)
    until(lambda: list(listener.states().values()).count("SUCCESS") == 150)
    # Dead, without a word: its thread does nothing any more.
    first._lease.hold = lambda now: False  # type: ignore[method-assign]
    until(lambda: not first._is_telling)
    badly = [a_record(queued_at=datetime.now(UTC)) for _ in range(20)]
    run_and_end(ledger, badly, Outcome.FAILED)
    until(lambda: list(listener.states().values()).count("FAILURE") == 20)
    expected = {celery_task_id(r.id): "SUCCESS" for r in well} | {
        celery_task_id(r.id): "FAILURE" for r in badly
    }
    assert listener.states() == expected
    worker = until(lambda: listener.named("kubernetes@airflow"))
    assert worker.sw_ident == "hybrid-executor"
    assert worker.alive
    counted = {metric.name: count for (metric, _), count in meter.drain().counts.items()}
    assert counted[FLOWER_EVENTS.name] == 4 * 150


def test_a_broker_that_died_is_told_again_when_it_is_back(own_valkey: ValkeyServer, listening: Any) -> None:
    sender = EventSender(celery_app(own_valkey.url, own_valkey.url), CeleryConfig(operation_timeout_s=1.0))
    now, record = datetime.now(UTC), a_record()
    events = events_of(record, None, "kubernetes@airflow")
    sender.send([Event(type="worker-online", hostname="kubernetes@airflow", at=now)])
    own_valkey.kill()
    with pytest.raises(BrokerUnavailable):
        sender.send(events)
    own_valkey.start()
    listener = listening(own_valkey.url)
    sender.send(events)
    until(lambda: listener.states() == {record.id.attempt_id: "PENDING"})
    sender.close()
