"""What a container took, from samples to a line and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.model.resources import MARK, Resources, Tally, from_line, to_line


def tally(samples: list[tuple[float, float, int]]) -> Resources:
    kept = Tally()
    for sample in samples:
        kept.add(*sample)
    return kept.used()


def test_the_busiest_minute_is_the_peak_and_not_the_start() -> None:
    """One processor for the first five seconds, then half of one for two minutes, then nothing."""
    samples = [(float(s), min(s, 5) + max(0, min(s, 300) - 180) * 0.5, 100) for s in range(1, 601)]
    used = tally(samples)
    assert used.cpu_used_s == 65.0
    assert used.cpu_peak_m == 500


def test_a_life_of_less_than_a_minute_is_its_own_window() -> None:
    assert tally([(1.0, 1.0, 5), (10.0, 2.0, 3)]) == Resources(
        cpu_peak_m=200, cpu_used_s=2.0, memory_peak_bytes=5
    )


def test_without_a_sample_nothing_was_seen() -> None:
    assert tally([]) == Resources(cpu_peak_m=0, cpu_used_s=0.0, memory_peak_bytes=None)


@given(steps=st.lists(st.tuples(st.floats(0.01, 90), st.floats(0, 8), st.integers(0, 2**40)), min_size=1))
def test_no_minute_is_busier_than_the_busiest_moment(steps: list[tuple[float, float, int]]) -> None:
    at_s = cpu_s = 0.0
    samples = []
    for seconds, rate, memory in steps:
        at_s, cpu_s = at_s + seconds, cpu_s + seconds * rate
        samples.append((at_s, cpu_s, memory))
    used = tally(samples)
    assert (used.cpu_peak_m or 0) <= max(rate for _, rate, _ in steps) * 1000 + 1
    assert (used.memory_peak_bytes or 0) == max(memory for _, _, memory in steps)


@given(gaps=st.lists(st.floats(0.01, 90), min_size=1), rate=st.floats(0, 64))
def test_a_steady_use_is_its_own_peak_however_it_is_sampled(gaps: list[float], rate: float) -> None:
    times = [sum(gaps[: count + 1]) for count in range(len(gaps))]
    used = tally([(at_s, at_s * rate, 1) for at_s in times])
    assert used.cpu_peak_m == pytest.approx(rate * 1000, abs=1)


amounts = st.none() | st.integers(0, 2**53 - 1)


@given(cpu_m=amounts, memory=amounts, cpu_s=st.none() | st.floats(0, 2**52))
def test_what_is_written_is_read(cpu_m: int | None, memory: int | None, cpu_s: float | None) -> None:
    used = Resources(cpu_peak_m=cpu_m, cpu_used_s=cpu_s, memory_peak_bytes=memory)
    assert from_line(to_line(used)) == used


@pytest.mark.parametrize(
    "body",
    [
        '{"cpu_peak_m": "1"}',
        '{"cpu_peak_m": 1',
        '{"cpu_used_s": true}',
        '{"cpu_used_s": Infinity}',
        '{"memory_peak_bytes": -1}',
        '{"memory_peak_bytes": 1e300}',
        '{"memory_peak_bytes": NaN}',
        "[]",
        "1",
    ],
)
def test_what_no_column_takes_is_no_measurement(body: str) -> None:
    assert from_line(MARK + body) is None


@given(text=st.text())
def test_any_text_can_be_read(text: str) -> None:
    assert from_line(text) is None
    from_line(MARK + text)
