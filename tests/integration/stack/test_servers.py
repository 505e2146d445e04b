"""PostgreSQL and Valkey: passwords, kills, restarts."""

from pathlib import Path

import pytest
import redis
import sqlalchemy as sa

from hybrid_executor.standalone.stack.postgres import PostgresServer
from hybrid_executor.standalone.stack.process import descendants, is_running
from hybrid_executor.standalone.stack.valkey import ValkeyServer


def test_postgres_keeps_what_was_committed_before_a_kill(own_postgres: PostgresServer) -> None:
    engine = sa.create_engine(own_postgres.dsn, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t AS SELECT generate_series(1, 50000) AS n")
    port = own_postgres.port
    own_postgres.kill()
    own_postgres.start()
    assert own_postgres.port == port
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM t")) == 50000


def test_valkey_keeps_what_was_acknowledged_before_a_kill(own_valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(own_valkey.url) as client:
        for number in range(500):
            client.lpush("list", number)
        own_valkey.kill()
        own_valkey.start()
        assert client.llen("list") == 500


def test_postgres_refuses_a_wrong_password(own_postgres: PostgresServer) -> None:
    wrong = own_postgres.dsn.replace(own_postgres.password, "guessed")
    with pytest.raises(sa.exc.OperationalError, match="password authentication failed"):
        sa.create_engine(wrong, poolclass=sa.NullPool).connect()


def test_valkey_refuses_a_client_without_password(own_valkey: ValkeyServer) -> None:
    url = f"redis://127.0.0.1:{own_valkey.port}/0"
    with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_both_servers_listen_on_the_loopback_alone(
    own_postgres: PostgresServer, own_valkey: ValkeyServer
) -> None:
    for server in (own_postgres, own_valkey):
        assert server.port
        assert listening_addresses(server.port) == {"0100007F"}


def listening_addresses(port: int) -> set[str]:
    """The addresses, as the kernel writes them, on which something listens at this port."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {
        line[1].partition(":")[0] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")
    }


def test_a_stopped_postgres_leaves_no_process(own_postgres: PostgresServer) -> None:
    pid = own_postgres.process.pid
    assert pid
    family = {pid, *descendants(pid)}
    assert len(family) > 3
    own_postgres.stop()
    assert not any(is_running(member) for member in family)


def test_postgres_starts_although_its_old_lock_names_a_living_process(own_postgres: PostgresServer) -> None:
    own_postgres.kill()
    lock = own_postgres.data / "postmaster.pid"
    lines = lock.read_text().split("\n")
    lock.write_text("\n".join(["1", *lines[1:]]))
    own_postgres.start()


def test_passwords_are_kept_in_private_files(own_postgres: PostgresServer, own_valkey: ValkeyServer) -> None:
    secrets: list[Path] = [own_postgres.state / "password", own_valkey.state / "valkey.conf"]
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}


def test_each_test_gets_an_empty_database(database_url: str, valkey_url: str) -> None:
    with sa.create_engine(database_url, poolclass=sa.NullPool).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM pg_stat_user_tables")) == 0
    with redis.Redis.from_url(valkey_url) as client:
        assert client.dbsize() == 0


def test_the_airflow_database_is_migrated(airflow_database_url: str) -> None:
    with sa.create_engine(airflow_database_url, poolclass=sa.NullPool).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM dag_run")) == 0
