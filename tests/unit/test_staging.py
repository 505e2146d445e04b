"""What a session's transaction does to the attempts that were staged in it; SQLite in memory."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from hybrid_executor.inflight import Flight
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.staging import Staging
from tests.fixtures.airflow_double import make_flight


class Desk:
    """A staging, one session, and what happened in order."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.happened: list[str] = []
        self.released: list[Flight] = []
        self.ledger_away = False
        self.staging = Staging(insert=self._insert, release=self._release)
        event.listen(session.get_bind(), "commit", lambda _: self.happened.append("commit"))

    def _insert(self, connection: Any, flights: list[Flight]) -> None:
        self.happened.append(f"insert {len(flights)}")
        if self.ledger_away:
            raise LedgerUnavailable("away")

    def _release(self, flight: Flight) -> None:
        self.happened.append("release")
        self.released.append(flight)

    def stage(self, **options: Any) -> Flight:
        flight = make_flight(**options)
        self.session.execute(text("select 1"))
        self.staging.stage(flight, self.session)
        return flight


@pytest.fixture
def desk() -> Iterator[Desk]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with Session(engine) as session:
        yield Desk(session)
    engine.dispose()


def test_attempts_are_recorded_in_the_transaction_and_released_after_its_commit(desk: Desk):
    flights = [desk.stage(), desk.stage()]
    assert desk.happened == []
    desk.session.commit()
    assert desk.happened == ["insert 2", "commit", "release", "release"]
    assert desk.released == flights
    assert all(flight.recorded for flight in flights)


def test_each_attempt_is_released_once_however_often_the_session_commits(desk: Desk):
    desk.stage()
    for _ in range(3):
        desk.session.execute(text("select 1"))
        desk.session.commit()
    assert len(desk.released) == 1


@pytest.mark.parametrize("end", ["rollback", "close"])
def test_what_is_not_committed_is_never_released(desk: Desk, end: str):
    flight = desk.stage()
    assert desk.staging.holds(flight.key)
    getattr(desk.session, end)()
    desk.session.execute(text("select 1"))
    desk.session.commit()
    assert desk.released == []
    assert not desk.staging.holds(flight.key)


def test_the_end_of_a_savepoint_releases_nothing(desk: Desk):
    with desk.session.begin_nested():
        flight = desk.stage()
    assert desk.happened == []
    desk.session.commit()
    assert desk.released == [flight]


def test_a_savepoint_that_is_rolled_back_takes_along_what_was_staged_in_it(desk: Desk):
    kept = desk.stage()
    outer = desk.session.begin_nested()
    with desk.session.begin_nested():
        desk.stage()
    outer.rollback()
    desk.session.commit()
    assert desk.released == [kept]


def test_what_could_not_be_recorded_in_the_transaction_is_released_as_unrecorded(desk: Desk):
    desk.ledger_away = True
    flight = desk.stage()
    desk.session.commit()
    assert desk.released == [flight]
    assert not flight.recorded


def test_an_attempt_without_a_route_is_released_unrecorded(desk: Desk):
    unrouted, routed = make_flight(), desk.stage()
    unrouted.routed = False
    desk.staging.stage(unrouted, desk.session)
    desk.session.commit()
    assert "insert 1" in desk.happened
    assert desk.released == [routed, unrouted]
    assert (routed.recorded, unrouted.recorded) == (True, False)


def test_two_sessions_do_not_touch_each_others_attempts(desk: Desk):
    desk.stage()
    with Session(desk.session.get_bind()) as other:
        other.execute(text("select 1"))
        other.rollback()
    desk.session.commit()
    assert len(desk.released) == 1
