"""The life of one pod on this node: volumes, init containers, containers, and its end.

One worker per pod, made by ``agent``. It never decides whether the pod belongs
here. Each container's own life is ``containerlife``'s, what containers get is
``provisions``', what the API is told stands on ``podboard``.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.standalone.runner import plan
from hybrid_executor.standalone.runner.client import Backoff, Client
from hybrid_executor.standalone.runner.container import Runtime
from hybrid_executor.standalone.runner.containerlife import ContainerLife
from hybrid_executor.standalone.runner.ending import Ending, Order, either
from hybrid_executor.standalone.runner.environment import ConfigMissing
from hybrid_executor.standalone.runner.events import EventWriter
from hybrid_executor.standalone.runner.podboard import PodBoard
from hybrid_executor.standalone.runner.podstate import (
    Terminated,
    Verdict,
    Waiting,
    is_sidecar,
    parse_instant,
)
from hybrid_executor.standalone.runner.provisions import Provisions
from hybrid_executor.standalone.runner.volumeplan import VolumeUnavailable
from hybrid_executor.standalone.runner.volumes import PodFolder

log = logging.getLogger(__name__)

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Tools:
    """What every worker of the node shares."""

    client: Client
    runtime: Runtime
    events: EventWriter
    settings: plan.NodeSettings
    folder: Callable[[str], PodFolder]


class PodWorker:
    """Runs one pod to its end. ``run`` is awaited once; the other methods never block."""

    def __init__(self, pod: Manifest, tools: Tools) -> None:
        self._settings = tools.settings
        self._folder = tools.folder(pod["metadata"]["uid"])
        self._board = PodBoard(pod, tools.settings.facts.address, tools.client, tools.events)
        self._ending = Ending()
        self._provisions = Provisions(tools.client, lambda: self.pod, self._folder, tools.settings)
        self._life = ContainerLife(self._board, self._ending, self._provisions, tools.runtime)
        self._sidecars: list[tuple[asyncio.Event, asyncio.Task[bool]]] = []

    @property
    def pod(self) -> Manifest:
        """The pod as the API last showed it."""
        return self._board.pod

    # --- told by the agent ----------------------------------------------------------------

    def update(self, pod: Manifest) -> None:
        """The object changed: it may be on its way out."""
        self._board.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self.order(Order(float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)))

    def order(self, order: Order) -> None:
        """End the pod."""
        self._ending.order(order)

    def gone(self) -> None:
        """The object no longer exists: nothing of it may run."""
        self.order(Order(0))

    # --- the life -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the pod has ended and the API knows; cancelling it kills the pod's containers."""
        deadline = self._deadline_timer()
        fresh = asyncio.create_task(self._keep_fresh())
        try:
            self._board.set(start_time=datetime.now(UTC))
            await self._run_containers()
            await self._end_sidecars()
            self._finish()
            await self._board.flushed()
        finally:
            if deadline:
                deadline.cancel()
            fresh.cancel()
            self._ending.close()
            for _, task in self._sidecars:
                task.cancel()
            self._board.close()
            if not self._settings.pretend:
                self._folder.clear()

    async def fail_as_lost(self, verdict: Verdict) -> None:
        """Say that an earlier runner had started this pod and its processes are gone."""
        board = self._board
        try:
            self._ending.verdict = verdict
            now = datetime.now(UTC)
            for name, container in board.state.containers.items():
                end = Terminated(137, "ContainerStatusUnknown", None, now, verdict.message)
                board.put(name, replace(container, state=end, finished=True))
            before = (self.pod.get("status") or {}).get("startTime")
            board.state = replace(board.state, start_time=parse_instant(before) if before else now)
            self._finish()
            await board.flushed()
        finally:
            board.close()
            self._folder.clear()

    def _deadline_timer(self) -> asyncio.TimerHandle | None:
        seconds = self.pod["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            return None
        message = "Pod was active on the node longer than the specified deadline"
        order = Order(plan.grace_s(self.pod), Verdict("DeadlineExceeded", message))

        def expire() -> None:
            self._board.tell("Normal", "DeadlineExceeded", message)
            self.order(order)

        return asyncio.get_running_loop().call_later(float(seconds), expire)

    async def _run_containers(self) -> None:
        for name, wish in plan.unheard(self.pod, can_mount=self._settings.can_mount):
            self._board.tell("Warning", "NotSupportedByNode", f"this node gives {wish}", name)
        if not await self._prepare():
            return
        self._board.keep(prepared=True)
        stop = self._ending.stop
        for manifest in self.pod["spec"].get("initContainers") or []:
            if is_sidecar(manifest):
                await self._start_sidecar(manifest)
            elif not await self._life.run(manifest, stop, plan.init_policy(self.pod, manifest)):
                return
            if stop.is_set():
                return
        mains = self.pod["spec"]["containers"]
        for manifest in mains:
            self._board.wait_as(manifest["name"], Waiting("ContainerCreating"))
        lives = [self._life.run(manifest, stop, plan.policy(self.pod, manifest)) for manifest in mains]
        await asyncio.gather(*lives)

    async def _start_sidecar(self, manifest: Manifest) -> None:
        """Start it and wait until it runs; its loop goes on until ``_end_sidecars``."""
        up, stop = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(self._life.run(manifest, stop, "Always", up))
        self._sidecars.append((stop, task))
        await either(up.wait(), self._ending.stop)

    async def _end_sidecars(self) -> None:
        """The last started ends first."""
        if self._sidecars:
            self._ending.kill_within(plan.grace_s(self.pod))
        for stop, task in reversed(self._sidecars):
            stop.set()
            await task

    def _finish(self) -> None:
        for name, container in self._board.state.containers.items():
            if isinstance(container.state, Waiting) and container.last:
                self._board.put(name, replace(container, state=container.last))
        self._board.set(over=True, verdict=self._ending.verdict)

    async def _keep_fresh(self) -> None:
        if not self._settings.pretend:
            await self._provisions.keep_fresh()

    async def _prepare(self) -> bool:
        """Volumes on disk; waits, and says for what, until they can be had. False if stopped first."""
        if self._settings.pretend:
            return True
        backoff = Backoff(0.5, 122.0)
        while not self._ending.stop.is_set():
            try:
                await self._provisions.prepare()
                return True
            except (VolumeUnavailable, ConfigMissing) as error:
                self._board.complain(str(error))
            except ApiUnavailable as error:
                log.warning("%s: volumes wait: %s", self._board.name, error)
            await either(backoff.wait(), self._ending.stop)
        return False
