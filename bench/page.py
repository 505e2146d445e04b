"""Writes what a run has found: JSON, Markdown, and the block of the README."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import ALL
from bench.machine import in_words
from bench.table import markdown, with_block

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"


def write_results(table: Sequence[Mapping[str, Any]], where: dict[str, Any], folder: Path) -> None:
    """``table.json``, ``machine.json`` and both together as ``table.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (("table", table), ("machine", where)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    (folder / "table.md").write_text(f"{markdown(table)}\n{in_words(where)}\n{differences()}")


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
    return f"{markdown([row for row in table if row['target']])}\n{in_words(where)}"


def write_readme() -> None:
    README.write_text(with_block(README.read_text(encoding="utf-8"), readme_block()), encoding="utf-8")
