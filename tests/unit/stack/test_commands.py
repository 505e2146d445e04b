"""How each part of the stack is started: nothing secret in its arguments, nothing open to the network."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_executor.standalone.stack.process import Command
from hybrid_executor.standalone.stack.stack import Options, Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Constructed, not started."""
    made = Stack(Options(state=tmp_path / "state", dags=tmp_path, usual_ports=False))
    yield made
    made.engine.dispose()


def commands(stack: Stack) -> dict[str, Command]:
    """Every command but PostgreSQL's, which would make its cluster first."""
    return {service.name: service.command() for service in stack.services() if service.name != "postgres"}


def secrets_of(stack: Stack) -> set[str]:
    setup = stack.setup
    keys = {setup.password, setup.jwt_secret, setup.fernet_key, setup.session_key}
    return keys | {stack.postgres.password, stack.valkey.password}


def test_no_secret_is_an_argument_of_any_process(stack: Stack) -> None:
    found = commands(stack)
    assert len(found) > 8
    hidden = secrets_of(stack)
    assert all(len(secret) > 16 for secret in hidden)
    shown = {name: " ".join([*command.wrapper, *command.argv]) for name, command in found.items()}
    assert not [name for name, line in shown.items() if any(secret in line for secret in hidden)]


def test_flower_and_the_api_server_are_told_to_listen_on_the_loopback(stack: Stack) -> None:
    found = commands(stack)
    flower = list(found["flower"].argv)
    assert flower[flower.index("--hostname") + 1] == "127.0.0.1"
    environment = found["api-server"].env or {}
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"


def test_every_file_with_a_secret_is_its_owners_alone(stack: Stack) -> None:
    stack._write_files()
    commands(stack)
    hidden = {secret.encode() for secret in secrets_of(stack)}
    files = [path for path in stack.setup.state.rglob("*") if path.is_file()]
    holding = [path for path in files if any(secret in path.read_bytes() for secret in hidden)]
    assert len(holding) > 5
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in holding} == {0}
    folders = [path for path in stack.setup.state.rglob("*") if path.is_dir()]
    assert not [folder for folder in folders if folder.stat().st_mode & 0o077]
