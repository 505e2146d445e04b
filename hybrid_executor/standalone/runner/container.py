"""Runs one container, behind a small seam: as local processes, or as a pretence for load tests.

``ProcessRuntime`` starts the launcher and keeps its output in the log store.
``PretendRuntime`` (``--no-processes``) only waits as long as the pod's
annotations say. Neither knows pods, restarts or the API; ``podworker`` does.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from hybrid_executor.model.resources import Resources
from hybrid_executor.standalone.runner.isolation import Isolation, in_memory, launcher_command
from hybrid_executor.standalone.runner.launcher import END_TREE
from hybrid_executor.standalone.runner.logstore import LogFile, LogStore
from hybrid_executor.standalone.runner.memory import Meter

#: How often the memory of the containers is looked at.
SAMPLE_S = 0.25
#: How long output may trail the end of its process.
OUTPUT_TAIL_S = 5.0


class StartFailed(Exception):
    """The container's command can't be started; the words are runc's."""


@dataclass(frozen=True)
class Mount:
    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class ContainerSpec:
    """Everything that a runtime needs to start one container once."""

    pod_uid: str
    name: str
    restart: int
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    hostname: str
    scratch: Path
    mounts: Sequence[Mount] = ()
    #: Bytes; None for no limit.
    memory_limit: int | None = None
    #: The pod's; read by ``PretendRuntime`` alone.
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Exit:
    """How a container ended. ``used`` is what it took, None if not measured."""

    code: int
    oom_killed: bool = False
    used: Resources | None = None


class Started(Protocol):
    """A container that runs."""

    @property
    def container_id(self) -> str: ...

    async def wait(self) -> Exit:
        """Its end; to be awaited once."""

    def terminate(self) -> None:
        """SIGTERM to the main process."""

    def kill(self) -> None:
        """SIGKILL to everything in the container."""


class Runtime(Protocol):
    """Starts containers."""

    async def start(self, spec: ContainerSpec) -> Started:
        """Start one container; StartFailed if its command can't be run."""


# --- local processes -------------------------------------------------------------------


class ProcessRuntime:
    """Containers as local processes under the launcher."""

    def __init__(self, isolation: Isolation, logs: LogStore) -> None:
        self._isolation, self._logs = isolation, logs

    async def start(self, spec: ContainerSpec) -> Started:
        try:
            return await self._start(spec)
        except OSError as error:
            raise StartFailed(f"the node could not start it: {error}") from error

    async def _start(self, spec: ContainerSpec) -> Started:
        log = self._logs.open(spec.pod_uid, spec.name, spec.restart)
        reader, writer = os.pipe()
        spec_fd = in_memory(json.dumps(self._for_launcher(spec)))
        try:
            process = await asyncio.create_subprocess_exec(
                *launcher_command(),
                str(spec_fd),
                str(writer),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                env={},
                cwd="/",
                pass_fds=(spec_fd, writer),
                start_new_session=True,
            )
        finally:
            os.close(writer)
            os.close(spec_fd)
        started = LocalContainer(process, log, self._logs, self._isolation, spec.memory_limit)
        complaint = await _read_to_end(reader)
        if complaint:
            await started.wait()
            raise StartFailed(json.loads(complaint)["error"])
        return started

    def _for_launcher(self, spec: ContainerSpec) -> dict[str, object]:
        return {
            "runner_pid": os.getpid(),
            "argv": list(spec.argv),
            "env": dict(spec.env),
            "cwd": spec.cwd,
            "hostname": spec.hostname,
            "isolation": asdict(self._isolation),
            "mounts": [asdict(mount) for mount in spec.mounts],
            "scratch": str(spec.scratch),
        }


async def _read_to_end(descriptor: int) -> bytes:
    """All that is written to a pipe until nobody holds its other end."""
    stream = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(descriptor, "rb", 0)
    )
    try:
        return await stream.read()
    finally:
        transport.close()


class LocalContainer:
    """One started launcher, with its output and its memory watched."""

    def __init__(
        self, process: Process, log: LogFile, logs: LogStore, isolation: Isolation, limit: int | None
    ) -> None:
        self.container_id = f"process://{uuid4().hex}"
        self._process, self._log, self._logs = process, log, logs
        self._has_pid_namespace = isolation.pid
        self._meter = Meter(process.pid, limit)
        self._oom_killed = False
        self._copies = [
            asyncio.create_task(log.copy(name, stream))
            for name, stream in (("stdout", process.stdout), ("stderr", process.stderr))
            if stream is not None
        ]
        self._watch = asyncio.create_task(self._watch_memory())

    async def wait(self) -> Exit:
        try:
            code = await self._process.wait()
            await asyncio.wait(self._copies, timeout=OUTPUT_TAIL_S)
        finally:
            for task in (self._watch, *self._copies):
                task.cancel()
            self._logs.close(self._log)
        return Exit(code if code >= 0 else 128 - code, self._oom_killed, self._meter.used())

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        # With a PID namespace the kernel ends the tree once its init has lost its parent.
        self._send(signal.SIGKILL if self._has_pid_namespace else END_TREE)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _watch_memory(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            if self._meter.sample():
                self._oom_killed = True
                self.kill()
                return


# --- pretence ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Pretence:
    """What a pod's annotations ask of its containers under ``--no-processes``."""

    run_s: float = 0.0
    exit_code: int = 0


ANNOTATION_RUN_SECONDS = "hybrid-executor/run-seconds"
ANNOTATION_EXIT_CODE = "hybrid-executor/exit-code"


def pretence(annotations: Mapping[str, str]) -> Pretence:
    return Pretence(
        run_s=float(annotations.get(ANNOTATION_RUN_SECONDS, 0)),
        exit_code=int(annotations.get(ANNOTATION_EXIT_CODE, 0)),
    )


class PretendRuntime:
    """Containers that only wait and end."""

    async def start(self, spec: ContainerSpec) -> Started:
        return PretendContainer(pretence(spec.annotations))


class PretendContainer:
    def __init__(self, asked: Pretence) -> None:
        self.container_id = f"pretence://{uuid4().hex}"
        self._asked = asked
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if asked.run_s > 0:
            asyncio.get_running_loop().call_later(asked.run_s, self._end, asked.exit_code)
        else:
            self._end(asked.exit_code)

    async def wait(self) -> Exit:
        return Exit(await self._ended)

    def terminate(self) -> None:
        self._end(128 + signal.SIGTERM)

    def kill(self) -> None:
        self._end(128 + signal.SIGKILL)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)


def base_environment(prefixes: Sequence[Path], extra: Mapping[str, str]) -> dict[str, str]:
    """What every container starts from: the virtual environment's programs first, then the system's.

    ``extra`` (``--env``, ``--env-file``) wins over all of it.
    """
    folders = [str(prefix / "bin") for prefix in prefixes] + [str(Path(sys.executable).parent)][
        : not prefixes
    ]
    system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    return {"PATH": ":".join([*folders, *system]), "LANG": "C.UTF-8", **extra}
