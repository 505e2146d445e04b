"""Readings of all rounds as rows, and rows as Markdown and JSON. Pure."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.figure import LIMIT, OURS, Case, Figure, Reading

#: Readings of one side, one mapping for each round.
Rounds = Sequence[Mapping[str, float]]
HEAD = (
    "| figure | unit | stock | ours | limit | better by | target | |",
    "|---|---|---:|---:|---:|---:|---|---|",
)
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


@dataclass(frozen=True, slots=True)
class Spread:
    """Of several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


def rows(figure: Figure, case: Case, measured: Mapping[str, Rounds]) -> list[dict[str, Any]]:
    """One row for each reading and stock set-up; a reading that no side gave has none."""
    found = []
    for reading in figure.readings:
        if reading.cases and case.name not in reading.cases:
            continue
        spreads = {side: spread for side, said in measured.items() if (spread := _spread(reading, said))}
        if OURS not in spreads:
            continue
        stocks = [name for name in figure.stocks if name in spreads] or [None]
        found += [_row(figure, case, reading, stock, spreads) for stock in stocks]
    return found


def growth_rows(figure: Figure, measured: Mapping[str, Mapping[str, Rounds]]) -> list[dict[str, Any]]:
    """What became of readings as the amount of work grew; ``measured`` has the rounds of each case by name.

    Each number is a median over that of the least amount: of all cases the
    highest one, so that none in between goes unseen.
    """
    cases = sorted(
        (case for case in figure.cases if case.amount is not None and case.name in measured),
        key=lambda case: case.amount or 0,
    )
    found = []
    for reading in figure.readings if len(cases) > 1 else ():
        grown = {side: value for side in figure.sides if (value := _growth(reading, side, cases, measured))}
        if reading.growth is None or OURS not in grown:
            continue
        named = Case(f"growth from {cases[0].name} to {cases[-1].name}")
        unit = f"times the first, {reading.unit}"
        ratio = Reading(name=reading.name, unit=unit, target=reading.growth, counted=reading.counted)
        stocks = [name for name in figure.stocks if name in grown] or [None]
        spreads = {side: Spread(value, value, value) for side, value in grown.items()}
        found += [_row(figure, named, ratio, stock, spreads) | {"growth": True} for stock in stocks]
    return found


def _growth(
    reading: Reading, side: str, cases: Sequence[Case], measured: Mapping[str, Mapping[str, Rounds]]
) -> float | None:
    spreads = [_spread(reading, measured[case.name].get(side, ())) for case in cases]
    medians = [spread.median for spread in spreads if spread]
    return max(medians[1:]) / medians[0] if len(medians) > 1 and medians[0] else None


def _spread(reading: Reading, rounds: Rounds) -> Spread | None:
    values = [said[reading.name] for said in rounds if reading.name in said]
    return Spread.of(values) if values else None


def _row(
    figure: Figure, case: Case, reading: Reading, stock: str | None, spreads: Mapping[str, Spread]
) -> dict[str, Any]:
    ours, limit = spreads[OURS], spreads.get(LIMIT)
    theirs = spreads.get(stock) if stock else None
    ratio = _times_better(reading, ours.median, theirs.median) if theirs else None
    of_limit = _times_better(reading, ours.median, limit.median) if limit else None
    target = reading.target
    sides = {"stock": theirs, "ours": ours, "limit": limit}
    return {
        # What pictures are made of; the rest is for people.
        "name": figure.name,
        "reading": reading.name,
        "amount": case.amount,
        "amount_of": figure.amount_of,
        "title": figure.title,
        "growth": False,
        "figure": f"{figure.title}: {case.name}",
        "against": figure.stocks[stock] if stock else "",
        "unit": reading.unit,
        **{name: spread.median if spread else None for name, spread in sides.items()},
        "ratio": ratio,
        "of_limit": of_limit,
        "target": target.words if target else "",
        "meets": target.is_met(
            stock=theirs.median if theirs else None, ours=ours.median, ratio=ratio, of_limit=of_limit
        )
        if target
        else None,
        "counted": reading.counted,
        "spread": {name: [spread.low, spread.high] for name, spread in sides.items() if spread},
    }


def _times_better(reading: Reading, ours: float, others: float) -> float | None:
    """How often others' number is ours, so that more is better for us; None where a number is nothing."""
    above, below = (ours, others) if reading.more_is_better else (others, ours)
    return above / below if below else None


def missed(table: Iterable[Mapping[str, Any]]) -> list[str]:
    """The rows that count something and miss their target: the same on every machine."""
    return [
        f"{row['figure']}: {row['ours']:g} {row['unit']}, wanted {row['target']}"
        for row in table
        if row["counted"] and row["meets"] is False
    ]


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table for people: medians, with minimum and maximum below them."""
    return "\n".join([*HEAD, *(_line(row) for row in table)]) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    verdict = {True: "met", False: "**missed**", None: ""}[row["meets"]]
    against = f" ({row['against']})" if row["against"] else ""
    cells = [
        row["figure"] + against,
        row["unit"],
        *(_cell(row, side) for side in ("stock", "ours", "limit")),
        f"{number(row['ratio'])} times" if row["ratio"] is not None else "",
        row["target"],
        verdict,
    ]
    return "| " + " | ".join(cells) + " |"


def _cell(row: Mapping[str, Any], side: str) -> str:
    if row[side] is None:
        return ""
    low, high = row["spread"][side]
    spread = "" if low == high else f"<br>{number(low)}…{number(high)}"
    return number(row[side]) + spread


def number(value: float) -> str:
    """Three digits that count, and no exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"


def with_block(page: str, block: str) -> str:
    """A page with what stands between its two marks replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}{END}{after}"
