"""Writes the autoscaler's query into the chart: ``.venv/bin/python helm/generate_scaling.py``."""

from pathlib import Path

from hybrid_executor.scaling.chart import chart_template
from hybrid_executor.scaling.query import DIALECTS

FILES = Path(__file__).parent / "files"


def main() -> None:
    """One file per kind of database."""
    FILES.mkdir(exist_ok=True)
    for dialect in DIALECTS:
        (FILES / f"scaling-{dialect}.sql.tpl").write_text(chart_template(dialect), encoding="utf-8")


if __name__ == "__main__":
    main()
