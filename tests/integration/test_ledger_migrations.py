"""The ledger's table comes, goes and is checked with Airflow's own commands, the same by either way.

A fresh database gets it from ``create_all``, an older one from the migrations;
nobody may be able to tell which.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect, text

from hybrid_executor import ledger, provider, version
from hybrid_executor.ledger.revisions import REVISIONS, VERSION_TABLE, current_problem
from hybrid_executor.ledger.tables import metadata, submission
from tests.fixtures.mariadb import MariadbServer
from tests.fixtures.servers import SharedPostgres

HERE = Path(ledger.__file__).parent
MANAGER = "hybrid_executor.ledger.manager.LedgerDBManager"


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def engines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """Two empty databases of one kind."""
    if request.param == "sqlite":
        yield from _pair(f"sqlite:///{tmp_path / 'one.db'}", f"sqlite:///{tmp_path / 'two.db'}")
    else:
        name = "postgres" if request.param == "postgresql" else request.param
        server: SharedPostgres | MariadbServer = request.getfixturevalue(name)
        with server.fresh_database() as one, server.fresh_database() as two:
            yield from _pair(one, two)


def _pair(one: str, two: str) -> Iterator[tuple[Engine, Engine]]:
    engines = create_engine(one), create_engine(two)
    yield engines
    for engine in engines:
        engine.dispose()


def alembic_config(engine: Engine) -> Config:
    config = Config(HERE / "alembic.ini")
    config.attributes["engine"] = engine
    return config


def schema_of(engine: Engine) -> dict[str, Any]:
    """Columns, types, keys and indexes of the table, as the database itself describes them."""
    inspector = inspect(engine)
    columns = inspector.get_columns(submission.name)
    return {
        "columns": [
            (column["name"], repr(column["type"]), column["nullable"], column["default"])
            for column in columns
        ],
        "key": inspector.get_pk_constraint(submission.name)["constrained_columns"],
        "indexes": sorted(_described(index) for index in inspector.get_indexes(submission.name)),
    }


def _described(index: Any) -> tuple[str, ...]:
    where = {name: str(value) for name, value in index.get("dialect_options", {}).items() if "where" in name}
    return (index["name"], str(index["column_names"]), str(index["unique"]), str(where))


def test_a_migrated_database_equals_a_fresh_one(engines: tuple[Engine, Engine]) -> None:
    fresh, migrated = engines
    metadata.create_all(fresh)
    command.upgrade(alembic_config(migrated), "head")
    assert schema_of(migrated) == schema_of(fresh)
    assert len(schema_of(fresh)["indexes"]) == 4
    if fresh.dialect.name != "mysql":  # which has no partial indexes
        assert "ended_at IS NULL" in str(schema_of(fresh)["indexes"])
        assert "ended_at IS NOT NULL" in str(schema_of(fresh)["indexes"])
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


def test_a_downgrade_takes_the_table_away_and_an_upgrade_brings_it_back(
    engines: tuple[Engine, Engine],
) -> None:
    engine, _ = engines
    command.upgrade(alembic_config(engine), "head")
    command.downgrade(alembic_config(engine), "base")
    assert not inspect(engine).has_table(submission.name)
    command.upgrade(alembic_config(engine), "head")
    assert inspect(engine).has_table(submission.name)


def test_what_is_wrong_with_a_ledger_is_said_with_the_command_that_mends_it(
    engines: tuple[Engine, Engine],
) -> None:
    engine, _ = engines
    assert "airflow db migrate" in (current_problem(engine) or "")
    command.upgrade(alembic_config(engine), "head")
    assert current_problem(engine) is None
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))  # noqa: S608
    assert current_problem(engine) is None, "a newer table serves an older release"
    command.downgrade(_stamped(engine), "base")
    assert "not migrated" in (current_problem(engine) or "")


def _stamped(engine: Engine) -> Config:
    config = alembic_config(engine)
    command.stamp(config, "head", purge=True)
    return config


def test_a_database_that_is_away_is_a_problem_too() -> None:
    nobody = create_engine("postgresql+psycopg2://someone:secret@127.0.0.1:1/nothing")
    problem = current_problem(nobody) or ""
    assert "away" in problem
    assert "secret" not in problem


def test_the_revisions_that_the_code_names_are_the_scripts() -> None:
    from hybrid_executor.ledger.manager import LedgerDBManager

    scripts = ScriptDirectory.from_config(Config(HERE / "alembic.ini")).walk_revisions("base", "heads")
    assert tuple(script.revision for script in scripts)[::-1] == REVISIONS
    heads = LedgerDBManager.revision_heads_map
    assert list(heads.values())[-1] == REVISIONS[-1]
    assert _numbers(list(heads)[-1]) <= _numbers(version.__version__)
    assert provider.get_provider_info()["db-managers"] == [MANAGER]


def _numbers(text_: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text_.split(".")[:3])


def airflow(dsn: str, home: Path, *commands: str) -> list[str]:
    """Run Airflow commands one after the other in one process; return how each ended."""
    program = """
import sys
from airflow import settings
from airflow.cli import cli_parser
parser = cli_parser.get_parser()
for line in sys.argv[1:]:
    arguments = parser.parse_args(line.split())
    try:
        arguments.func(arguments)
        print("ENDED ok", flush=True)
    except (Exception, SystemExit) as error:
        print("ENDED", type(error).__name__, flush=True)
    # What the end of a command's process would do: a read that stays open keeps a DROP waiting.
    if settings.Session:
        settings.Session.remove()
    settings.engine.dispose()
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": dsn,
        "AIRFLOW__DATABASE__EXTERNAL_DB_MANAGERS": MANAGER,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *commands],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    ends = [line.removeprefix("ENDED ") for line in done.stdout.splitlines() if line.startswith("ENDED ")]
    assert len(ends) == len(commands), done.stdout + done.stderr
    return ends


def test_airflows_own_commands_create_check_downgrade_upgrade_and_reset_the_ledger(
    airflow_database_url: str, tmp_path: Path
) -> None:
    engine = create_engine(airflow_database_url)
    assert current_problem(engine) is None, "`airflow db migrate` has made the fixture"
    downgrade = f"db-manager downgrade {MANAGER} --to-revision base --yes"
    ends = airflow(airflow_database_url, tmp_path, "db check-migrations -t 1", downgrade)
    assert ends == ["ok", "ok"]
    assert not inspect(engine).has_table(submission.name)

    ends = airflow(airflow_database_url, tmp_path, "db check-migrations -t 1", "db migrate")
    assert ends == ["TimeoutError", "ok"]
    assert current_problem(engine) is None

    with engine.begin() as connection:
        connection.execute(text(f"DELETE FROM {VERSION_TABLE}"))  # noqa: S608
    migrate_up = f"db-manager migrate {MANAGER}"
    ends = airflow(airflow_database_url, tmp_path, migrate_up, "db reset --yes", "db check-migrations -t 1")
    assert ends == ["ok", "ok", "ok"]
    assert current_problem(engine) is None
    engine.dispose()


def test_airflow_brings_the_ledger_into_sqlite(tmp_path: Path) -> None:
    dsn = f"sqlite:///{tmp_path / 'airflow.db'}"
    assert airflow(dsn, tmp_path, "db migrate", "db check-migrations -t 1") == ["ok", "ok"]
    engine = create_engine(dsn)
    assert current_problem(engine) is None
    engine.dispose()
