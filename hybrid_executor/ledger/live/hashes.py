"""Records as fields of a hash, and back: the columns of the ledger's table, as text.

Pure. A column without a value has no field, so a change adds fields and takes
none away, as in the table. ``store`` and ``reader`` call it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Double, Integer
from sqlalchemy.dialects import sqlite

from hybrid_executor.ledger.rows import Row, change_row_of, record_of, row_of
from hybrid_executor.ledger.tables import CleanText, UtcTime, submission
from hybrid_executor.model.record import Change, SubmissionRecord

Fields = dict[str, str]

_KEY = ("attempt_id", "submission")
#: Looked up for every value of every change: the table's own collection takes ten times as long.
_KINDS = {column.name: column.type for column in submission.columns}
#: CleanText asks for a dialect and takes no notice of which.
_DIALECT = sqlite.dialect()


def fields_of(record: SubmissionRecord) -> Fields:
    """Every column that has a value, the key's among them."""
    return _texts(row_of(record))


def fields_of_change(change: Change) -> Fields:
    """The new values; without the key."""
    texts = _texts(change_row_of(change))
    for name in _KEY:
        texts.pop(name, None)
    return texts


def record_from(fields: Mapping[str, str]) -> SubmissionRecord:
    """The record that these fields were made of. ValueError or KeyError for what a later release wrote."""
    texts = {name: fields.get(name) for name in _KINDS}
    return record_of({name: None if text is None else _value(name, text) for name, text in texts.items()})


def _texts(row: Row) -> Fields:
    return {name: _text(name, value) for name, value in row.items() if value is not None}


def _text(name: str, value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    kind = _KINDS[name]
    return (
        (kind.process_bind_param(str(value), _DIALECT) or "") if isinstance(kind, CleanText) else str(value)
    )


def _value(name: str, text: str) -> Any:
    kind = _KINDS[name]
    if isinstance(kind, UtcTime):
        return datetime.fromisoformat(text)
    if isinstance(kind, Double):
        return float(text)
    return int(text) if isinstance(kind, Integer | BigInteger) else text
