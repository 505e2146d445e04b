"""Makes the block of docs/explanation/scale.md from the newest run: what it was, what it found, the model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.load.model import Constants, Day, schedulers_for, table
from bench.machine import in_words
from bench.page import RESULTS
from bench.table import with_block

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "scale.md"
#: Tasks a day that the model is asked about.
DAYS = (1e6, 1e8)
_PARTS = {"calls": "API calls", "commands": "Redis commands", "rows": "ledger rows written"}
_COLUMNS = {"celery": "a Celery task", "pods": "a pod"}


def block(said: Mapping[str, Any]) -> str:
    """From the JSON of a run. Pure."""
    constants = Constants.of(said)
    days = [Day(tasks=tasks) for tasks in DAYS]
    days = [Day(tasks=day.tasks, schedulers=max(2, schedulers_for(constants, day))) for day in days]
    counts = " and ".join(
        f"{day.schedulers:,} schedulers for {day.tasks / 1e6:g} M tasks a day" for day in days
    )
    day = days[0]
    assumed = (
        f"Assumed: one task in {1 / day.pods_share:.0f} is a pod; at the peak {day.peak:g} times the day's"
        f" average; Celery tasks last {day.celery_life_s:g} s and pods {day.pod_life_s:g} s; {counts}, so"
        " that the executor takes at most half a processor in each. In bold: does not hold."
    )
    return f"{_run(said)}\n{_costs(said, constants)}\n{assumed}\n\n{table(constants, days)}"


def _run(said: Mapping[str, Any]) -> str:
    plan, checks = said["plan"], said["checks"]
    busy = {name: said["each"][name]["tasks"] for name in ("celery", "pods", "load")}
    return (
        f"From a run of size `{said['size']}` on the {said['api']} API: {checks['offered']:,} tasks under"
        f" {plan['schedulers']} schedulers ({busy['celery']:,} Celery tasks alone, {busy['pods']:,} pods"
        f" alone, {busy['load']:,} of both as the load), at most {said['most_in_flight']:,} in flight at"
        f" once; {checks['lost']} lost, {checks['sent_again']} sent again.\n\n{in_words(said['machine'])}"
    )


def _costs(said: Mapping[str, Any], constants: Constants) -> str:
    lines = [f"| | {' | '.join(_COLUMNS.values())} | a scheduler, each second |", "| --- | --- | --- | --- |"]
    columns = [*(said["each"][name] for name in _COLUMNS), said["fixed"]]
    for part, title in _PARTS.items():
        lines.append(f"| {title} | {' | '.join(_made_of(of[part]) for of in columns)} |")
    told = [f"{sum(of['statements'].values()):.1f}" for of in columns]
    lines.append(f"| database statements, at that rate | {' | '.join(told)} |")
    for name in ("executor", "postgres", "valkey"):
        # An idle phase that was busier than the others says that the run can't tell.
        told = [f"{of['cpu_ms'].get(name, 0.0):.1f}" for of in columns]
        told = ["too small to tell" if cell.startswith("-") else cell for cell in told]
        lines.append(f"| processor time of {name}, ms | {' | '.join(told)} |")
    sizes = (
        f"A row of the ledger has {constants.row_bytes:,.0f} bytes with its share of the indexes; in Redis an"
        f" attempt has {constants.attempt_bytes:,.0f}, and a Celery result {constants.result_bytes:,.0f}."
    )
    return "\n".join([*lines, "", sizes]) + "\n"


#: Less than this for a task is what a run of some hundred tasks can't tell from nothing.
_SMALL = 0.05


def _made_of(parts: Mapping[str, float]) -> str:
    """The sum, and what it is made of, the largest first."""
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    told = [f"{value:.1f} {name}" for name, value in ordered if value >= _SMALL]
    return f"{max(0.0, sum(parts.values())):.1f}" + (f" ({', '.join(told)})" if told else "")


def newest() -> str:
    """The block of the newest run."""
    file = RESULTS / "load.json"
    return block(json.loads(file.read_text())) if file.exists() else "No run is recorded yet.\n"


def write() -> None:
    """Into the page."""
    PAGE.write_text(with_block(PAGE.read_text(encoding="utf-8"), newest()), encoding="utf-8")
