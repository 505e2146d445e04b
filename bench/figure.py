"""What a figure is: who is measured, in which cases, what is read, and what must be reached. Pure.

Each module of ``bench.figures`` has one ``FIGURE`` and a function for each of
its sides, which prepares it and answers a ``Turn``; ``plan``, ``table`` and
``run`` know figures by this alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

#: Sides that are compared, and the bare work without which nothing can be done.
OURS, LIMIT = "ours", "limit"

#: One measurement of a side: its readings by name.
Turn = Callable[[], dict[str, float]]


class Size(StrEnum):
    """How much of a figure is run."""

    SMALL = "small"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What ours must reach; every bound that is given counts."""

    #: So many times better than stock.
    times: float | None = None
    #: Against nobody, in the unit of the reading.
    at_most: float | None = None
    at_least: float | None = None
    #: This share of what the limit reaches.
    of_limit: float | None = None
    #: Than stock has, in the unit of the reading.
    less_by: float | None = None

    @property
    def words(self) -> str:
        """As the table has it."""
        said = [
            f"{sign} {bound:g}{of}"
            for sign, bound, of in (
                ("≥", self.times, " times better"),
                ("≤", self.at_most, ""),
                ("≥", self.at_least, ""),
                ("less by", self.less_by, ""),
                ("≥", None if self.of_limit is None else 100 * self.of_limit, " % of the limit"),
            )
            if bound is not None
        ]
        return ", ".join(said)

    def is_met(
        self, *, stock: float | None, ours: float, ratio: float | None, of_limit: float | None
    ) -> bool:
        """``ratio`` and ``of_limit`` are better as they grow; None (not measured) meets nothing."""
        bounds = (
            (self.times, lambda bound: ratio is not None and ratio >= bound),
            (self.less_by, lambda bound: stock is not None and stock - ours >= bound),
            (self.at_most, lambda bound: ours <= bound),
            (self.at_least, lambda bound: ours >= bound),
            (self.of_limit, lambda bound: of_limit is not None and of_limit >= bound),
        )
        return all(holds(bound) for bound, holds in bounds if bound is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One number of a round, by the name that sides give it."""

    name: str
    unit: str
    target: Target | None = None
    more_is_better: bool = False
    #: It counts something (calls, statements) and no time: the same on every machine, so CI checks it.
    counted: bool = False
    #: From the least amount of a figure's cases to whichever takes ours most, in times: 1 is flat.
    growth: Target | None = None
    #: Only for cases of these names; empty is all.
    cases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One amount of work, by the name that the table gives it."""

    name: str
    #: What the sides are given.
    parameters: Mapping[str, Any] = field(default_factory=dict)
    sizes: frozenset[Size] = frozenset({Size.FULL})
    #: Of the way to the broker or, where the figure needs one, to the API server.
    delay_ms: float = 0.0
    #: Airflow's, by ``SECTION__OPTION``, for every side.
    settings: Mapping[str, str] = field(default_factory=dict)
    #: Of what the figure's ``amount_of`` names, where its cases differ in that.
    amount: float | None = None
    #: Besides what the figure needs; ``real kubernetes`` in place of the embedded API.
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What is compared, in words and numbers."""

    #: Of its module.
    name: str
    title: str
    #: Stock set-ups by the name of their function, with what the table says of them.
    stocks: Mapping[str, str]
    cases: Sequence[Case]
    readings: Sequence[Reading]
    #: What one side does and the other doesn't, for the reader of the number.
    stock_does: str
    ours_does: str
    limit_is: str = ""
    #: What grows from case to case, as the axis of a picture has it.
    amount_of: str = ""
    rounds: int = 5
    #: Whether each round needs a process that has done nothing yet.
    fresh: bool = False
    #: What the servers are to hold: ``kubernetes`` for an API server, ``paper node`` for pods that end.
    needs: frozenset[str] = frozenset()

    @property
    def sides(self) -> tuple[str, ...]:
        """In the order in which they take turns."""
        return (*self.stocks, OURS, *([LIMIT] if self.limit_is else []))

    def chosen(self, size: Size) -> list[Case]:
        """The cases of a size."""
        return [case for case in self.cases if size in case.sizes]
