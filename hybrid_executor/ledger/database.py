"""The ledger's durable half, in Airflow's metadata database.

Writes and reads rows through the engine that it is given, and translates every
database error into ``LedgerUnavailable``. It never creates or alters a table
(Alembic does), never decides what a change means, and holds no connection
between two calls. The executor calls it.

Reads and ``record`` may be repeated without a second effect, so a connection
that turns out to be dead (the database was restarted) is replaced and the call
repeated once: the pool need not test connections before it hands them out.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Executable, RowMapping, Select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from hybrid_executor.ledger import queries, statements
from hybrid_executor.ledger.rows import (
    Row,
    change_row_of,
    folded,
    in_a_row,
    in_order,
    record_of,
    row_of,
)
from hybrid_executor.model.attempt import SubmissionId, TaskAddress
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.record import Change, Stage, SubmissionRecord

#: Rows in one statement. Bounds memory and SQLite's parameters; a heartbeat has fewer.
BATCH_ROWS = 1_000
#: What brings the table into the database.
MIGRATE_COMMAND = "airflow db migrate"

#: Undefined table and undefined column, as PostgreSQL (SQLSTATE), MySQL (errno) and SQLite say it.
_UNMIGRATED_CODES = {"42P01", "42703", 1146, 1054}
_UNMIGRATED_WORDS = ("no such table", "no such column", "has no column named")

_T = TypeVar("_T")


class DatabaseLedger:
    """``ports.Ledger`` over the table ``hybrid_submission``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._dialect = engine.dialect.name

    def insert(self, connection: Connection, records: Sequence[SubmissionRecord]) -> None:
        """Write rows inside the caller's open transaction, in a savepoint of their own."""
        if not records:
            return
        rows = [row_of(record) for record in in_order(records)]
        statement = statements.insertion(self._dialect)
        with translated():
            _begin_for_real(connection)
            with connection.begin_nested():
                connection.execute(statement, statements.parameters(self._dialect, rows))

    def record(self, new: Sequence[SubmissionRecord], changes: Sequence[Change]) -> None:
        """Write in one transaction of its own: new rows first, then changes."""
        new_rows = [row_of(record) for record in in_order(new)]
        change_rows = [change_row_of(change) for change in folded(changes)]
        changed = statements.changed(change_rows)
        if not new_rows and not changed:
            return

        def write(connection: Connection) -> None:
            insertion = statements.insertion(self._dialect, skip_existing=True)
            self._execute_in_batches(connection, insertion, new_rows, statements.ALL)
            if not changed:
                return
            # Every lock is taken before the first row is written: rows of a
            # later batch must not be waited for in another order. One row has no order.
            if self._dialect == "postgresql" and len(change_rows) > 1:
                self._execute_in_batches(connection, statements.locking(), change_rows, statements.KEY)
            change = statements.changing(self._dialect, changed)
            self._execute_in_batches(connection, change, change_rows, (*statements.KEY, *changed))

        self._run(write)

    def find(self, attempt_ids: Collection[str]) -> Mapping[str, SubmissionRecord]:
        """The newest submission of each attempt that is known."""
        known: dict[str, SubmissionRecord] = {}
        for batch in _batches(sorted(set(attempt_ids))):
            known |= {record.id.attempt_id: record for record in self._read(statements.by_attempt(batch))}
        return known

    def restarts(self, addresses: Collection[TaskAddress]) -> Mapping[TaskAddress, int]:
        """How many tries in a row, right before each address's own, ended as restarted."""
        tries: defaultdict[statements.TaskKey, list[int]] = defaultdict(list)
        for batch in _batches(sorted({_key(address) for address in addresses})):
            for dag_id, run_id, task_id, map_index, try_number in self._run(_reading(batch)):
                tries[dag_id, run_id, task_id, map_index].append(try_number)
        return {a: in_a_row(tries[_key(a)], a.try_number) for a in addresses}

    def open_elsewhere(self, live_owners: Collection[str], limit: int) -> list[SubmissionRecord]:
        """Open rows whose ``scheduler_job`` is not among ``live_owners``, oldest first."""
        return self._read(statements.open_of_others(sorted(live_owners), limit))

    def open_of(self, owner: str, after: SubmissionRecord | None, limit: int) -> list[SubmissionRecord]:
        """Open rows of one scheduler, oldest first, from the one that follows ``after`` on."""
        place = (after.queued_at, *after.id) if after else None
        return self._read(statements.open_of(owner, place, limit))

    def stages_of(self, owner: str) -> Mapping[str, tuple[int, Stage]]:
        """Every attempt that is open with this scheduler: its newest open submission."""
        rows = self._run(lambda connection: connection.execute(queries.stages_of(owner)).all())
        return {attempt_id: (number, Stage(stage)) for attempt_id, number, stage in rows}

    def celery_loads(self) -> Sequence[tuple[str, str | None, int]]:
        """Queue, worker (None: not started) and how many open Celery submissions."""
        rows = self._run(lambda connection: connection.execute(queries.celery_loads()).all())
        return [(queue, worker, count) for queue, worker, count in rows]

    def _read(self, query: Select[Any]) -> list[SubmissionRecord]:
        rows = self._run(lambda connection: connection.execute(query).mappings().all())
        return [readable(row) for row in rows]

    def _execute_in_batches(
        self, connection: Connection, statement: Executable, rows: Sequence[Row], columns: Sequence[str]
    ) -> None:
        for batch in _batches(rows):
            connection.execute(statement, statements.parameters(self._dialect, batch, columns))

    def _run(self, work: Callable[[Connection], _T]) -> _T:
        """Do idempotent work in a transaction, once more if the connection was dead."""
        with translated():
            try:
                return self._transact(work)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            return self._transact(work)

    def _transact(self, work: Callable[[Connection], _T]) -> _T:
        with self._engine.begin() as connection:
            return work(connection)


