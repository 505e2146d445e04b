"""The whole stack, up: no secret on show, every address local, each part back after a kill."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_executor.standalone.stack.process import descendants
from tests.fixtures.stack import RunningStack

pytestmark = pytest.mark.xdist_group("stack")


def family(stack: RunningStack) -> set[int]:
    """Every process of the stack."""
    parts = {pid for life in stack.stack.services() if (pid := stack.pid(life.name))}
    return parts | {child for pid in parts for child in descendants(pid)}


def secrets_of(stack: RunningStack) -> set[str]:
    setup = stack.stack.setup
    servers = {stack.stack.postgres.password, stack.stack.valkey.password}
    tokens = {(setup.kubeconfig.parent / name).read_text().strip() for name in ("token", "node-token")}
    return servers | tokens | {setup.password, setup.jwt_secret, setup.fernet_key, setup.session_key}


def test_no_secret_of_the_stack_is_in_a_command_line(stack: RunningStack) -> None:
    stack.wait_healthy()
    hidden = secrets_of(stack)
    lines = {pid: read(Path(f"/proc/{pid}/cmdline")) for pid in family(stack)}
    assert len(lines) > 12
    assert not [line for line in lines.values() if any(secret in line for secret in hidden)]


def test_no_secret_of_the_stack_is_in_a_log(stack: RunningStack) -> None:
    stack.wait_healthy()
    hidden = secrets_of(stack)
    logs = {path: read(path) for path in files(stack.stack.setup.state) if path.suffix == ".log"}
    assert len(logs) > 8
    assert not [path for path, text in logs.items() if any(secret in text for secret in hidden)]


def test_no_other_user_can_read_the_state(stack: RunningStack) -> None:
    state = stack.stack.setup.state
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    hidden = {secret.encode() for secret in secrets_of(stack)}
    for path in files(state):
        content = shown(path)
        assert not any(secret in content for secret in hidden), path


def test_every_server_of_the_stack_listens_on_the_loopback_alone(stack: RunningStack) -> None:
    stack.wait_healthy()
    inodes = {inode for pid in family(stack) for inode in sockets_of(pid)}
    listening = [address for inode, address in listeners() if inode in inodes]
    assert len(listening) >= 6
    assert {address for address in listening if not address.startswith("127.")} == set()


@pytest.mark.parametrize("name", ["scheduler", "valkey", "postgres", "kubernetes", "runner", "worker"])
def test_a_killed_part_comes_back(stack: RunningStack, name: str) -> None:
    stack.wait_healthy()
    before = stack.pid(name)
    stack.kill(name)
    stack.wait_healthy()
    assert stack.pid(name) not in (None, before)


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def files(folder: Path) -> Iterator[Path]:
    """All that lie below it; servers that run make and remove some meanwhile."""
    return (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)


def shown(path: Path) -> bytes:
    """What others than its owner may read of a file."""
    try:
        status = path.stat()
        is_shown = stat.S_ISREG(status.st_mode) and status.st_mode & 0o077
        return path.read_bytes() if is_shown else b""
    except FileNotFoundError:
        return b""


def sockets_of(pid: int) -> set[str]:
    found = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = str(entry.readlink())
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass
    return found


def listeners() -> list[tuple[str, str]]:
    """Inode and address of every listening TCP socket."""
    found = []
    for table, kind in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found.append((fields[9], decode(fields[1].split(":")[0], kind)))
    return found


def decode(text: str, kind: int) -> str:
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    return socket.inet_ntop(kind, b"".join(words))
