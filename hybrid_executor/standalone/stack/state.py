"""The one folder that holds everything of a stack: its lock, its ports, its secrets.

Remove the folder and the stack is as if it had never run. Nothing in it can be
read by another user.
"""

import base64
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hybrid_executor.standalone.stack.ports import choose_port
from hybrid_executor.standalone.stack.secret import kept_secret, write_private

#: Where people look first; servers without a preference get any free port.
PREFERRED_PORTS: Mapping[str, int | None] = {
    "airflow": 8080,
    "flower": 5555,
    "postgres": None,
    "valkey": None,
    "kubernetes": None,
}
ANY_PORTS: Mapping[str, int | None] = dict.fromkeys(PREFERRED_PORTS)


class StateInUse(Exception):
    """Another stack runs on this folder; the message says which process."""


@contextmanager
def held(state: Path) -> Iterator[None]:
    """Own the folder, made if need be; raises :class:`StateInUse` at once if another process does."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    state.chmod(0o700)
    with (state / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise StateInUse(
                f"another stack (process {owner}) runs on {state}:"
                " stop it, or give this one its own --state folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def assign_ports(state: Path, wishes: Mapping[str, int | None]) -> tuple[dict[str, int], list[str]]:
    """Choose every server's port: the last one, the preferred one, or a free one; say which moved."""
    kept_file = state / "ports.json"
    kept = json.loads(kept_file.read_text()) if kept_file.exists() else {}
    ports: dict[str, int] = {}
    moved = []
    for name, preferred in wishes.items():
        wish = kept.get(name, preferred)
        ports[name] = choose_port(wish, frozenset(ports.values()))
        if wish is not None and ports[name] != wish:
            moved.append(f"port {wish} is in use: {name} takes {ports[name]}")
    write_private(kept_file, json.dumps(ports))
    return ports, moved


def fernet_key(state: Path) -> str:
    """The key that encrypts connections in the metadata database, made once."""
    return kept_secret(
        state / "secrets" / "fernet", base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    )


def random_secret(state: Path, name: str) -> str:
    """A random text, made once."""
    return kept_secret(state / "secrets" / name)