def _key(address: TaskAddress) -> statements.TaskKey:
    return address.dag_id, address.run_id, address.task_id, address.map_index


def _reading(keys: Sequence[statements.TaskKey]) -> Callable[[Connection], Sequence[Any]]:
    return lambda connection: connection.execute(statements.restarted_tries(keys)).all()


@contextmanager
def translated() -> Iterator[None]:
    """Database errors as ``LedgerUnavailable``, in words without values."""
    try:
        yield
    except SQLAlchemyError as error:
        raise LedgerUnavailable(explain(error)) from error


def explain(error: SQLAlchemyError) -> str:
    """What went wrong in one line, with what to do; without the statement and its values."""
    cause = getattr(error, "orig", None) or error
    words = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    if _is_unmigrated(cause, words):
        return f"the ledger's table is missing or of an older release ({words}): run `{MIGRATE_COMMAND}`"
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        return f"the metadata database is away or busy ({words}): see [database] sql_alchemy_conn"
    return f"the metadata database refused the ledger's statement ({words})"


def _is_unmigrated(cause: BaseException, words: str) -> bool:
    # psycopg2 says pgcode, psycopg 3 sqlstate, MySQL's drivers put the number first.
    state = getattr(cause, "pgcode", None) or getattr(cause, "sqlstate", None)
    number = next(iter(cause.args), None)
    return bool({state, number} & _UNMIGRATED_CODES) or any(word in words for word in _UNMIGRATED_WORDS)


def _begin_for_real(connection: Connection) -> None:
    """Open SQLite's transaction, which its driver leaves until the first write.

    A SAVEPOINT outside a transaction is one of its own there, and its RELEASE
    would commit rows that the caller may still roll back.
    """
    if connection.dialect.name == "sqlite":
        driver_connection = connection.connection.driver_connection
        if driver_connection is not None and not driver_connection.in_transaction:
            connection.exec_driver_sql("BEGIN")


def readable(row: RowMapping) -> SubmissionRecord:
    """The record of a row; ``LedgerUnavailable`` for one that a later release wrote."""
    try:
        return record_of(row)
    except ValueError as error:
        name = SubmissionId(row["attempt_id"], row["submission"])
        raise LedgerUnavailable(f"the ledger's row {name} is of a later release ({error})") from error


def _batches(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), BATCH_ROWS):
        yield items[start : start + BATCH_ROWS]
