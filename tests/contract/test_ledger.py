"""The ledger's contract over memory, SQLite, PostgreSQL and MariaDB, and what only a database can show."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, insert, text
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateIndex

from hybrid_executor.ledger import statements
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.ledger.memory import MemoryLedger
from hybrid_executor.ledger.rows import CHANGEABLE_COLUMNS, row_of
from hybrid_executor.ledger.tables import metadata, submission
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.record import Change
from hybrid_executor.standalone.stack.postgres import PostgresServer
from tests.contract.ledger_suite import START, Harness, LedgerSuite, Transaction, a_full_record, a_record


@dataclass(frozen=True)
class MemoryHarness(Harness):
    ledger: MemoryLedger = field(default_factory=MemoryLedger)

    @contextmanager
    def transaction(self) -> Iterator[tuple[Any, Transaction]]:
        transaction = self.ledger.begin()
        yield transaction, transaction


@dataclass(frozen=True)
class DatabaseHarness(Harness):
    engine: Engine

    @contextmanager
    def transaction(self) -> Iterator[tuple[Any, Transaction]]:
        """The caller is an ORM session, as Airflow's scheduler is."""
        with Session(self.engine) as session:
            yield session.connection(), session


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


class TestMemory(LedgerSuite):
    @pytest.fixture
    def harness(self) -> Harness:
        return MemoryHarness()

    def test_a_ledger_that_is_away_says_so(self) -> None:
        ledger = MemoryLedger()
        ledger.away = True
        with pytest.raises(LedgerUnavailable):
            ledger.record([a_record()], [])
        with pytest.raises(LedgerUnavailable):
            ledger.find(["x"])
        ledger.record([], [])


