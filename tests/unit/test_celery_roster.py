"""How what a worker says, one answer after another, becomes one word on what it has."""

from typing import Any

import pytest
from celery import Celery

from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.roster import Member, Roster

NAME = "celery@a"


class Busy:
    """A worker that begins its one message as soon as it has been asked for either list."""

    has_begun = False

    def stats(self) -> dict[str, Any]:
        return {NAME: {"pool": {"max-concurrency": 4}}}

    def active_queues(self) -> dict[str, Any]:
        return {NAME: [{"name": "default"}]}

    def reserved(self) -> dict[str, Any]:
        return {NAME: self._listed(not self.has_begun)}

    def active(self) -> dict[str, Any]:
        return {NAME: self._listed(self.has_begun)}

    def _listed(self, is_here: bool) -> list[Any]:
        self.has_begun = True
        return [{"id": "1"}] if is_here else []


class Failing(Busy):
    """One whose answers tell of errors, in place of lists."""

    def active_queues(self) -> dict[str, Any]:
        return {NAME: {"error": "RuntimeError('dictionary changed size during iteration')"}}

    reserved = active_queues


def look_at(worker: Busy) -> Member:
    app = Celery("tests", broker="memory://", set_as_current=False)
    app.control.inspect = lambda **_: worker
    roster = Roster(app, CeleryConfig())
    try:
        return roster.look()[NAME]
    finally:
        roster.close()


def test_a_message_that_is_begun_between_two_answers_is_at_hand() -> None:
    found = look_at(Busy())
    assert found.at_hand
    assert found.queues == ("default",)


def test_what_a_worker_could_not_say_is_unknown() -> None:
    assert look_at(Failing()) == Member(queues=None, at_hand=None, slots=4)


def test_a_stock_worker_whose_queues_are_unknown_is_not_said_to_drain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Celery("tests", broker="memory://", set_as_current=False)
    roster = Roster(app, CeleryConfig())
    monkeypatch.setattr(app.control, "broadcast", lambda *_, **__: [])
    try:
        assert not roster.drain(NAME, Member(queues=None, at_hand=1, slots=4))
        assert roster.drain(NAME, Member(queues=(), at_hand=1, slots=4)), "it serves none already"
    finally:
        roster.close()
