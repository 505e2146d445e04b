"""The ledger's SQL: which statement, with which parameters, on which database.

Only builds statements; ``database`` runs them. PostgreSQL takes a batch as one
array per column, so that a statement's text, its plan and its round trips are
the same for one row and for a thousand; a change names the columns that it
sets. SQLite, which has no round trips, and MySQL take one row after the other
through the driver's ``executemany``.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Insert,
    Select,
    String,
    TableValuedAlias,
    Text,
    Update,
    and_,
    bindparam,
    cast,
    func,
    insert,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from hybrid_executor.ledger.rows import CHANGEABLE_COLUMNS, Row
from hybrid_executor.ledger.tables import submission
from hybrid_executor.model.record import Outcome

#: dag, run, task, map index.
TaskKey = tuple[str, str, str, int]
#: One dictionary of arrays, or a list of rows for the driver to repeat.
Parameters = dict[str, list[Any]] | list[Row]

#: Texts of UPDATE that are kept, one for each set of columns that was changed together. Steps make a dozen.
STATEMENTS_MAX = 64
#: Columns that name a row, and all that there are.
KEY = ("attempt_id", "submission")
ALL = tuple(column.name for column in submission.columns)
#: Of a row that is found by its key (PostgreSQL). ``ended_at IS NULL`` would offer the planner the index of
#: what is open: where its statistics are of a quieter hour, that seems short, and all in flight is read.
_IS_OPEN = func.num_nulls(submission.c.ended_at) == 1


def parameters(dialect: str, rows: Sequence[Row], names: Sequence[str] = ALL) -> Parameters:
    """These columns of the rows as the statements below take them; no parameter has a column's bare name."""
    if dialect == "postgresql":
        return {f"p_{name}": [row.get(name) for row in rows] for name in names}
    return [{f"p_{name}": row.get(name) for name in names} for row in rows]


def changed(rows: Iterable[Row]) -> tuple[str, ...]:
    """The columns that at least one of these rows of changes sets, in one order whatever the rows' is."""
    named = {name for row in rows for name in row}
    return tuple(name for name in CHANGEABLE_COLUMNS if name in named)


@cache
def insertion(dialect: str, *, skip_existing: bool = False) -> Insert:
    """INSERT the rows; what is there already is an error, or skipped."""
    statement = _insert_for(dialect, skip_existing=skip_existing)
    if dialect == "postgresql":
        arrays = _arrays(ALL)
        return statement.from_select(list(ALL), select(*(arrays.c[name] for name in ALL)))
    return statement.values({name: _parameter(name) for name in ALL})


@cache
def locking() -> Select[Any]:
    """Lock the open rows that are about to change, in the order of their keys (PostgreSQL).

    UPDATE locks rows in the order in which its plan meets them, and two
    schedulers with two plans could wait for each other.
    """
    arrays = _arrays(KEY)
    return (
        select(submission.c.attempt_id, submission.c.submission)
        .join(arrays, _same_row(arrays))
        .where(_IS_OPEN)
        .order_by(submission.c.attempt_id, submission.c.submission)
        .with_for_update(of=submission)
    )


@lru_cache(maxsize=STATEMENTS_MAX)
def changing(dialect: str, columns: Sequence[str]) -> Update:
    """UPDATE these columns of the rows that have not ended; a NULL leaves its column as it is.

    Only what a batch sets is named: most of a row's columns are of no matter to any one step of an attempt,
    and each costs a value for each row, in the client, on the wire and in the server.
    """
    if dialect == "postgresql":
        arrays = _arrays((*KEY, *columns))
        return (
            update(submission)
            .where(_same_row(arrays), _IS_OPEN)
            .values({name: func.coalesce(arrays.c[name], submission.c[name]) for name in columns})
        )
    return (
        update(submission)
        .where(*(submission.c[name] == _parameter(name) for name in KEY), submission.c.ended_at.is_(None))
        .values({name: func.coalesce(_parameter(name), submission.c[name]) for name in columns})
    )


def by_attempt(attempt_ids: Collection[str]) -> Select[Any]:
    """Every submission of the attempts, the newest of each last."""
    return (
        select(submission)
        .where(submission.c.attempt_id.in_(attempt_ids))
        .order_by(submission.c.attempt_id, submission.c.submission)
    )


def restarted_tries(tasks: Collection[TaskKey]) -> Select[Any]:
    """The tries of these tasks that ended as restarted: the task's key and the try."""
    key = (submission.c.dag_id, submission.c.run_id, submission.c.task_id, submission.c.map_index)
    return select(*key, submission.c.try_number).where(
        tuple_(*key).in_(tasks), submission.c.outcome == Outcome.RESTARTED.value
    )


def open_of_others(live_owners: Collection[str], limit: int) -> Select[Any]:
    """Open rows that no live scheduler answers for, oldest first."""
    return (
        select(submission)
        .where(submission.c.ended_at.is_(None), submission.c.scheduler_job.not_in(live_owners))
        # ended_at is NULL in all of them; naming it keeps the planner from walking
        # the whole history by the index on queued_at alone.
        .order_by(
            submission.c.ended_at, submission.c.queued_at, submission.c.attempt_id, submission.c.submission
        )
        .limit(limit)
    )


def open_of(owner: str, after: tuple[datetime, str, int] | None, limit: int) -> Select[Any]:
    """Open rows of one scheduler, oldest first, behind the time and key ``after``."""
    order = (submission.c.queued_at, submission.c.attempt_id, submission.c.submission)
    query = select(submission).where(submission.c.ended_at.is_(None), submission.c.scheduler_job == owner)
    if after:
        query = query.where(submission.c.queued_at >= after[0], tuple_(*order) > after)
    # See ``open_of_others``.
    return query.order_by(submission.c.ended_at, *order).limit(limit)


def _insert_for(dialect: str, *, skip_existing: bool) -> Insert:
    if not skip_existing:
        return insert(submission)
    if dialect == "postgresql":
        return postgresql.insert(submission).on_conflict_do_nothing()
    if dialect == "sqlite":
        return sqlite.insert(submission).on_conflict_do_nothing()
    # INSERT IGNORE would also hide values that do not fit their columns.
    return mysql.insert(submission).on_duplicate_key_update(attempt_id=submission.c.attempt_id)


def _parameter(name: str) -> ColumnElement[Any]:
    return bindparam(f"p_{name}", type_=submission.c[name].type)


def _arrays(names: Sequence[str]) -> TableValuedAlias:
    """The batch as a table: ``unnest`` of one typed array per column."""
    columns = [submission.c[name] for name in names]
    batch = func.unnest(*(_array(column) for column in columns))
    return batch.table_valued(*(Column(c.name, c.type) for c in columns)).render_derived(name="batch")


def _array(column: Column[Any]) -> ColumnElement[Any]:
    # Not VARCHAR(n): a cast to that would cut a value in silence.
    kind = postgresql.ARRAY(Text() if isinstance(column.type, String) else column.type)
    return cast(bindparam(f"p_{column.name}", type_=kind), kind)


def _same_row(arrays: TableValuedAlias) -> ColumnElement[bool]:
    return and_(*(submission.c[name] == arrays.c[name] for name in KEY))
