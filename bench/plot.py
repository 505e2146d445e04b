"""Pictures of a table: how growth went, and how many times better than stock each row is.

``curves`` and ``bars`` say what is to be seen and are pure; ``draw`` makes
PNG and SVG of it. The same table gives the same SVG, so that a picture in the
repository changes with its numbers alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.table import number

Row = Mapping[str, Any]
#: Of a file's name, by what it shows.
GROWTH, RATIOS = "growth", "ratios"
FORMATS = ("svg", "png")
COLOURS = {"stock": "#d55e00", "ours": "#0072b2", "limit": "#999999"}
#: Text stays text in an SVG; ids in it are not random.
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9, "axes.titlesize": 9}


@dataclass(frozen=True, slots=True)
class Point:
    """One reading of one side at one amount, the least and the most of its rounds beside it."""

    amount: float
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curves:
    """One reading of a figure that grows: a line for each side and stock set-up."""

    title: str
    amount_of: str
    unit: str
    lines: Mapping[str, Sequence[Point]]


@dataclass(frozen=True, slots=True)
class Bar:
    """One row: so many times better than stock."""

    label: str
    ratio: float


def curves(table: Iterable[Row]) -> list[Curves]:
    """One for each figure and time that was read at two amounts or more, in the order of the table.

    Not for what is counted: that does not grow at all, or fails the run.
    """
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in table:
        if row["amount"] is not None and not row["counted"]:
            grouped.setdefault((row["name"], row["reading"]), []).append(row)
    return [
        Curves(rows[0]["title"], rows[0]["amount_of"], rows[0]["unit"], _lines(rows))
        for rows in grouped.values()
        if len({row["amount"] for row in rows}) > 1
    ]


def _lines(rows: Sequence[Row]) -> dict[str, list[Point]]:
    lines: dict[str, dict[float, Point]] = {}
    for row in rows:
        for side, (low, high) in row["spread"].items():
            name = f"stock: {row['against']}" if side == "stock" else side
            lines.setdefault(name, {})[row["amount"]] = Point(row["amount"], row[side], low, high)
    return {name: [points[amount] for amount in sorted(points)] for name, points in sorted(lines.items())}


def bars(table: Iterable[Row]) -> list[Bar]:
    """Times and rates with a ratio to stock and a target; what is counted, or has grown, is no speed."""
    return [
        Bar(f"{row['figure']}\n{row['unit']}, {row['against']}", row["ratio"])
        for row in table
        if row["ratio"] is not None and row["target"] and not row["counted"] and not row["growth"]
    ]


def draw(table: Sequence[Row], folder: Path) -> list[Path]:
    """Write what there is to see into ``folder``; the files that were written."""
    shown: list[tuple[str, Sequence[Any], Callable[[Any], Figure]]] = [
        (GROWTH, curves(table), _growth),
        (RATIOS, bars(table), _ratios),
    ]
    written = []
    for name, content, picture in shown:
        for ending in FORMATS:
            file = folder / f"{name}.{ending}"
            file.unlink(missing_ok=True)
            if content:
                with rc_context(STYLE):
                    metadata = {"Date": None} if ending == "svg" else {"Software": None}
                    picture(content).savefig(file, format=ending, dpi=90, metadata=metadata)
                written.append(file)
    return written


def _growth(panels: Sequence[Curves]) -> Figure:
    columns = 2
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(11, 3.6 * lines), layout="constrained")
    for position, panel in enumerate(panels, 1):
        _panel(figure.add_subplot(lines, columns, position), panel)
    return figure


def _panel(axes: Axes, panel: Curves) -> None:
    for name, points in panel.lines.items():
        errors = [[p.median - p.low for p in points], [p.high - p.median for p in points]]
        axes.errorbar(
            [p.amount for p in points],
            [p.median for p in points],
            yerr=errors,
            label=name,
            color=COLOURS[name.partition(":")[0]],
            marker="o",
            capsize=3,
        )
    axes.set(xscale="log", yscale="log", xlabel=panel.amount_of, ylabel=panel.unit)
    # What is flat is to look flat: no axis shows less than a decade.
    low, high = axes.get_ylim()
    axes.set_ylim(low / 3, high * 3)
    axes.set_title(panel.title, wrap=True)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False)


def _ratios(shown: Sequence[Bar]) -> Figure:
    figure = Figure(figsize=(11, 1.2 + 0.34 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.barh(
        [bar.label for bar in shown],
        [bar.ratio for bar in shown],
        color=[COLOURS["ours" if bar.ratio >= 1 else "stock"] for bar in shown],
    )
    axes.bar_label(drawn, [f" {number(bar.ratio)}" for bar in shown])
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="times better than stock")
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(x=0.1, y=0.01)
    axes.invert_yaxis()
    return figure
