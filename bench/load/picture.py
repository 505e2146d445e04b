"""Draws a run over time: what is in flight, and what it costs and how late it is meanwhile."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.plot import FORMATS, STYLE

Row = Mapping[str, Any]
#: Panels: title and axis, and the line or lines of it.
_PANELS = (
    ("attempts in flight", ("inflight",)),
    ("processors busy", ("cpu",)),
    ("memory, MiB", ("pss_mib",)),
    ("API calls a second", ("calls",)),
    ("Redis commands a second", ("commands",)),
    ("ledger rows written a second", ("rows",)),
    ("longest heartbeat of a second, ms", ("beat_ms",)),
    ("longest wait, s", ("accepted_s", "told_s")),
)
_WORDS = {"accepted_s": "queued to accepted", "told_s": "ended to told"}


def lines(series: Sequence[Row], names: Sequence[str]) -> dict[str, list[float]]:
    """The lines of a panel by their names; one for each process where a row has several. Pure."""
    found: dict[str, list[float]] = {}
    for row in series:
        for name in names:
            of = row[name]
            for line, value in (of if isinstance(of, Mapping) else {_WORDS.get(name, ""): of}).items():
                found.setdefault(line, []).append(value)
    return found


def draw(series: Sequence[Row], phases: Mapping[str, float], folder: Path, name: str) -> list[Path]:
    """Write the pictures; ``phases`` are beginnings in seconds, by name."""
    at = [row["second"] for row in series]
    written = []
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 12), layout="constrained")
        for position, (title, parts) in enumerate(_PANELS, 1):
            axes = figure.add_subplot(4, 2, position)
            for label, values in sorted(lines(series, parts).items()):
                axes.plot(at, values, label=label or None, linewidth=1)
            for phase, began in phases.items():
                axes.axvline(began, color="black", linewidth=0.5, alpha=0.5)
                axes.text(began, 1.0, f" {phase}", transform=axes.get_xaxis_transform(), va="top", fontsize=7)
            axes.set(title=title, xlabel="seconds")
            axes.set_ylim(bottom=0)
            axes.grid(visible=True, alpha=0.3)
            if len(axes.lines) > len(phases) + 1:
                axes.legend(frameon=False, fontsize=7)
        for ending in FORMATS:
            metadata = {"Date": None} if ending == "svg" else {"Software": None}
            file = folder / f"{name}.{ending}"
            figure.savefig(file, format=ending, dpi=90, metadata=metadata)
            written.append(file)
    return written
