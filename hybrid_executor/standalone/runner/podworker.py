"""The life of one pod on this node: volumes, init containers, containers, and its end.

One worker per pod, made by ``agent``; it asks the runtime for containers, the
API for what the pod refers to, and tells the API the status. It never decides
whether the pod belongs here. What is pure lives in ``plan``, ``podstatus``,
``environment`` and ``volumeplan``.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.standalone.runner import plan
from hybrid_executor.standalone.runner.client import Backoff, Client
from hybrid_executor.standalone.runner.container import ContainerSpec, Exit, Runtime, Started, StartFailed
from hybrid_executor.standalone.runner.environment import ConfigMissing
from hybrid_executor.standalone.runner.events import EventWriter, Kind
from hybrid_executor.standalone.runner.objects import resolve
from hybrid_executor.standalone.runner.podstatus import (
    ANNOTATION_PEAK_MEMORY,
    ContainerState,
    PodState,
    Running,
    Terminated,
    Verdict,
    Waiting,
    initial,
    is_sidecar,
    parse_instant,
)
from hybrid_executor.standalone.runner.statuswriter import StatusWriter
from hybrid_executor.standalone.runner.volumeplan import VolumeUnavailable
from hybrid_executor.standalone.runner.volumes import PodFolder

log = logging.getLogger(__name__)

Manifest = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Tools:
    """What every worker of the node shares."""

    client: Client
    runtime: Runtime
    events: EventWriter
    settings: plan.NodeSettings
    folder: Callable[[str], PodFolder]


@dataclass(frozen=True)
class Order:
    """The pod must end within ``grace_s``; ``verdict`` says why if the node is the cause."""

    grace_s: float
    verdict: Verdict | None = None


class PodWorker:
    """Runs one pod to its end. ``run`` is awaited once; the other methods never block."""

    def __init__(self, pod: Manifest, tools: Tools) -> None:
        self.pod = pod
        self._tools = tools
        self._folder = tools.folder(pod["metadata"]["uid"])
        self._state: PodState = initial(pod, tools.settings.facts.address)
        self._annotations: dict[str, str] = {}
        self._status = StatusWriter(tools.client, lambda: self.pod)
        self._stop, self._stop_sidecars = asyncio.Event(), asyncio.Event()
        self._kill = asyncio.Event()
        self._kill_timer: asyncio.TimerHandle | None = None
        self._verdict: Verdict | None = None
        self._live: set[Started] = set()
        self._sidecars: list[tuple[asyncio.Event, asyncio.Task[bool]]] = []

    # --- told by the agent ----------------------------------------------------------------

    def update(self, pod: Manifest) -> None:
        """The object changed: it may be on its way out."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self.order(Order(float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)))

    def order(self, order: Order) -> None:
        """End the pod; a later order may only shorten the grace. The first verdict stays."""
        if not self._stop.is_set():
            self._verdict = order.verdict
        self._stop.set()
        self._kill_within(order.grace_s)

    def gone(self) -> None:
        """The object no longer exists: nothing of it may run."""
        self.order(Order(0))

    async def told(self) -> None:
        """Until the API knows the newest status."""
        await self._status.flushed()

    def _kill_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._kill_timer and self._kill_timer.when() <= loop.time() + seconds:
            return
        if self._kill_timer:
            self._kill_timer.cancel()
        self._kill_timer = loop.call_later(seconds, self._kill_all)

    def _kill_all(self) -> None:
        self._kill.set()
        for started in self._live:
            started.kill()

    # --- the life -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the pod has ended and the API knows; cancelling it kills the pod's containers."""
        deadline = self._deadline_timer()
        try:
            self._set(start_time=datetime.now(UTC))
            await self._run_containers()
            await self._end_sidecars()
            self._finish()
            await self._status.flushed()
        finally:
            for timer in (deadline, self._kill_timer):
                if timer:
                    timer.cancel()
            self._kill_all()
            for _, task in self._sidecars:
                task.cancel()
            self._status.close()
            if not self._tools.settings.pretend:
                self._folder.clear()

    async def fail_as_lost(self, verdict: Verdict) -> None:
        """Say that an earlier runner had started this pod and its processes are gone."""
        try:
            self._verdict = verdict
            now = datetime.now(UTC)
            for name, container in self._state.containers.items():
                end = Terminated(137, "ContainerStatusUnknown", None, now, verdict.message)
                self._put(name, replace(container, state=end, finished=True))
            before = (self.pod.get("status") or {}).get("startTime")
            self._state = replace(self._state, start_time=parse_instant(before) if before else now)
            self._finish()
            await self._status.flushed()
        finally:
            self._status.close()
            self._folder.clear()

    def _deadline_timer(self) -> asyncio.TimerHandle | None:
        seconds = self.pod["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            return None
        message = "Pod was active on the node longer than the specified deadline"
        order = Order(plan.grace_s(self.pod), Verdict("DeadlineExceeded", message))

        def expire() -> None:
            self._tell("Normal", "DeadlineExceeded", message)
            self.order(order)

        return asyncio.get_running_loop().call_later(float(seconds), expire)

    async def _run_containers(self) -> None:
        for name in plan.hooks(self.pod):
            self._tell("Warning", "FailedLifecycleHook", "this node runs no lifecycle hooks", name)
        if not await self._prepare():
            return
        for manifest in self.pod["spec"].get("initContainers") or []:
            if is_sidecar(manifest):
                await self._start_sidecar(manifest)
            elif not await self._run_container(manifest, self._stop, plan.init_policy(self.pod)):
                return
            if self._stop.is_set():
                return
        mains = self.pod["spec"]["containers"]
        for manifest in mains:
            self._wait_as(manifest["name"], Waiting("ContainerCreating"))
        policy = plan.restart_policy(self.pod)
        await asyncio.gather(*(self._run_container(manifest, self._stop, policy) for manifest in mains))

    async def _start_sidecar(self, manifest: Manifest) -> None:
        """Start it and wait until it runs; its loop goes on until ``_end_sidecars``."""
        up, stop = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(self._run_container(manifest, stop, "Always", up))
        self._sidecars.append((stop, task))
        await self._unless_stopped(up.wait())

    async def _end_sidecars(self) -> None:
        """The last started ends first."""
        if self._sidecars:
            self._kill_within(plan.grace_s(self.pod))
        for stop, task in reversed(self._sidecars):
            stop.set()
            await task

    def _finish(self) -> None:
        for name, container in self._state.containers.items():
            if isinstance(container.state, Waiting) and container.last:
                self._put(name, replace(container, state=container.last))
        self._state = replace(self._state, over=True, verdict=self._verdict)
        self._publish()

    # --- before the first container -------------------------------------------------------------

    async def _prepare(self) -> bool:
        """Volumes on disk; waits, and says for what, until they can be had. False if stopped first."""
        if self._tools.settings.pretend:
            return True
        backoff = Backoff(0.5, 122.0)
        while not self._stop.is_set():
            try:
                self._folder.prepare(plan.hostname(self.pod))
                around = await resolve(self._tools.client, self.pod, self._tools.settings.facts)
                plan.check(around, self._folder, self._tools.settings)
                return True
            except (VolumeUnavailable, ConfigMissing) as error:
                self._complain(str(error))
            except ApiUnavailable as error:
                log.warning("%s: volumes wait: %s", self.pod["metadata"]["name"], error)
            await self._unless_stopped(backoff.wait())
        return False

    def _complain(self, message: str) -> None:
        self._tell("Warning", "FailedMount", message)
        for name, container in self._state.containers.items():
            if isinstance(container.state, Waiting):
                self._put(name, replace(container, state=replace(container.state, message=message)))
        self._publish()

    # --- one container ----------------------------------------------------------------------------

    async def _run_container(
        self, manifest: Manifest, stop: asyncio.Event, policy: str, up: asyncio.Event | None = None
    ) -> bool:
        """Start it, and again as ``policy`` says, until it has ended for good; whether it succeeded."""
        name = manifest["name"]
        while not stop.is_set():
            end = await self._run_once(manifest, stop, up)
            if end is None:
                break
            before = self._state.containers[name]
            over = stop.is_set() or not plan.restarts(policy, end.exit_code)
            self._put(name, replace(before, state=end, finished=over))
            self._publish()
            if over:
                return end.exit_code == 0
            await self._back_off(name, end, stop)
        return False

    async def _back_off(self, name: str, end: Terminated, stop: asyncio.Event) -> None:
        restarts = self._state.containers[name].restarts + 1
        delay_s = plan.restart_delay_s(restarts, self._tools.settings.restart_backoff_s)
        message = (
            f"back-off {delay_s:g}s restarting failed container={name} pod={self.pod['metadata']['name']}"
        )
        waiting = Waiting("CrashLoopBackOff", message) if delay_s else Waiting("ContainerCreating")
        self._put(name, replace(self._state.containers[name], state=waiting, last=end, restarts=restarts))
        if delay_s:
            self._tell("Warning", "BackOff", f"Back-off restarting failed container {name}", name)
            self._publish()
            await self._either(asyncio.sleep(delay_s), stop)

    async def _run_once(
        self, manifest: Manifest, stop: asyncio.Event, up: asyncio.Event | None
    ) -> Terminated | None:
        """One start and its end; None if it was stopped before it began."""
        name = manifest["name"]
        try:
            started = await self._start(manifest, stop)
        except StartFailed as error:
            message = plan.start_error(str(error))
            self._tell("Warning", "Failed", f"Error: {message}", name)
            return Terminated(128, "StartError", None, datetime.now(UTC), message)
        if started is None:
            return None
        began = datetime.now(UTC)
        self._live.add(started)
        if self._kill.is_set():
            started.kill()
        running = replace(
            self._state.containers[name], state=Running(began), container_id=started.container_id
        )
        self._put(name, running)
        self._publish()
        self._tell("Normal", "Started", f"Started container {name}", name)
        if up:
            up.set()
        end = await self._wait(name, started, stop)
        self._live.discard(started)
        return self._terminated(name, started, began, end)

    async def _start(self, manifest: Manifest, stop: asyncio.Event) -> Started | None:
        """Start it as soon as everything that it refers to exists."""
        backoff = Backoff(1.0, 10.0)
        name = manifest["name"]
        while not stop.is_set():
            try:
                spec = await self._spec(manifest)
                self._tell("Normal", "Created", f"Created container: {name}", name)
                return await self._tools.runtime.start(spec)
            except (ConfigMissing, VolumeUnavailable, plan.NothingToRun, ValueError) as error:
                reason = (
                    "CreateContainerError"
                    if isinstance(error, plan.NothingToRun)
                    else "CreateContainerConfigError"
                )
                self._tell("Warning", "Failed", f"Error: {error}", name)
                self._wait_as(name, Waiting(reason, str(error)))
                self._publish()
            except ApiUnavailable as error:
                log.warning("%s/%s waits: %s", self.pod["metadata"]["name"], name, error)
            await self._either(backoff.wait(), stop)
        return None

    async def _spec(self, manifest: Manifest) -> ContainerSpec:
        restarts = self._state.containers[manifest["name"]].restarts
        if self._tools.settings.pretend:
            return plan.pretend_spec(manifest, self.pod, self._folder, restarts)
        around = await resolve(self._tools.client, self.pod, self._tools.settings.facts)
        spec = plan.container_spec(manifest, around, self._folder, self._tools.settings, restarts)
        self._folder.mark_started()
        return spec

    async def _wait(self, name: str, started: Started, stop: asyncio.Event) -> Exit:
        waiting = asyncio.ensure_future(started.wait())
        try:
            await self._either(asyncio.shield(waiting), stop)
            if not waiting.done():
                self._tell("Normal", "Killing", f"Stopping container {name}", name)
                started.terminate()
            return await waiting
        except asyncio.CancelledError:
            started.kill()
            await waiting
            raise

    def _terminated(self, name: str, started: Started, began: datetime, end: Exit) -> Terminated:
        if end.peak_bytes is not None:
            self._annotations[ANNOTATION_PEAK_MEMORY + name] = str(end.peak_bytes)
        reason = "OOMKilled" if end.oom_killed else "Error" if end.code else "Completed"
        return Terminated(end.code, reason, began, datetime.now(UTC), container_id=started.container_id)

    # --- state ----------------------------------------------------------------------------------

    def _set(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        self._publish()

    def _put(self, name: str, container: ContainerState) -> None:
        self._state = self._state.with_container(name, container)

    def _wait_as(self, name: str, waiting: Waiting) -> None:
        self._put(name, replace(self._state.containers[name], state=waiting))

    def _publish(self) -> None:
        self._status.publish(self._state, self._annotations)

    def _tell(self, kind: Kind, reason: str, message: str, container: str = "") -> None:
        self._tools.events.tell(self.pod, kind, reason, message, container)

    async def _unless_stopped(self, work: Awaitable[T]) -> None:
        await self._either(work, self._stop)

    @staticmethod
    async def _either(work: Awaitable[T], stop: asyncio.Event) -> None:
        """Until ``work`` is done or ``stop`` is set; the other is given up."""
        tasks = [asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
