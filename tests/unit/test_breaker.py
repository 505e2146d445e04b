"""The breaker opens when nothing answers, closes when something does, and never for one lost request."""

from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.breaker import LIMIT, Breaker

REFUSED, TOOK, SILENT, ANSWERED = "refused", "took", "silent", "answered"
EVENTS = st.lists(st.sampled_from([REFUSED, TOOK, SILENT, ANSWERED]))


def tell(breaker: Breaker, event: str, now_s: float = 0.0) -> bool:
    """Whether that changed its state."""
    if event == REFUSED:
        return breaker.refused("no answer", now_s)
    if event == TOOK:
        return breaker.took()
    return breaker.heard("silence" if event == SILENT else None, now_s)


def expected(events: list[str]) -> bool:
    """Open, as its first words say it."""
    since_taken = events[len(events) - events[::-1].index(TOOK) :] if TOOK in events else events
    heard = [event for event in since_taken if event in (SILENT, ANSWERED)]
    return heard[-1:] == [SILENT] or since_taken.count(REFUSED) >= LIMIT


@given(EVENTS)
def test_it_is_open_exactly_while_nothing_answers(events: list[str]) -> None:
    breaker = Breaker()
    for event in events:
        tell(breaker, event)
    assert breaker.is_open is expected(events)


@given(EVENTS)
def test_each_opening_and_each_closing_is_told_once_and_in_turn(events: list[str]) -> None:
    breaker, was_open = Breaker(), False
    for event in events:
        changed = tell(breaker, event)
        assert changed is (breaker.is_open is not was_open)
        was_open = breaker.is_open


@given(EVENTS)
def test_a_submission_that_was_taken_always_closes_it(events: list[str]) -> None:
    breaker = Breaker()
    for event in [*events, TOOK]:
        tell(breaker, event)
    assert not breaker.is_open
    assert breaker.is_clean


@given(st.integers(min_value=1, max_value=2), st.booleans())
def test_a_few_refusals_open_nothing_and_are_remembered(refusals: int, answered: bool) -> None:
    breaker = Breaker()
    for _ in range(refusals):
        assert not breaker.refused("a lost connection", 0.0)
    if answered:
        assert not breaker.heard(None, 0.0)
    assert not breaker.is_clean


def test_it_remembers_what_opened_it_and_when() -> None:
    breaker = Breaker()
    breaker.heard("connection refused", 7.0)
    breaker.heard("timed out", 9.0)
    assert (breaker.why, breaker.since_s) == ("connection refused", 7.0)
