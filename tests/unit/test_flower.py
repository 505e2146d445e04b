"""Who tells Flower of pods, and what: tellers over one ledger, with a broker in memory that can be away."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, create_engine, select, update

from hybrid_executor import flower
from hybrid_executor.backends.celery.podevents import Event
from hybrid_executor.flower import LEASE, LEASE_S, FlowerTeller
from hybrid_executor.ledger import tables
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.ledger.flower import FlowerRegister
from hybrid_executor.ledger.lease import Lease
from hybrid_executor.meter import Meter
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.errors import BrokerUnavailable
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord
from hybrid_executor.naming import celery_task_id
from tests.contract.ledger_suite import a_record


@dataclass
class Broker:
    """What was published, by whoever did."""

    heard: list[Event] = field(default_factory=list)
    is_away: bool = False

    def send(self, events: list[Event]) -> None:
        if self.is_away:
            raise BrokerUnavailable("away")
        self.heard += events

    def close(self) -> None:
        pass

    def types(self, record: SubmissionRecord) -> list[str]:
        """What was told of a submission, in turn."""
        uuid = celery_task_id(record.id)
        return [event.type.removeprefix("task-") for event in self.heard if event.fields.get("uuid") == uuid]

    def of_workers(self) -> list[tuple[str, str, int | None]]:
        return [
            (event.type.removeprefix("worker-"), event.hostname, event.fields.get("active"))
            for event in self.heard
            if event.type.startswith("worker-")
        ]


@dataclass
class Scene:
    engine: Engine
    broker: Broker = field(default_factory=Broker)
    meter: Meter = field(default_factory=Meter)

    def __post_init__(self) -> None:
        self.ledger = DatabaseLedger(self.engine)

    def teller(self, holder: str = "one") -> FlowerTeller:
        lease = Lease(self.engine, name=LEASE, holder=holder, life_s=LEASE_S)
        return FlowerTeller(
            register=FlowerRegister(self.engine, lease),
            lease=lease,
            open_sender=lambda: self.broker,
            namespaces={"": "airflow"},
            meter=self.meter,
        )

    def queued(self, **values: object) -> SubmissionRecord:
        record = a_record(queued_at=datetime.now(UTC), **values)
        self.ledger.record([record], [])
        return record

    def runs(self, record: SubmissionRecord) -> None:
        now = datetime.now(UTC)
        change = Change(id=record.id, submitted_at=now, started_at=now, external_name="airflow/pod")
        self.ledger.record([], [change])

    def ends(self, record: SubmissionRecord, ago_s: float = 0) -> None:
        at = datetime.now(UTC) - timedelta(seconds=ago_s)
        self.ledger.record([], [Change(id=record.id, ended_at=at, outcome=Outcome.SUCCEEDED)])

    def holder_is_dead(self) -> None:
        """Nobody has heard of it for as long as the lease lives."""
        past = datetime.now(UTC) - timedelta(seconds=1)
        with self.engine.begin() as connection:
            connection.execute(update(tables.lease).values(held_until=past))

    def remembered(self) -> int:
        with self.engine.connect() as connection:
            return len(connection.execute(select(tables.flower)).all())


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    tables.metadata.create_all(engine)
    yield Scene(engine)
    engine.dispose()


def test_each_change_of_a_pod_is_told_once(scene: Scene) -> None:
    teller, record = scene.teller(), scene.queued()
    teller.turn()
    assert scene.broker.types(record) == ["sent"]
    scene.runs(record)
    teller.turn()
    teller.turn()
    scene.ends(record)
    teller.turn()
    teller.turn()
    assert scene.broker.types(record) == ["sent", "received", "started", "succeeded"]


def test_celery_s_own_tasks_are_left_to_its_workers(scene: Scene) -> None:
    record = scene.queued(backend=BackendName.CELERY)
    scene.teller().turn()
    scene.ends(record)
    scene.teller().turn()
    assert not scene.broker.types(record)


def test_of_several_schedulers_one_tells(scene: Scene) -> None:
    one, two = scene.teller("one"), scene.teller("two")
    record = scene.queued()
    for _ in range(3):
        one.turn()
        two.turn()
    scene.ends(record)
    two.turn()
    one.turn()
    assert scene.broker.types(record) == ["sent", "succeeded"]
    assert len(scene.broker.of_workers()) == len(set(scene.broker.of_workers()))


def test_what_a_dead_teller_left_open_is_closed_by_the_next_whenever_it_ended(scene: Scene) -> None:
    one, two = scene.teller("one"), scene.teller("two")
    record = scene.queued()
    scene.runs(record)
    one.turn()
    scene.ends(record, ago_s=7200)
    two.turn()
    assert scene.broker.types(record)[-1] == "started"
    scene.holder_is_dead()
    two.turn()
    assert scene.broker.types(record) == ["sent", "received", "started", "succeeded"]


def test_one_that_was_taken_for_dead_writes_nothing_down_and_leaves_the_rest_to_the_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = scene.teller("one"), scene.teller("two")
    one.turn()
    record = scene.queued()
    send = scene.broker.send

    def slow(events: list[Event]) -> None:
        monkeypatch.setattr(scene.broker, "send", send)
        scene.holder_is_dead()
        two.turn()
        send(events)

    monkeypatch.setattr(scene.broker, "send", slow)
    one.turn()
    # The one batch that was on its way is told twice, which Flower's tasks don't show.
    assert scene.broker.types(record) == ["sent", "sent"]
    scene.ends(record)
    one.turn()
    assert scene.broker.types(record)[2:] == []
    two.turn()
    assert scene.broker.types(record)[2:] == ["succeeded"]


def test_what_happens_while_the_broker_is_away_is_told_when_it_is_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(flower, "time", SimpleNamespace(monotonic=lambda: now_s))
    teller = scene.teller()
    scene.broker.is_away = True
    early, late = scene.queued(), scene.queued()
    scene.ends(early, ago_s=1800)
    with pytest.raises(BrokerUnavailable):
        teller.turn()
    scene.broker.is_away = False
    now_s += 20
    teller.turn()
    now_s += 19
    teller.turn()
    assert scene.broker.types(early) == [], "whoever listens needs as long to come back"
    now_s += 1
    teller.turn()
    assert scene.broker.types(early) == ["sent", "succeeded"]
    assert scene.broker.types(late) == ["sent"]


def test_the_lag_grows_until_all_is_told_or_another_tells(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(flower, "time", SimpleNamespace(monotonic=lambda: now_s))
    one, two = scene.teller("one"), scene.teller("two")
    one.turn()
    # As of threads that hang.
    now_s += 30
    assert (one.lag_s, two.lag_s) == (30, 30)
    two.turn()
    assert two.lag_s == 0
    scene.ledger.record([a_record(queued_at=datetime.now(UTC)) for _ in range(flower.AT_ONCE + 1)], [])
    one.turn()
    assert one.lag_s == 30
    one.turn()
    assert one.lag_s == 0
    scene.queued()
    scene.broker.is_away = True
    now_s += 20
    with pytest.raises(BrokerUnavailable):
        one.turn()
    assert one.lag_s == 20
    scene.broker.is_away = False
    one.turn()
    assert one.lag_s == 20, "it waits for Flower to be back, and has not told it"
    now_s += 20
    one.turn()
    assert one.lag_s == 0


def test_what_began_and_ended_long_before_anybody_told_is_history(scene: Scene) -> None:
    record = scene.queued()
    scene.ends(record, ago_s=7200)
    scene.teller().turn()
    assert not scene.broker.types(record)


def test_a_namespace_is_shown_as_a_worker_with_what_runs_there(scene: Scene) -> None:
    record = scene.queued()
    scene.runs(record)
    teller = scene.teller()
    teller.turn()
    name = "kubernetes@airflow"
    assert scene.broker.of_workers() == [("online", name, None), ("heartbeat", name, 1)]


def test_what_was_told_to_its_end_is_forgotten_after_a_while(scene: Scene) -> None:
    teller, record, stays = scene.teller(), scene.queued(), scene.queued()
    scene.ends(record)
    teller.turn()
    assert scene.remembered() == 2
    register = FlowerRegister(scene.engine, Lease(scene.engine, name=LEASE, holder="", life_s=1))
    register.forget(datetime.now(UTC) + timedelta(seconds=1))
    assert scene.remembered() == 1
    scene.ends(stays)
    teller.turn()
    assert scene.broker.types(stays) == ["sent", "succeeded"]


def test_more_than_one_look_s_worth_is_told_in_several(scene: Scene) -> None:
    records = [a_record(queued_at=datetime.now(UTC)) for _ in range(501)]
    scene.ledger.record(records, [])
    teller = scene.teller()
    assert teller.turn() == 0
    assert teller.turn() > 0
    assert {tuple(scene.broker.types(record)) for record in records} == {("sent",)}


def test_a_teller_that_stops_says_goodbye_and_lets_the_next_begin_at_once(scene: Scene) -> None:
    one, two = scene.teller("one"), scene.teller("two")
    one.start()
    deadline = datetime.now(UTC) + timedelta(seconds=10)
    while not scene.broker.of_workers() and datetime.now(UTC) < deadline:
        pass
    record = scene.queued()
    one.stop(10)
    assert scene.broker.types(record) == ["sent"]
    assert scene.broker.of_workers()[-1] == ("offline", "kubernetes@airflow", None)
    scene.ends(record)
    two.turn()
    assert scene.broker.types(record) == ["sent", "succeeded"]
