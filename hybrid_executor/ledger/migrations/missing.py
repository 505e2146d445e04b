"""Adds what a table does not have yet; the revisions call it.

Where tables are there and their revision is not, Airflow takes them for the
first revision's, whatever release made them: every later one finds some of its
work done. Where the SQL is only printed there is nobody to ask, and all of it
is printed.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op


def add_columns(table: str, *columns: sa.Column[Any]) -> None:
    """Those of them that are missing."""
    there = {column["name"] for column in _inspected().get_columns(table)} if _can_ask() else set()
    for column in columns:
        if column.name not in there:
            op.add_column(table, column)


def create_table(name: str, *columns: sa.Column[Any]) -> None:
    """The table, if there is none of its name."""
    if not (_can_ask() and _inspected().has_table(name)):
        op.create_table(name, *columns)


def create_index(name: str, table: str, columns: Sequence[str], **options: Any) -> None:
    """The index, if there is none of its name."""
    there = {index["name"] for index in _inspected().get_indexes(table)} if _can_ask() else set()
    if name not in there:
        op.create_index(name, table, columns, **options)


def _can_ask() -> bool:
    return not op.get_context().as_sql


def _inspected() -> sa.Inspector:
    return sa.inspect(op.get_bind())
