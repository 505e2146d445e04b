"""Something that stays up after the command that started it, and can be ended by the next.

``start`` runs this program once more as the owner, in a session of its own,
and shows what it says until it is ready. ``hold`` is what the owner does:
enter, say so, wait to be ended. Found again by process id and start time.
Used by ``python -m tests.cluster``.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from hybrid_executor.standalone.stack.process import wait_gone
from tests.cluster.servers import end_recorded, start_time

END_S = 30.0
LOOK_S = 0.5


@dataclass(frozen=True)
class Background:
    """One owner, its note and its log in ``state``."""

    state: Path
    name: str

    @property
    def note(self) -> Path:
        return self.state / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return self.state / f"{self.name}.log"

    def owner(self) -> int | None:
        """The owner's process id, if it is ready and alive."""
        if not self.note.exists():
            return None
        pid, began = json.loads(self.note.read_text())
        return int(pid) if start_time(pid) == began else None

    def start(self, command: list[str]) -> bool:
        """Run the command, which calls ``hold``, and pass on what it says; whether it became ready."""
        self.state.mkdir(exist_ok=True, mode=0o700)
        owner = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        assert owner.stdout is not None
        try:
            for line in owner.stdout:
                print(line, end="", flush=True)
        except KeyboardInterrupt:
            owner.terminate()
            owner.wait()
            raise
        return self.owner() is not None

    def hold(self, context: AbstractContextManager[None], still: Callable[[], bool]) -> None:
        """Enter, and stay in it until SIGTERM or until ``still`` says no."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            with context:
                self.note.write_text(json.dumps([os.getpid(), start_time(os.getpid())]))
                self._hang_up()
                while still():
                    time.sleep(LOOK_S)
        finally:
            self.note.unlink(missing_ok=True)

    def _hang_up(self) -> None:
        """Let go of who started us: what we say from now on goes to the log."""
        sys.stdout.flush()
        sys.stderr.flush()
        with self.log.open("ab") as log:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)

    def end(self) -> None:
        """End the owner, which ends what it owns; kill it if it takes too long."""
        if (pid := self.owner()) is None:
            return
        os.kill(pid, signal.SIGTERM)
        if not wait_gone({pid}, END_S):
            os.kill(pid, signal.SIGKILL)
            wait_gone({pid}, END_S)


def end_left_behind(state: Path) -> None:
    """End what an owner that was killed may have left."""
    for record in state.rglob("processes.json"):
        end_recorded(record)
