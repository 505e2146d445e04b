"""Durations are read and written for people."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.durations import in_words, in_words_finely, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("12h", 43200), ("7d", 604800), ("1d12h", 129600), ("0s", 0)],
)
def test_durations_are_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "12", "h", "1.5h", "-1h", "12h ago", "1h1d", f"{'9' * 30}d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**8))
def test_words_are_the_two_largest_units_and_never_round_up(seconds: int) -> None:
    shown = parse_duration(in_words(timedelta(seconds=seconds))).total_seconds()
    assert shown <= seconds < shown + max(60, shown / 24 + 1)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0004, "0.000s"), (1.19, "1.190s"), (9.9999, "10.000s"), (10, "10s"), (-3, "0.000s")],
)
def test_short_ones_have_milliseconds(seconds: float, words: str) -> None:
    assert in_words_finely(timedelta(seconds=seconds)) == words
