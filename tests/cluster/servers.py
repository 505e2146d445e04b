"""A named set of processes that dies with its owner, and a record of it for the next start.

The kernel kills each process when we end, however we end. Should one slip
through (it changed its credentials, say), the next start in the same folder
finds it in the record by process id and start time, and ends it. Never looks
for a process by name. Used by ``plane`` and ``keda``.
"""

import json
import os
import signal
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from hybrid_executor.standalone.stack.process import Command, Process, kill_all, wait_gone

T = TypeVar("T")
POLL_S = 0.05
REPLY_S = 20.0
#: Generous: a busy machine makes a start slow, not wrong.
READY_S = 60.0
IN_USE = "address already in use"
PORT_TRIES = 4
#: How long a server may take to end when asked; an API server without etcd would take a minute.
END_S = 10.0


class NotReady(Exception):
    """A server ended or stayed silent at its start; the message shows the end of its log."""


class PortTaken(NotReady):
    """Another program took the port between our choice and the server's start."""


class Servers:
    """Processes by name, with their logs and their record in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._record = folder / "processes.json"
        self._running: dict[str, Process] = {}
        # The parent's-death signal comes at the end of the thread that started a process: this one stays.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starts-servers")
        end_recorded(self._record)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def pid(self, name: str) -> int:
        """The process id of a server that runs."""
        pid = self._running[name].pid if name in self._running else None
        if pid is None:
            raise NotReady(f"{name} is not running")
        return pid

    @property
    def pids(self) -> dict[str, int]:
        """Those that run."""
        found = {name: process.pid for name, process in self._running.items()}
        return {name: pid for name, pid in found.items() if pid is not None}

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start a server; returns at once."""
        if name in self.pids:
            raise NotReady(f"{name} runs already")
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder)}
        command = Command(
            name=name,
            argv=argv,
            log=self.log(name),
            cwd=self.folder,
            env=environment | dict(env or {}),
            orphan_signal=signal.SIGKILL,
        )
        process = Process(command)
        self._starter.submit(process.start).result()
        self._running[name] = process
        self._write_record()

    def wait(self, name: str, ready: Callable[[], bool], deadline_s: float = READY_S) -> None:
        """Wait until a server is ready; raises with the end of its log if it ends or stays silent."""
        process = self._running[name]

        def check() -> bool:
            if process.exit_code is not None:
                kind = PortTaken if IN_USE in process.tail(50) else NotReady
                raise kind(str(process.failure(f"ended with {process.exit_code}")))
            return ready()

        until(check, deadline_s, lambda: NotReady(str(process.failure("never became ready"))))

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal that ends it and wait for the end; SIGKILL follows after ten seconds."""
        self.pid(name)
        process = self._running.pop(name)
        assert process.child is not None
        process.child.send_signal(number)
        deadline = time.monotonic() + END_S
        while process.child.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        process.kill()
        self._write_record()

    def close(self) -> None:
        """Kill all, last started first."""
        for name in reversed(self.pids):
            self.kill(name)
        self._starter.shutdown()
        self._record.unlink(missing_ok=True)

    def _write_record(self) -> None:
        known = {name: [pid, start_time(pid)] for name, pid in self.pids.items()}
        draft = self._record.with_suffix(".new")
        draft.write_text(json.dumps(known))
        draft.replace(self._record)


def end_recorded(record: Path) -> None:
    """Kill what a record names, if it is still the same process."""
    if not record.exists():
        return
    left = {pid for pid, began in json.loads(record.read_text()).values() if start_time(pid) == began}
    kill_all(left)
    wait_gone(left, END_S)
    record.unlink()


def start_time(pid: int) -> int | None:
    """When a process that runs began, in the kernel's ticks: with the id it names a process for good."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])  # one that has ended may stay as a zombie


def on_free_ports(start: Callable[[], T]) -> T:
    """Call what chooses ports and starts servers on them; again, should a port be gone by then."""
    for _ in range(PORT_TRIES - 1):
        try:
            return start()
        except PortTaken:
            continue
    return start()


def until(condition: Callable[[], Any], deadline_s: float, failure: Callable[[], Exception]) -> Any:
    """Poll until the condition is true; its value."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise failure()
        time.sleep(POLL_S)
    return value


def answer(
    url: str,
    trust: ssl.SSLContext | None = None,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """One request on a connection of its own: code and body; code 0 if no one answers."""
    place = urlsplit(url)
    assert place.hostname is not None
    connection: HTTPConnection = HTTPConnection(place.hostname, place.port, timeout=REPLY_S)
    if place.scheme == "https":
        connection = HTTPSConnection(place.hostname, place.port, timeout=REPLY_S, context=trust)
    try:
        connection.request(method, f"{place.path}?{place.query}", body, dict(headers or {}))
        reply = connection.getresponse()
        return reply.status, reply.read()
    except (OSError, HTTPException):
        return 0, b""
    finally:
        connection.close()
