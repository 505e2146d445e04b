"""What ran where: one query over task instances and the ledger, the table that shows it, the verdict over it.

A line is a submission, or a task instance that has none yet. Reads only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa
from rich import box
from rich.table import Table
from rich.text import Text

from hybrid_executor.airflowtables import IS_PRESENT, MAP_INDEX

#: Queues that ask for a pod where nothing else is configured, as ``[hybrid_executor] kubernetes_queues``.
KUBERNETES_QUEUES = ("kubernetes",)
COLOURS = {"success": "green", "failed": "red", "running": "cyan", "up_for_retry": "yellow"}
#: A terminal at least so wide shows pod names whole.
WIDE = 160
#: One narrower than this has no room for DAGs.
NARROW = 108
#: How a submission that was not the last ended, by its outcome in the ledger.
EARLIER = {
    "succeeded": "tried again",
    "failed": "tried again",
    "replaced": "sent again",
    "revoked": "withdrawn",
}
#: How an earlier part of one try ended: it was deferred, or a sensor put it off.
PAUSED = "paused"
#: What is unique in a pod's name: thirteen characters of the attempt's id and the submission.
POD_TAIL = 16
#: Oldest run first; within a run in the order in which tasks were queued.
QUERY = sa.text(f"""
    SELECT ti.dag_id, ti.run_id, ti.task_id, ti.{MAP_INDEX} AS map_index, ti.state, ti.queue AS asked_queue,
           ti.external_executor_id, ti.start_date, ti.end_date,
           s.attempt_id, s.submission, s.queue, s.backend, s.ran_on, s.external_name, s.outcome, s.reason,
           s.waits_for, s.started_at, s.ended_at, s.try_number
      FROM task_instance ti
      JOIN dag_run run ON run.dag_id = ti.dag_id AND run.run_id = ti.run_id
      LEFT JOIN hybrid_submission s
        ON s.dag_id = ti.dag_id AND s.run_id = ti.run_id
       AND s.task_id = ti.task_id AND s.map_index = ti.{MAP_INDEX}
     WHERE run.queued_at >= :since AND {IS_PRESENT}
     ORDER BY run.queued_at, s.queued_at NULLS LAST, ti.task_id, ti.{MAP_INDEX}, s.submission
     LIMIT 500
""")  # noqa: S608

RUN_STATES = sa.text("SELECT dag_id, run_id, state FROM dag_run WHERE run_id = ANY(:ids)")

Run = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One submission of one task instance."""

    run: Run
    task: str
    queue: str
    backend: str | None
    where: str | None
    state: str
    seconds: float | None
    #: Of all submissions of its task instance, the last: the one that the task's state belongs to.
    is_last: bool
    attempt: int | None


def read_lines(engine: sa.Engine, since: datetime) -> list[Line]:
    """The submissions of every run that was queued since then."""
    with engine.connect() as connection:
        rows = connection.execute(QUERY, {"since": since}).mappings().all()
    return lines_of([dict(row) for row in rows], datetime.now(UTC))


def read_states(engine: sa.Engine, runs: Iterable[Run]) -> dict[Run, str]:
    """The state of each of these runs; ``unknown`` for one that is not there."""
    wanted = dict.fromkeys(runs, "unknown")
    with engine.connect() as connection:
        rows = connection.execute(RUN_STATES, {"ids": [run_id for _, run_id in wanted]}).all()
    return wanted | {(dag, run): state for dag, run, state in rows if (dag, run) in wanted}


def lines_of(rows: Sequence[Mapping[str, Any]], now: datetime) -> list[Line]:
    """Turn the query's rows into lines."""
    lines: list[Line] = []
    following: dict[tuple[object, ...], Mapping[str, object]] = {}
    for row in reversed(rows):
        lines.append(_line(row, following.get(_instance(row)), now))
        following[_instance(row)] = row
    return lines[::-1]


def verdict(
    lines: Iterable[Line], runs: Mapping[Run, str], kubernetes_queues: Sequence[str] = KUBERNETES_QUEUES
) -> list[str]:
    """Everything that speaks against success of these runs, in words; empty if all is well."""
    problems = [
        f"{dag} ({run}): the run is {state}" for (dag, run), state in runs.items() if state != "success"
    ]
    seen: set[Run] = set()
    for line in lines:
        if line.run not in runs:
            continue
        seen.add(line.run)
        problems += _problems(line, kubernetes_queues)
    return problems + [f"{dag} ({run}): has no tasks" for dag, run in runs if (dag, run) not in seen]


