"""``airflow hybrid attempts``: submissions from the ledger, newest first, in pages."""

import json
from argparse import Namespace
from datetime import UTC, datetime
from typing import Any

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor.cli.ledger import history, plain, reading
from hybrid_executor.cli.routes import show, tell
from hybrid_executor.durations import in_words
from hybrid_executor.ledger.queries import Place, Wanted
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, Stage, SubmissionRecord


@suppress_logs_and_warning
@providers_configuration_loaded
def attempts(args: Namespace) -> None:
    """Print one row per submission; how to see the next page goes to standard error."""
    now = datetime.now(UTC)
    wanted = Wanted(
        since=now - args.since,
        dag_id=args.dag,
        run_id=args.run,
        task_id=args.task,
        queue=args.queue,
        backend=BackendName(args.backend) if args.backend else None,
        state=_state(args.state),
        reason=Reason(args.reason) if args.reason else None,
    )
    with reading():
        page = history().page(wanted, args.limit, _place(args.after) if args.after else None)
    row = _record if args.output in ("json", "yaml") else _row
    show([row(record, now) for record in page.records], args.output)
    if page.following:
        tell([f"There are more; the next page: --after {page.following.mark}"])


def _state(text: str | None) -> Stage | Outcome | None:
    if not text:
        return None
    return Stage(text) if text in list(Stage) else Outcome(text)


def _row(record: SubmissionRecord, now: datetime) -> dict[str, str]:
    """What fits on a line."""
    address = record.address
    return {
        "queued": f"{in_words(now - record.queued_at)} ago",
        "task": address.task if address else f"{record.kind}",
        "run": address.run_id if address else "",
        "try": (str(address.try_number) if address else "") + _again(record),
        "queue": record.queue,
        "backend": str(record.backend),
        "state": str(record.state),
        "took": _took(record, now),
        "why": str(record.diagnosis or ""),
        "where": record.where or "",
        "attempt": record.id.attempt_id,
    }


def _record(record: SubmissionRecord, now: datetime) -> dict[str, str]:  # noqa: ARG001 - as ``_row``
    """All of it."""
    return {name: _text(value) for name, value in plain(record).items()}


def _again(record: SubmissionRecord) -> str:
    return f" (submission {record.id.number})" if record.id.number > 1 else ""


def _took(record: SubmissionRecord, now: datetime) -> str:
    """How long it has run; empty for what has not started."""
    return in_words((record.ended_at or now) - record.started_at) if record.started_at else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, list) else str(value)


def _place(mark: str) -> Place:
    try:
        return Place.at(mark)
    except ValueError as error:
        raise SystemExit(f"--after: {mark!r} is no place that this command has named") from error
