"""Writes what a run has found: JSON, Markdown, pictures, and the block of the README."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import ALL
from bench.machine import in_words
from bench.plot import GROWTH, RATIOS, draw
from bench.table import markdown, with_block

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
#: Below the README's table, where a run has them.
PICTURES = {
    RATIOS: "How many times better than stock, row by row",
    GROWTH: "What becomes of it as work grows",
}


def write_results(table: Sequence[Mapping[str, Any]], where: dict[str, Any], folder: Path) -> None:
    """``table.json``, ``machine.json``, both together as ``table.md``, and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (("table", table), ("machine", where)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    (folder / "table.md").write_text(f"{markdown(table)}\n{in_words(where)}\n{differences()}")
    draw(table, folder)


def differences() -> str:
    """What one side of a number does and the other doesn't."""
    lines = []
    for figure in ALL:
        lines += [f"- **{figure.title}**. Stock: {figure.stock_does}. Ours: {figure.ours_does}."]
        if figure.limit_is:
            lines[-1] += f" Limit: {figure.limit_is}."
    return "\n".join(lines) + "\n"


def readme_block() -> str:
    """Of the newest whole run."""
    if not (RESULTS / "table.json").exists():
        return "No whole run is recorded yet.\n"
    table = json.loads((RESULTS / "table.json").read_text())
    where = json.loads((RESULTS / "machine.json").read_text())
    return f"{markdown([row for row in table if row['target']])}\n{in_words(where)}{_pictures()}"


def _pictures() -> str:
    shown = [(RESULTS / f"{name}.svg", says) for name, says in PICTURES.items()]
    return "".join(
        f"\n![{says}]({file.relative_to(README.parent)})\n" for file, says in shown if file.exists()
    )


def write_readme() -> None:
    README.write_text(with_block(README.read_text(encoding="utf-8"), readme_block()), encoding="utf-8")
