"""The life of one container: its starts, its ends, and the waits between them.

Called by ``podworker``, which says which containers run and when they must end.
When and after what delay a container is started again is ``plan``'s to say.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.model.resources import to_line
from hybrid_executor.naming import ANNOTATION_USED
from hybrid_executor.standalone.runner import plan
from hybrid_executor.standalone.runner.client import Backoff
from hybrid_executor.standalone.runner.container import ContainerSpec, Exit, Runtime, Started, StartFailed
from hybrid_executor.standalone.runner.ending import Ending, either
from hybrid_executor.standalone.runner.environment import ConfigMissing, ConfigRefused
from hybrid_executor.standalone.runner.podboard import PodBoard
from hybrid_executor.standalone.runner.podstate import Running, Terminated, Waiting
from hybrid_executor.standalone.runner.provisions import Provisions
from hybrid_executor.standalone.runner.volumeplan import VolumeUnavailable

log = logging.getLogger(__name__)

Manifest = Mapping[str, Any]


class ContainerLife:
    """Runs containers of one pod, each by its own call of ``run``."""

    def __init__(self, board: PodBoard, ending: Ending, provisions: Provisions, runtime: Runtime) -> None:
        self._board, self._ending, self._provisions, self._runtime = board, ending, provisions, runtime

    async def run(
        self, manifest: Manifest, stop: asyncio.Event, policy: str, up: asyncio.Event | None = None
    ) -> bool:
        """Start it, and again as ``policy`` says, until it has ended for good; whether it succeeded."""
        name = manifest["name"]
        while not stop.is_set():
            end = await self._run_once(manifest, stop, up)
            if end is None:
                break
            over = stop.is_set() or not plan.restarts(policy, end.exit_code)
            self._board.put(name, replace(self._board.container(name), state=end, finished=over))
            self._board.publish()
            if over:
                return end.exit_code == 0
            await self._back_off(name, end, stop)
        return False

    async def _back_off(self, name: str, end: Terminated, stop: asyncio.Event) -> None:
        before = self._board.container(name)
        restarts = before.restarts + 1
        delay_s = plan.restart_delay_s(restarts, self._provisions.settings.restart_backoff_s)
        message = f"back-off {delay_s:g}s restarting failed container={name} pod={self._board.name}"
        waiting = Waiting("CrashLoopBackOff", message) if delay_s else Waiting("ContainerCreating")
        self._board.put(name, replace(before, state=waiting, last=end, restarts=restarts))
        if delay_s:
            self._board.tell("Warning", "BackOff", f"Back-off restarting failed container {name}", name)
            self._board.publish()
            await either(asyncio.sleep(delay_s), stop)

    async def _run_once(
        self, manifest: Manifest, stop: asyncio.Event, up: asyncio.Event | None
    ) -> Terminated | None:
        """One start and its end; None if it was stopped before it began."""
        name, board = manifest["name"], self._board
        try:
            started = await self._start(manifest, stop)
        except StartFailed as error:
            message = plan.start_error(str(error))
            board.tell("Warning", "Failed", f"Error: {message}", name)
            return Terminated(128, "StartError", None, datetime.now(UTC), message)
        if started is None:
            return None
        began = datetime.now(UTC)
        self._ending.take(started)
        running = replace(board.container(name), state=Running(began), container_id=started.container_id)
        board.put(name, running)
        board.publish()
        board.tell("Normal", "Started", f"Started container {name}", name)
        if up:
            up.set()
        end = await self._wait(name, started, stop)
        self._ending.leave(started)
        return self._terminated(name, started, began, end)

    async def _start(self, manifest: Manifest, stop: asyncio.Event) -> Started | None:
        """Start it as soon as everything that it refers to exists."""
        backoff = Backoff(1.0, 10.0)
        name = manifest["name"]
        while not stop.is_set():
            try:
                spec = await self._spec(manifest)
                self._board.tell("Normal", "Created", f"Created container: {name}", name)
                return await self._runtime.start(spec)
            except ConfigRefused as error:
                # The container stays as it was: executors give up a pod whose configuration is wrong.
                self._board.complain(str(error))
            except (ConfigMissing, VolumeUnavailable, plan.NothingToRun, ValueError) as error:
                self._cannot_start(name, error)
            except ApiUnavailable as error:
                log.warning("%s/%s waits: %s", self._board.name, name, error)
            await either(backoff.wait(), stop)
        return None

    def _cannot_start(self, name: str, error: Exception) -> None:
        is_empty = isinstance(error, plan.NothingToRun)
        reason = "CreateContainerError" if is_empty else "CreateContainerConfigError"
        self._board.tell("Warning", "Failed", f"Error: {error}", name)
        self._board.wait_as(name, Waiting(reason, str(error)))
        self._board.publish()

    async def _spec(self, manifest: Manifest) -> ContainerSpec:
        return await self._provisions.spec(manifest, self._board.container(manifest["name"]).restarts)

    async def _wait(self, name: str, started: Started, stop: asyncio.Event) -> Exit:
        waiting = asyncio.ensure_future(started.wait())
        try:
            await either(asyncio.shield(waiting), stop)
            if not waiting.done():
                self._board.tell("Normal", "Killing", f"Stopping container {name}", name)
                started.terminate()
            return await waiting
        except asyncio.CancelledError:
            started.kill()
            await waiting
            raise

    def _terminated(self, name: str, started: Started, began: datetime, end: Exit) -> Terminated:
        if end.used is not None:
            self._board.annotations[ANNOTATION_USED + name] = to_line(end.used)
        reason = "OOMKilled" if end.oom_killed else "Error" if end.code else "Completed"
        return Terminated(end.code, reason, began, datetime.now(UTC), container_id=started.container_id)