class DatabaseSuite(LedgerSuite):
    """What every database keeps besides; needs an ``engine`` fixture."""

    @pytest.fixture
    def harness(self, engine: Engine) -> Harness:
        metadata.create_all(engine)
        return DatabaseHarness(DatabaseLedger(engine), engine)

    @pytest.mark.parametrize("rows", [1, 100, 1_000])
    def test_round_trips_do_not_grow_with_the_rows(self, harness: DatabaseHarness, rows: int) -> None:
        records = [a_record() for _ in range(rows)]
        with counted(harness.engine) as sent:
            harness.ledger.record(records, [])
        assert len(sent) == 1
        with counted(harness.engine) as sent:
            harness.ledger.record([], [Change(id=record.id, submitted_at=START) for record in records])
        assert len(sent) == (2 if harness.engine.dialect.name == "postgresql" and rows > 1 else 1)
        with counted(harness.engine) as sent:
            harness.ledger.find([record.id.attempt_id for record in records])
        assert len(sent) == 1
        with counted(harness.engine) as sent, harness.transaction() as (connection, transaction):
            harness.ledger.insert(connection, [a_record() for _ in range(rows)])
            transaction.commit()
        assert len([statement for statement in sent if statement.startswith("INSERT")]) == 1

    def test_a_change_names_the_columns_that_it_sets_and_no_other(self, harness: DatabaseHarness) -> None:
        """Each column is a value for each row: all of them took a heartbeat that ends many twice as long."""
        one, other = a_record(), a_record()
        harness.ledger.record([one, other], [])
        with counted(harness.engine) as sent:
            harness.ledger.record(
                [],
                [Change(id=one.id, submitted_at=START), Change(id=other.id, where="worker@1", message="")],
            )
        update = sent[-1]
        assert {name for name in CHANGEABLE_COLUMNS if f"{name}=" in update} == {
            "submitted_at",
            "ran_on",
            "message",
        }
        known = harness.ledger.find([one.id.attempt_id, other.id.attempt_id])
        assert known[one.id.attempt_id] == replace(one, submitted_at=START)
        assert known[other.id.attempt_id] == replace(other, where="worker@1", message="")

    def test_a_change_of_nothing_is_none(self, harness: DatabaseHarness) -> None:
        record = a_record()
        harness.ledger.record([record], [])
        with counted(harness.engine) as sent:
            harness.ledger.record([], [Change(id=record.id)])
        assert sent == []
        assert harness.ledger.find([record.id.attempt_id]) == {record.id.attempt_id: record}

    def test_no_change_costs_nothing(self, harness: DatabaseHarness) -> None:
        connections: list[object] = []
        event.listen(harness.engine, "checkout", lambda *arguments: connections.append(arguments))
        harness.ledger.record([], [])
        assert harness.ledger.find([]) == {}
        assert connections == []

    def test_an_insert_works_where_sessions_must_not_commit(self, harness: DatabaseHarness) -> None:
        """The executor writes in ``before_commit``, in the middle of the session's commit."""
        record = a_record()
        with Session(harness.engine) as session:
            event.listen(
                session,
                "before_commit",
                lambda session: harness.ledger.insert(session.connection(), [record]),
            )
            session.connection()
            session.commit()
        assert harness.ledger.find([record.id.attempt_id]) == {record.id.attempt_id: record}

    def test_a_missing_table_leaves_the_callers_transaction_whole_and_says_what_to_do(
        self, engine: Engine
    ) -> None:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE airflows_own (id INTEGER)"))
        ledger = DatabaseLedger(engine)
        with Session(engine) as session:
            session.execute(text("INSERT INTO airflows_own VALUES (1)"))
            with pytest.raises(LedgerUnavailable, match="airflow db migrate") as raised:
                ledger.insert(session.connection(), [a_record()])
            assert isinstance(raised.value.__cause__, SQLAlchemyError)
            session.execute(text("INSERT INTO airflows_own VALUES (2)"))
            session.commit()
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM airflows_own")) == 2

    def test_every_call_says_what_to_do_about_a_missing_table(self, engine: Engine) -> None:
        ledger = DatabaseLedger(engine)
        calls: list[Callable[[], object]] = [
            lambda: ledger.record([a_record()], []),
            lambda: ledger.find(["x"]),
            lambda: ledger.open_elsewhere([], 1),
            lambda: ledger.open_of("17", None, 1),
        ]
        for call in calls:
            with pytest.raises(LedgerUnavailable, match="airflow db migrate"):
                call()

    def test_a_batch_with_a_bad_row_is_all_or_nothing(self, harness: DatabaseHarness) -> None:
        good, bad = a_record(), a_record(queued_at=datetime(2026, 1, 1))  # noqa: DTZ001
        with pytest.raises(LedgerUnavailable):
            harness.ledger.record([good, bad], [])
        assert harness.ledger.find([good.id.attempt_id, bad.id.attempt_id]) == {}

    def test_text_that_no_database_takes_never_keeps_a_batch_out(self, harness: DatabaseHarness) -> None:
        record = a_full_record(message="killed\x00 by \ud800", queue="q" * 300, where="w\x00", ended_at=None)
        ledger = harness.ledger
        ledger.record([record], [Change(id=record.id, message="\x00" + "x" * 100_000)])
        found = ledger.find([record.id.attempt_id])[record.id.attempt_id]
        assert found.queue == "q" * 256
        assert found.where == "w\N{REPLACEMENT CHARACTER}"
        assert found.message is not None
        assert len(found.message) == 16_000

    def test_a_reason_of_a_later_release_is_read_as_none(self, harness: DatabaseHarness) -> None:
        record = a_full_record()
        with harness.engine.begin() as connection:
            connection.execute(insert(submission).values(row_of(record) | {"reason": "FromTheFuture"}))
        found = harness.ledger.find([record.id.attempt_id])[record.id.attempt_id]
        assert found == replace(record, reason=None)

    def test_an_outcome_of_a_later_release_is_named(self, harness: DatabaseHarness) -> None:
        record = a_full_record()
        with harness.engine.begin() as connection:
            connection.execute(insert(submission).values(row_of(record) | {"outcome": "future"}))
        with pytest.raises(LedgerUnavailable, match=r"later release.*future"):
            harness.ledger.find([record.id.attempt_id])


class TestSqlite(DatabaseSuite):
    @pytest.fixture
    def engine(self, sqlite_engine: Engine) -> Engine:
        return sqlite_engine


