"""``airflow hybrid status``: what is queued, waits, runs and has ended, and who runs it, on one screen.

Reads the ledger, and Airflow's own word on which schedulers live: six queries,
whatever is in flight, and three round trips to the live half. The Celery workers
are asked meanwhile; one that takes nothing, or is silent, is shown first. All
that does not answer is named, and hides nothing of the rest.
"""

import json
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hybrid_executor import contract, workforce
from hybrid_executor.cli import livehalf
from hybrid_executor.cli.ledger import history, plain, reading
from hybrid_executor.cli.livehalf import LiveState
from hybrid_executor.durations import in_words
from hybrid_executor.ledger.history import QueueCounts, Wait
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.record import Outcome, Stage, SubmissionRecord
from hybrid_executor.overview import places
from hybrid_executor.settings import Settings, load_settings

#: How far back ends are counted.
ENDED_WITHIN = timedelta(hours=1)
#: Places and waits that one screen shows; JSON has all.
LINES_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is known at one time."""

    at: datetime
    schedulers: Sequence[str]
    queues: Sequence[QueueCounts]
    waits: Sequence[Wait]
    #: How many submissions run on each worker, and in pods on each node.
    places: Sequence[tuple[BackendName, str, int]]
    #: The rows of ``airflow hybrid workers``.
    workers: Sequence[Mapping[str, str]]
    #: Who was asked for them and did not answer.
    problems: Sequence[str]
    #: Open submissions that no live scheduler answers for: they wait to be adopted.
    orphans: int
    live: LiveState


@suppress_logs_and_warning
@providers_configuration_loaded
def status(args: Namespace) -> None:
    """Print it once, or again and again until Ctrl-C."""
    settings = load_settings()
    if args.json:
        print(json.dumps(as_json(take(settings)), indent=2))
        return
    if not args.watch:
        Console(soft_wrap=True).print(screen(take(settings)))
        return
    with Live(screen(take(settings)), screen=True, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(args.every)
                live.update(screen(take(settings)), refresh=True)
        except KeyboardInterrupt:
            return


def take(settings: Settings) -> Status:
    """Ask the metadata database, and the workers meanwhile."""
    now = datetime.now(UTC)
    with ThreadPoolExecutor(1) as thread, reading():
        asked = thread.submit(workforce.look_at, settings)
        told = history()
        live = contract.live_schedulers(settings.scheduler_health_check_threshold_s)
        owners, queues, waits = told.owners(), told.counts(now - ENDED_WITHIN), told.waits()
        running = places((*place, count) for place, count in told.places().items())
        standing = livehalf.look_at(settings.live, live, sum(owners.values()))
        force = asked.result()
        on_workers = {name: count for backend, name, count in running if backend is BackendName.CELERY}
        return Status(
            at=now,
            schedulers=sorted(live),
            queues=queues,
            waits=waits,
            places=running,
            workers=list(workforce.rows(force, on_workers, settings.pools)),
            problems=force.problems,
            orphans=sum(count for owner, count in owners.items() if owner not in live),
            live=standing,
        )


def screen(status: Status) -> RenderableType:
    """The status for a terminal."""
    schedulers = ", ".join(status.schedulers) or "none lives"
    head = f"{status.at:%Y-%m-%d %H:%M:%S} UTC  scheduler jobs: {schedulers}"
    parts: list[RenderableType] = [Text(head), Text(livehalf.line(status.live, status.at))]
    if status.orphans:
        parts.append(Text(f"{status.orphans} open submissions wait for a scheduler to adopt them"))
    parts += (
        [Text(), _queues(status)]
        if status.queues
        else [Text("nothing is open, and nothing has ended lately")]
    )
    if status.waits:
        parts += [Text("\nwhat has not started"), _waits(status)]
    if lines := _running(status):
        table = _table(["backend", "worker or node", "load", "state"], lines)
        parts += [Text("\nwho runs tasks"), table]
    parts += (Text(f"\n{problem}") for problem in status.problems)
    return Group(*parts)


def _queues(status: Status) -> Table:
    rows = [
        [
            str(counts.backend),
            counts.queue,
            *(_number(counts.stages.get(stage)) for stage in Stage),
            in_words(status.at - counts.oldest_waiting) if counts.oldest_waiting else "",
            *(_number(counts.ends.get(outcome)) for outcome in Outcome),
        ]
        for counts in status.queues
    ]
    hour = [f"{outcome}, 1h" if outcome is Outcome.SUCCEEDED else str(outcome) for outcome in Outcome]
    return _table(["backend", "queue", *Stage, "oldest waits", *hour], rows, numbers_from=2)


def _waits(status: Status) -> Table:
    rows = [
        [
            str(wait.oldest.backend),
            wait.oldest.queue,
            str(wait.count),
            in_words(status.at - wait.oldest.queued_at),
            _name(wait.oldest),
            str(wait.oldest.diagnosis or wait.oldest.state),
        ]
        for wait in status.waits[:LINES_MAX]
    ]
    return _table(["backend", "queue", "how many", "longest", "that is", "for"], rows)


def _running(status: Status) -> list[list[str]]:
    """Workers that somebody should look at, then all others and the nodes of pods by what they have."""
    rows = [(row["state"] != "live", _at_hand(row), _line_of(row)) for row in status.workers]
    rows += (
        (False, count, [str(backend), name, f"{count} in pods", ""])
        for backend, name, count in status.places
        if backend is BackendName.KUBERNETES
    )
    rows.sort(key=lambda row: row[:2], reverse=True)
    shown = [line for _, _, line in rows[:LINES_MAX]]
    if more := rows[LINES_MAX:]:
        shown.append(["", f"{len(more)} more", str(sum(count for _, count, _ in more)), ""])
    return shown


def _at_hand(worker: Mapping[str, str]) -> int:
    """What it has of what it can run; a question mark, for what nobody knows, sorts as none."""
    at_hand = worker["load"].partition("/")[0]
    return int(at_hand) if at_hand.isdecimal() else 0


def _line_of(worker: Mapping[str, str]) -> list[str]:
    state = worker["state"]
    told = "idle although messages wait (celery#8030): restart it" if state == "idle" else state
    return [str(BackendName.CELERY), worker["worker"], worker["load"], told]


def _name(record: SubmissionRecord) -> str:
    address = record.address
    if address is None:
        return f"{record.kind} {record.workload_id}"
    return f"{address.task} of {address.run_id}"


def _table(titles: Iterable[str], rows: Iterable[Sequence[str]], numbers_from: int | None = None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(titles):
        right = numbers_from is not None and number >= numbers_from
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for row in rows:
        # Text, and no markup: ``[core]`` is no style.
        table.add_row(*(Text(cell) for cell in row))
    return table


def _number(count: int | None) -> str:
    return str(count) if count else "."


def as_json(status: Status) -> dict[str, Any]:
    """The status as a program wants it."""
    return {
        "at": status.at.isoformat(),
        "schedulers": list(status.schedulers),
        "queues": [
            {
                "backend": str(counts.backend),
                "queue": counts.queue,
                **{str(stage): counts.stages.get(stage, 0) for stage in Stage},
                "oldest_waiting": counts.oldest_waiting and counts.oldest_waiting.isoformat(),
                "ended_last_hour": {str(outcome): counts.ends.get(outcome, 0) for outcome in Outcome},
            }
            for counts in status.queues
        ],
        "waits": [{"count": wait.count, "oldest": plain(wait.oldest)} for wait in status.waits],
        "running": [
            {"backend": str(backend), "where": name, "count": count} for backend, name, count in status.places
        ],
        "workers": list(status.workers),
        "workers_problems": list(status.problems),
        "orphans": status.orphans,
        "live": livehalf.as_json(status.live, status.at),
    }
