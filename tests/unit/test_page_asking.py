"""Who looks at the workers waits for their first answer alone, and not for long."""

import threading

from hybrid_executor.plugin.asking import Asking
from hybrid_executor.workforce import Workforce

LONG_S = 60.0


def test_the_first_answer_is_waited_for_and_shown_while_they_are_asked_again() -> None:
    may_answer, asked = threading.Event(), threading.Semaphore(0)
    answers = [Workforce(members={}, problems=["first"]), Workforce(members={}, problems=["second"])]

    def ask() -> Workforce:
        asked.release()
        assert may_answer.wait(LONG_S)
        return answers.pop(0)

    may_answer.set()
    asking = Asking(ask, fresh_s=0.0, patience_s=LONG_S)
    first = asking.newest()
    assert first
    assert first.force.problems == ["first"]
    may_answer.clear()
    # It is not fresh: they are asked again, by one thread however many look, and what is known is shown.
    for _ in range(3):
        shown = asking.newest()
        assert shown
        assert shown.force.problems == ["first"]
    assert asked.acquire(timeout=LONG_S)
    assert asked.acquire(timeout=LONG_S)
    assert not asked.acquire(blocking=False)
    may_answer.set()


def test_who_has_nothing_to_be_shown_is_told_so_in_time() -> None:
    may_answer = threading.Event()

    def ask() -> Workforce:
        may_answer.wait(LONG_S)
        return Workforce(members={})

    asking = Asking(ask, patience_s=0.01)
    assert asking.newest() is None
    may_answer.set()


def test_an_asking_that_fails_is_told_and_not_the_last() -> None:
    def ask() -> Workforce:
        raise OSError("whatever a client raises")

    asking = Asking(ask, fresh_s=LONG_S, patience_s=LONG_S)
    seen = asking.newest()
    assert seen
    assert seen.force.members is None
    assert seen.force.problems == ["the workers could not be asked: OSError"]