class TestPostgres(DatabaseSuite):
    @pytest.fixture
    def engine(self, postgres_engine: Engine) -> Engine:
        return postgres_engine

    def test_a_dead_connection_is_replaced_without_a_pre_ping(self, harness: DatabaseHarness) -> None:
        record = a_record()
        harness.ledger.record([record], [])
        for call in (
            lambda: harness.ledger.record([], [Change(id=record.id, exit_code=0)]),
            lambda: harness.ledger.find([record.id.attempt_id]),
            lambda: harness.ledger.open_elsewhere([], 1),
        ):
            kill_other_connections(harness.engine)
            call()
        assert harness.ledger.find([record.id.attempt_id])[record.id.attempt_id].exit_code == 0

    def test_a_server_that_is_killed_and_comes_back_is_used_again(self, own_postgres: PostgresServer) -> None:
        engine = create_engine(own_postgres.dsn)
        metadata.create_all(engine)
        ledger, record = DatabaseLedger(engine), a_record()
        ledger.record([record], [])
        own_postgres.kill()
        with pytest.raises(LedgerUnavailable):
            ledger.record([], [Change(id=record.id, exit_code=0)])
        own_postgres.start()
        ledger.record([], [Change(id=record.id, exit_code=0)])
        own_postgres.kill()
        own_postgres.start()
        assert ledger.find([record.id.attempt_id]) == {record.id.attempt_id: replace(record, exit_code=0)}
        engine.dispose()

    def test_a_database_that_is_away_is_a_reason_to_wait(self, harness: DatabaseHarness) -> None:
        nobody = create_engine(harness.engine.url.set(port=1))
        with pytest.raises(LedgerUnavailable, match="away or busy") as raised:
            DatabaseLedger(nobody).record([a_record()], [])
        assert str(harness.engine.url.password) not in str(raised.value)

    def test_two_schedulers_that_change_the_same_rows_never_deadlock(self, harness: DatabaseHarness) -> None:
        records = [a_record() for _ in range(300)]
        harness.ledger.record(records, [])
        orders = [records, list(reversed(records)), records[150:] + records[:150]]
        failures: list[LedgerUnavailable] = []

        def change(order: list[Any]) -> None:
            try:
                for round_ in range(10):
                    harness.ledger.record([], [Change(id=row.id, exit_code=round_) for row in order])
            except LedgerUnavailable as failure:
                failures.append(failure)

        threads = [threading.Thread(target=change, args=(order,)) for order in orders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


@pytest.mark.mariadb
class TestMariadb(DatabaseSuite):
    """What comes nearest to a MySQL here."""

    @pytest.fixture
    def engine(self, mariadb_url: str) -> Iterator[Engine]:
        engine = create_engine(mariadb_url)
        yield engine
        engine.dispose()


class TestMysqlDialect:
    """What is sent to a MySQL, compiled and read."""

    def test_a_row_that_is_there_already_is_skipped_without_hiding_bad_values(self) -> None:
        sql = str(statements.insertion("mysql", skip_existing=True).compile(dialect=mysql.dialect()))
        assert sql.endswith("ON DUPLICATE KEY UPDATE attempt_id = hybrid_submission.attempt_id")
        assert "IGNORE" not in sql

    def test_a_change_keeps_what_is_null_and_spares_what_has_ended(self) -> None:
        sql = str(statements.changing("mysql", ("exit_code",)).compile(dialect=mysql.dialect()))
        assert "exit_code=coalesce(%s, hybrid_submission.exit_code)" in sql
        assert sql.endswith("AND hybrid_submission.ended_at IS NULL")

    def test_the_open_rows_have_an_index_although_it_cannot_be_partial(self) -> None:
        (index,) = (index for index in submission.indexes if index.name == "hybrid_submission_open_idx")
        columns = "(ended_at, queued_at, scheduler_job)"
        sql = str(CreateIndex(index).compile(dialect=mysql.dialect()))
        assert sql == f"CREATE INDEX hybrid_submission_open_idx ON hybrid_submission {columns}"

    def test_times_are_kept_to_the_microsecond(self) -> None:
        assert submission.c.queued_at.type.compile(dialect=mysql.dialect()) == "DATETIME(6)"


@contextmanager
def counted(engine: Engine) -> Iterator[list[str]]:
    """Collect the statements that go to the database."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def kill_other_connections(engine: Engine) -> None:
    """End every connection to the database but one, as a restart of the server does."""
    lone = create_engine(engine.url)
    with lone.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    lone.dispose()
