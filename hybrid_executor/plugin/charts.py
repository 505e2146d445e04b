"""The geometry of the page's charts: numbers in, points and lengths out; ``templates/charts.html`` draws.

Every number that a chart shows also stands in a table beside it, so a chart may
leave out what would make it unreadable.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil, log10

from hybrid_executor.durations import in_words_finely
from hybrid_executor.plugin.answers import OverviewAnswer, QueueAnswer, ReasonAnswer

#: In user units; the page stretches them.
WIDTH, HEIGHT = 1000, 180
#: Left of a curve there is room for numbers, below it for times.
LEFT, BELOW = 44, 24
#: More curves than this can't be told apart.
CURVES_MAX = 6
BARS_MAX = 12


@dataclass(frozen=True, slots=True)
class Line:
    """One curve; ``points`` as SVG has them."""

    label: str
    points: str
    now: int
    highest: int


@dataclass(frozen=True, slots=True)
class Curves:
    """Several over the same times; each tick is a place and its text."""

    lines: Sequence[Line]
    across: Sequence[tuple[float, str]]
    up: Sequence[tuple[float, str]]
    left_out: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A length of at most 100 for each of its values, the longest first."""

    label: str
    lengths: Sequence[float]
    text: str


def depth_curves(answer: OverviewAnswer) -> Curves | None:
    """How many waited on each queue over the last hour; None where nothing ever did."""
    rising = [queue for queue in answer.queues if len(answer.times) > 1 and any(queue.depths)]
    if not rising:
        return None
    chosen = sorted(rising, key=lambda queue: max(queue.depths), reverse=True)[:CURVES_MAX]
    top = round_up(max(max(queue.depths) for queue in chosen))
    return Curves(
        lines=[
            Line(
                label=f"{queue.queue} ({queue.backend})",
                points=_points(queue.depths, top),
                now=queue.depths[-1],
                highest=max(queue.depths),
            )
            for queue in chosen
        ],
        across=_times(answer.times),
        up=[(_height(value, top), str(value)) for value in sorted({0, top // 2, top})],
        left_out=len(rising) - len(chosen),
    )


def spread_bars(queues: Iterable[QueueAnswer], which: str) -> list[Bar]:
    """How long attempts ``waited`` or ``ran``: 95 of 100 no longer than a bar, half of them its dark part."""
    found = [(queue, spread) for queue in queues if (spread := getattr(queue, which))]
    found.sort(key=lambda pair: pair[1].p95_s, reverse=True)
    longest = max((spread.p95_s for _, spread in found), default=0) or 1
    return [
        Bar(
            label=f"{queue.queue} ({queue.backend})",
            lengths=(100 * spread.p95_s / longest, 100 * spread.median_s / longest),
            text=f"{seconds(spread.median_s)} / {seconds(spread.p95_s)}",
        )
        for queue, spread in found[:BARS_MAX]
    ]


def reason_bars(reasons: Sequence[ReasonAnswer]) -> list[Bar]:
    """How many ended for each reason."""
    most = max((one.count for one in reasons), default=1)
    return [
        Bar(f"{one.reason} ({one.backend})", (100 * one.count / most,), str(one.count))
        for one in reasons[:BARS_MAX]
    ]


def round_up(value: int) -> int:
    """The next number of the form 1, 2 or 5 times a power of ten, and at least 2."""
    power: int = 10 ** int(log10(max(value, 1)))
    return max(2, next(step * power for step in (1, 2, 5, 10) if step * power >= value))


def seconds(value: float) -> str:
    """A duration in few characters."""
    return f"{value:.1f}s" if value < 10 else in_words_finely(timedelta(seconds=ceil(value)))


def _points(values: Sequence[int], top: int) -> str:
    step = (WIDTH - LEFT) / (len(values) - 1)
    return " ".join(f"{LEFT + step * i:.1f},{_height(value, top):.1f}" for i, value in enumerate(values))


def _height(value: int, top: int) -> float:
    """SVG counts from above; a thick line at the very edge would be cut."""
    return 6 + (HEIGHT - BELOW - 6) * (1 - value / top)


def _times(times: Sequence[datetime]) -> list[tuple[float, str]]:
    """The first, the middle and the last."""
    places = ((0, times[0]), (0.5, times[len(times) // 2]), (1, times[-1]))
    return [(LEFT + (WIDTH - LEFT) * share, f"{time:%H:%M}") for share, time in places]
