"""What the commands that read the ledger share: the ledger, its rows as JSON, its errors as an exit."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

from hybrid_executor import contract
from hybrid_executor.ledger.history import History
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.record import SubmissionRecord


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
        name: _plain(value) for name, value in (address | values).items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return sorted(value) if isinstance(value, frozenset) else value