def asked_backend(queue: str, kubernetes_queues: Sequence[str]) -> str:
    """The backend that a queue asks for."""
    wants_pod = any(fnmatchcase(queue, pattern) for pattern in kubernetes_queues)
    return "kubernetes" if wants_pod else "celery"


def table(lines: Sequence[Line], height: int | None = None, width: int = WIDE) -> Table:
    """The lines as a table of one row each; the newest ``height`` of them.

    Where ``width`` is short of whole pod names, what is unique in them is kept;
    on a very narrow terminal the DAG is left out.
    """
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    left_out = 1 if width < NARROW else 0
    for heading in ("DAG", "task", "queue", "backend", "worker or pod", "state")[left_out:]:
        made.add_column(heading, no_wrap=True)
    made.add_column("seconds", no_wrap=True, justify="right")
    for line in lines[-height:] if height else lines:
        state = Text(line.state, style=COLOURS.get(line.state, "dim"))
        seconds = "" if line.seconds is None else f"{line.seconds:.1f}"
        where = _short(line) if width < WIDE else line.where or ""
        cells = (line.run[0], line.task, line.queue, line.backend or "", where, state, seconds)
        made.add_row(*cells[left_out:])
    return made


def _short(line: Line) -> str:
    where = line.where or ""
    is_long_pod = line.backend == "kubernetes" and len(where) > POD_TAIL
    return f"…{where[-POD_TAIL:]}" if is_long_pod else where


def _problems(line: Line, kubernetes_queues: Sequence[str]) -> list[str]:
    name = f"{line.run[0]}.{line.task}"
    asked = asked_backend(line.queue, kubernetes_queues)
    problems = []
    if line.is_last and line.state != "success":
        problems.append(f"{name}: is {line.state}")
    if line.is_last and line.backend is None:
        problems.append(f"{name}: the ledger knows no submission of it")
    if line.backend is not None and line.backend != asked:
        problems.append(f"{name}: queue {line.queue} asks for {asked}, but it ran on {line.backend}")
    return problems


def _instance(row: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(row[name] for name in ("dag_id", "run_id", "task_id", "map_index"))


def _line(row: Mapping[str, object], following: Mapping[str, object] | None, now: datetime) -> Line:
    is_last = following is None
    index = row["map_index"]
    task = str(row["task_id"]) + (f"[{index}]" if isinstance(index, int) and index >= 0 else "")
    number = row["try_number"]
    begin, end = (row["start_date"], row["end_date"]) if is_last else (row["started_at"], row["ended_at"])
    return Line(
        run=(str(row["dag_id"]), str(row["run_id"])),
        task=task,
        queue=str(row["queue"] or row["asked_queue"]),
        backend=_text(row["backend"]),
        where=_place(row["ran_on"]) or _pod(row),
        state=_state(row, following),
        seconds=_seconds(begin, end, now),
        is_last=is_last,
        attempt=number if isinstance(number, int) else None,
    )


def _state(row: Mapping[str, object], following: Mapping[str, object] | None) -> str:
    if following is None:
        state = _text(row["state"]) or "waiting"
        waits = _text(row["waits_for"])
        return f"{state}: {waits}" if waits and state == "queued" else state
    # The ledger says how the process ended; that it was not the last means that the task went on.
    if row["outcome"] == "succeeded" and row["try_number"] == following["try_number"]:
        return PAUSED
    return EARLIER.get(_text(row["outcome"]) or "", "open")


def _seconds(begin: object, end: object, now: datetime) -> float | None:
    if not isinstance(begin, datetime):
        return None
    return ((end if isinstance(end, datetime) else now) - begin).total_seconds()


def _pod(row: Mapping[str, object]) -> str | None:
    """The pod of a submission that has not started; a message has no place yet."""
    return _text(row["external_name"]) if row["backend"] == "kubernetes" else None


def _place(ran_on: object) -> str | None:
    """The worker or the pod; the one node goes without saying."""
    return None if ran_on is None else str(ran_on).partition(" on ")[0]


def _text(value: object) -> str | None:
    return None if value is None else str(value)
