"""``airflow hybrid pods advise``: what tasks in pods asked for, took, and ought to ask for.

Reads the ledger and nothing else, changes nothing, and asks no cluster: what
pods took stands in the rows of their ends.
"""

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from fractions import Fraction

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor.cli.ledger import history, reading
from hybrid_executor.cluster.quantity import about
from hybrid_executor.durations import in_words
from hybrid_executor.pods.advice import RULES, Advice, TaskAdvice, advise

GIB = 1 << 30


@suppress_logs_and_warning
@providers_configuration_loaded
def advise_requests(args: Namespace) -> None:
    """Print the advice for each task that ran in a pod since then."""
    now = datetime.now(UTC)
    with reading():
        tasks = advise(history().pod_runs(now - args.since, now, args.dag))
    if args.json:
        print(json.dumps([asdict(task) for task in tasks], indent=2))
        return
    for line in told(tasks):
        print(line)
    if not tasks:
        print(f"no task ended in a pod in the last {in_words(args.since)}")


def told(tasks: Sequence[TaskAdvice]) -> Iterator[str]:
    """The advice in words: a block for each task that was measured, then the others, then the rules."""
    measured = [task for task in tasks if task.measured]
    for task in measured:
        notes = "".join(f"; {note}" for note in task.notes)
        yield f"{task.dag_id}.{task.task_id}: {task.measured} of {task.runs} runs measured{notes}"
        if task.memory:
            yield _memory(task.memory)
        if task.cpu:
            yield _cpu(task.cpu)
    if measured:
        yield ""
        yield from RULES
    silent = [task for task in tasks if not task.measured]
    if silent:
        yield ""
        yield "No numbers:"
    for task in silent:
        yield f"  {task.dag_id}.{task.task_id}: {task.runs} runs; {'; '.join(task.notes)}"


def _memory(advice: Advice) -> str:
    asked = f"asked {_size(advice.request)}, limit {_size(advice.limit)}"
    took = f"took p50 {_size(advice.p50)}, p95 {_size(advice.p95)}, most {_size(advice.highest)}"
    difference = _difference(advice, GIB, "GiB·h")
    return f"  memory {asked}; {took} -> request and limit {_size(advice.proposed)}{difference}"


def _cpu(advice: Advice) -> str:
    took = f"took p50 {_cores(advice.p50)}, p95 {_cores(advice.p95)}, most {_cores(advice.highest)}"
    asked, difference = f"asked {_cores(advice.request)}", _difference(advice, 1000, "cpu·h")
    return f"  cpu    {asked}; {took} -> request {_cores(advice.proposed)}{difference}"


def _difference(advice: Advice, unit: int, name: str) -> str:
    """What the proposal would have freed in these runs, or taken besides."""
    if advice.request is None:
        return ""
    amount = f"{abs(advice.saved_hours) / unit:.1f} {name}"
    return f" (saves {amount})" if advice.saved_hours >= 0 else f" (takes {amount} more)"


def _size(amount: int | None) -> str:
    return "none" if amount is None else about(Fraction(amount))


def _cores(amount_m: int | None) -> str:
    return "none" if amount_m is None else f"{amount_m}m"
