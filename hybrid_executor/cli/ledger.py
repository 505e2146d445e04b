"""``airflow hybrid ledger``, and what commands that read it share: rows as JSON, errors as an exit."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor import contract
from hybrid_executor.cli.routes import show
from hybrid_executor.durations import in_words
from hybrid_executor.ledger.history import History
from hybrid_executor.ledger.revisions import REVISIONS, current_problem
from hybrid_executor.ledger.tables import submission
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.record import SubmissionRecord


@suppress_logs_and_warning
@providers_configuration_loaded
def ledger(args: Namespace) -> None:
    """Print one row about the table."""
    problem = current_problem(contract.metadata_engine())
    if problem:
        raise SystemExit(problem)
    with reading():
        told = history()
        first, now = told.begins_at(), datetime.now(UTC)
        row = {
            "table": submission.name,
            "revision": REVISIONS[-1],
            "open": str(sum(told.owners().values())),
            "begins": f"{in_words(now - first)} ago" if first else "",
        }
    show([row], args.output)


def history() -> History:
    """The ledger of this Airflow."""
    return History(contract.metadata_engine())


@contextmanager
def reading() -> Iterator[None]:
    """Exit with one line where the metadata database does not answer."""
    try:
        yield
    except (LedgerUnavailable, contract.MetadataUnavailable) as error:
        raise SystemExit(str(error)) from error


def plain(record: SubmissionRecord) -> dict[str, Any]:
    """A submission as JSON has it: flat, with the names of the ledger's columns."""
    values = asdict(record)
    address = values.pop("address") or {}
    attempt_id, number = values.pop("id")
    return {"attempt_id": attempt_id, "submission": number, "state": str(record.state)} | {
        name: json_value(value) for name, value in (address | values).items()
    }


def json_value(value: Any) -> Any:
    """One value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return sorted(value) if isinstance(value, frozenset) else value
