"""One process: started in a session of its own, logged to a file, ended with everything it started.

Decides nothing about restarts (see :mod:`.supervisor`). Never looks for a
process by name: it knows its child and, through ``/proc``, what descends from
it. Start processes from a thread that outlives them: the kernel sends the
parent's-death signal when the *thread* that started the child ends.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LAUNCH = Path(__file__).with_name("launch.py")
POLL_S = 0.02


class ProcessFailed(Exception):
    """A process did not become ready, or ended; the message shows the end of its log and where it is."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run. Secrets belong in ``env``, never in ``argv``."""

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    #: Runs ``argv`` under other credentials, e.g. ``unshare --user …``; empty for our own.
    wrapper: Sequence[str] = ()
    #: Asks for an orderly end.
    stop_signal: signal.Signals = signal.SIGTERM
    stop_s: float = 5.0
    #: What the kernel sends when the starting thread ends; ``stop_signal`` if None.
    orphan_signal: signal.Signals | None = None


@dataclass
class Process:
    """A command with the child that runs it now, if any."""

    command: Command
    child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start the command; its output is appended to the log."""
        command = self.command
        command.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        orphaned = command.orphan_signal or command.stop_signal
        launch = [sys.executable, "-I", "-S", str(LAUNCH), orphaned.name, *command.argv]
        with os.fdopen(os.open(command.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
            self.child = subprocess.Popen(
                [*command.wrapper, *launch],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if command.env is None else dict(command.env),
                cwd=command.cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """The child's id while it runs."""
        return self.child.pid if self.child and self.child.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs or before its first start."""
        return self.child.poll() if self.child else None

    def ask_to_stop(self) -> None:
        """Send the stop signal; returns at once."""
        if self.child and self.child.poll() is None:
            self.child.send_signal(self.command.stop_signal)

    def stop(self) -> None:
        """End the process and its descendants: asked first, killed after ``stop_s``."""
        if self.child is None:
            return
        family = {self.child.pid, *descendants(self.child.pid)}
        self.ask_to_stop()
        deadline = time.monotonic() + self.command.stop_s
        while self.child.poll() is None and time.monotonic() < deadline:
            family.update(descendants(self.child.pid))
            time.sleep(POLL_S)
        self._kill(family)

    def kill(self) -> None:
        """SIGKILL the process and all that descends from it; returns when all are gone."""
        if self.child is not None:
            self._kill({self.child.pid, *descendants(self.child.pid)})

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        try:
            return "\n".join(self.command.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def failure(self, what: str) -> ProcessFailed:
        """An error that shows the end of the log and where it is."""
        return ProcessFailed(f"{self.command.name} {what}; its log is {self.command.log}:\n{self.tail()}")

    def _kill(self, family: set[int]) -> None:
        assert self.child is not None  # noqa: S101
        if self.child.poll() is None:
            self.child.kill()
        family.discard(self.child.pid)
        kill_all(family)
        self.child.wait()
        wait_gone(family, 5)


def kill_all(pids: set[int]) -> None:
    """SIGKILL each process that still exists."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_gone(pids: set[int], deadline_s: float) -> bool:
    """Wait until none of them runs (a zombie does not); False if some still do."""
    deadline = time.monotonic() + deadline_s
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def is_running(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    return (found := read_stat(pid)) is not None and found[1] not in "ZX"


def descendants(pid: int) -> set[int]:
    """Every process that descends from ``pid`` now, through parents that still live."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            found.add(child)
            waiting.append(child)
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := read_stat(int(entry.name))) is not None:
            yield int(entry.name), stat[0]


def read_stat(pid: int) -> tuple[int, str] | None:
    """The parent's id and the state letter of a process; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = text.rpartition(")")[2].split()[:2]
    return int(parent), state
