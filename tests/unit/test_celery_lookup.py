"""What a look-up concludes from what it finds, and when it concludes nothing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from celery import states

from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.lookup import Lookup, Why
from hybrid_executor.backends.celery.queues import Held, Place, Queued
from hybrid_executor.backends.celery.results import Result, ResultsUnavailable
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.errors import BrokerUnavailable
from hybrid_executor.model.observation import Accepted, Ended, How, Observation, Waiting
from hybrid_executor.model.reason import Reason

CONFIG = CeleryConfig(look_again_s=1.0, absent_looks=3, absent_after_s=2.0)


class Results:
    """A result store."""

    def __init__(self) -> None:
        self.away = False
        self.stored: dict[str, Result] = {}

    def read(self, task_ids: Sequence[str]) -> dict[str, Result]:
        if self.away:
            raise ResultsUnavailable("away")
        return {task_id: self.stored[task_id] for task_id in task_ids if task_id in self.stored}

    def known(self, task_id: str) -> None:
        assert task_id in self.stored


class Queues:
    """What can be seen of a broker."""

    can_look = True

    def __init__(self) -> None:
        self.away = False
        self.places: dict[str, Place] = {}

    def find(self, wanted: Mapping[str, str | None]) -> dict[str, Place]:
        if self.away:
            raise BrokerUnavailable("away")
        return {task_id: self.places[task_id] for task_id in wanted if task_id in self.places}


class Desk:
    """A look-up with its doubles, and what it said."""

    def __init__(self) -> None:
        self.results, self.queues = Results(), Queues()
        self.said: list[Observation] = []
        self.now_s = 0.0
        doubles: tuple[Any, Any] = (self.results, self.queues)
        self.lookup = Lookup(*doubles, CONFIG, self.said.append, acks_late=True, queue_of={})
        self.one = SubmissionId(str(uuid4()), 1)

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            with suppress(ResultsUnavailable):
                self.lookup.step(self.now_s)
            self.now_s += 10.0


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_message_that_is_nowhere_for_a_moment_is_not_absent(desk: Desk) -> None:
    """A worker takes it between the reading of the queue and that of what workers hold."""
    desk.lookup.add(desk.one, Why.ADOPT, "default", desk.now_s)
    desk.look(2)
    assert desk.said == []
    desk.queues.places[desk.one.attempt_id] = Held()
    desk.look()
    assert [type(o) for o in desk.said] == [Accepted]


def test_what_stays_away_from_everywhere_is_absent(desk: Desk) -> None:
    desk.lookup.add(desk.one, Why.ADOPT, "default", desk.now_s)
    desk.look(3)
    assert desk.said == [Ended(desk.one, How.ABSENT)]


@pytest.mark.parametrize("away", ["results", "queues"])
def test_nothing_is_absent_while_one_side_can_not_be_asked(desk: Desk, away: str) -> None:
    getattr(desk, away).away = True
    desk.lookup.add(desk.one, Why.ADOPT, "default", desk.now_s)
    desk.look(20)
    assert desk.said == []
    desk.results.away = desk.queues.away = False
    desk.results.stored[desk.one.attempt_id] = Result(states.SUCCESS, None)
    desk.look()
    assert desk.said[-1] == Ended(desk.one, How.SUCCEEDED)


def test_a_publishing_in_doubt_is_sent_again_only_when_the_message_is_surely_not_there(desk: Desk) -> None:
    desk.lookup.add(desk.one, Why.DOUBT, "default", desk.now_s)
    desk.look(2)
    assert desk.said == []
    desk.look()
    [wait] = desk.said
    assert isinstance(wait, Waiting)
    assert wait.retry_after_s == CONFIG.publish_retry_s


def test_what_is_with_a_broker_that_can_not_be_looked_into_waits_for_a_reason(desk: Desk) -> None:
    desk.queues.can_look = False
    desk.lookup.add(desk.one, Why.ADOPT, "default", desk.now_s)
    desk.look()
    [wait] = desk.said
    assert isinstance(wait, Waiting)
    assert wait.reason is Reason.IN_QUEUE


@pytest.mark.parametrize(
    ("ahead", "words"),
    [(0, "it is next in line"), (2, "2 of 3 messages were before it at the last look")],
)
def test_a_place_in_a_queue_is_told_as_of_the_last_look(desk: Desk, ahead: int, words: str) -> None:
    desk.queues.places = {desk.one.attempt_id: Queued("reports", ahead, 3, "reports", b"")}
    desk.lookup.add(desk.one, Why.ADOPT, "reports", desk.now_s)
    desk.look()
    [wait] = desk.said
    assert isinstance(wait, Waiting)
    assert wait.message == f"in queue 'reports', {words}; no worker has taken it yet"
