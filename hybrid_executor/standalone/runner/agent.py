"""The node's loop: which pods are here, and a worker for each that has to run.

Started by ``__main__``. It follows the API, never the other way round: a pod
runs because the API says that it is bound here, and ends because the API says
so. A pod that an earlier runner had started is declared lost, never run again.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.standalone.runner import fit, plan
from hybrid_executor.standalone.runner.binder import Binder
from hybrid_executor.standalone.runner.client import ApiRefused, Backoff, Client, Conflict
from hybrid_executor.standalone.runner.container import Runtime
from hybrid_executor.standalone.runner.ending import Order
from hybrid_executor.standalone.runner.events import EventWriter
from hybrid_executor.standalone.runner.heartbeat import Heartbeat
from hybrid_executor.standalone.runner.node import NodeDescription
from hybrid_executor.standalone.runner.podstate import Verdict
from hybrid_executor.standalone.runner.podworker import PodWorker, Tools
from hybrid_executor.standalone.runner.reflector import Change, Reflector
from hybrid_executor.standalone.runner.statuswriter import exists, pod_path
from hybrid_executor.standalone.runner.volumes import PodFolder

log = logging.getLogger(__name__)

Object = dict[str, Any]

#: SIGTERM to exit takes at most the sum: containers, then the words about them.
SHUTDOWN_GRACE_S = 2.0
SHUTDOWN_TELL_S = 2.0

LOST = Verdict("NodeLost", "The node restarted and the processes of this pod are gone", disruption=True)
SHUTDOWN = Verdict("Terminated", "Pod was terminated in response to imminent node shutdown.", disruption=True)
BROKEN = Verdict("NodeError", "The node failed while it ran this pod; its log says why", disruption=True)


@dataclass(frozen=True)
class AgentSettings:
    state: Path
    node: NodeDescription
    bind: bool = False


class Agent:
    """One node. ``run`` until cancelled, then ``shut_down``."""

    def __init__(
        self,
        settings: AgentSettings,
        client: Client,
        runtime: Runtime,
        events: EventWriter,
        node_settings: plan.NodeSettings,
    ) -> None:
        self._settings, self._client, self._events = settings, client, events
        self._tools = Tools(client, runtime, events, node_settings, self._folder)
        self._pods = Reflector(client, "/api/v1/pods", f"spec.nodeName={settings.node.name}")
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._heartbeat = Heartbeat(client, settings.node)
        self._binder = Binder(client, events, settings.node, lambda: self._pods.objects)
        #: Pods whose end this process has already told, though the watch may lag.
        self._ended: set[str] = set()

    def find_pod(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """A pod of this node, for the log server."""
        for pod in self._pods.objects.values():
            if pod["metadata"]["name"] == name and pod["metadata"]["namespace"] == namespace:
                return pod
        return None

    async def run(self) -> None:
        """Register, then follow the API for ever."""
        await self._heartbeat.begin()
        log.info("node %s is ready", self._settings.node.name)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._heartbeat.run(), name="heartbeat")
            group.create_task(self._events.run(), name="events")
            group.create_task(self._follow(), name="pods")
            if self._settings.bind:
                group.create_task(self._binder.run(), name="binder")

    async def shut_down(self) -> None:
        """End every pod that runs, and say so; within ``SHUTDOWN_GRACE_S`` and ``SHUTDOWN_TELL_S``."""
        for uid, worker in self._workers.items():
            grace = min(SHUTDOWN_GRACE_S, plan.grace_s(worker.pod))
            if self._folder(uid).has_started or self._tools.settings.pretend:
                worker.order(Order(grace, SHUTDOWN))
            else:
                # Nothing of it ran: it stays Pending, for the next start.
                self._tasks[uid].cancel()
        tasks = [*self._tasks.values(), asyncio.create_task(self._heartbeat.end())]
        _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_GRACE_S + SHUTDOWN_TELL_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    # --- following -----------------------------------------------------------------------------

    async def _follow(self) -> None:
        async for change in self._pods.changes():
            self._take(change)
            self._binder.room_changed()

    def _take(self, change: Change) -> None:
        pod = change.object
        if pod is None:
            self._sweep()
        elif change.gone:
            self._forget(pod)
        elif worker := self._workers.get(pod["metadata"]["uid"]):
            worker.update(pod)
        else:
            self._consider(pod)

    def _consider(self, pod: Object) -> None:
        """A pod without a worker: run it, call it lost, let it go, or leave it."""
        uid = pod["metadata"]["uid"]
        deleting = bool(pod["metadata"].get("deletionTimestamp"))
        over = fit.is_terminal(pod) or uid in self._ended
        if uid in self._tasks:
            return
        if not over and self._was_started(pod):
            self._begin(pod, lost=LOST)
        elif deleting:
            self._tasks[uid] = asyncio.create_task(self._let_go(pod))
            self._tasks[uid].add_done_callback(lambda _: self._tasks.pop(uid, None))
        elif not over:
            self._begin(pod)

    def _was_started(self, pod: Object) -> bool:
        """Whether an earlier runner may have started a container of it."""
        status = pod.get("status") or {}
        states = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
        ran = any({"running", "terminated"} & set(entry.get("state") or {}) for entry in states)
        return ran or status.get("phase") == "Running" or self._folder(pod["metadata"]["uid"]).has_started

    def _begin(self, pod: Object, lost: Verdict | None = None) -> None:
        uid = pod["metadata"]["uid"]
        worker = PodWorker(pod, self._tools)
        if lost is None:
            self._workers[uid] = worker
            worker.update(pod)
        self._tasks[uid] = asyncio.create_task(self._work(worker, lost), name=pod["metadata"]["name"])

    async def _work(self, worker: PodWorker, lost: Verdict | None) -> None:
        """One worker from begin to end, and the object's end if that is wanted."""
        uid = worker.pod["metadata"]["uid"]
        try:
            if lost:
                self._events.tell(worker.pod, "Warning", lost.reason, lost.message)
                await worker.fail_as_lost(lost)
            else:
                await worker.run()
            self._ended.add(uid)
        except Exception:  # a bug must not leave the pod running for ever in the API
            log.exception("pod %s", worker.pod["metadata"]["name"])
            if lost is None:
                await self._work(PodWorker(worker.pod, self._tools), BROKEN)
        finally:
            self._workers.pop(uid, None)
            self._tasks.pop(uid, None)
        self._after(uid)

    def _after(self, uid: str) -> None:
        """The worker is done: the object may be on its way out, or already gone."""
        pod = self._pods.objects.get(uid)
        if pod is None:
            self._ended.discard(uid)
            self._folder(uid).remove()
        elif pod["metadata"].get("deletionTimestamp"):
            self._consider(pod)
        self._binder.room_changed()

    def _forget(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if worker := self._workers.get(uid):
            worker.gone()
        elif uid not in self._tasks:
            self._ended.discard(uid)
            self._folder(uid).remove()

    def _sweep(self) -> None:
        """Remove the folders of pods that no longer exist."""
        for folder in (self._settings.state / "pods").glob("*"):
            if folder.name not in self._pods.objects and folder.name not in self._tasks:
                self._folder(folder.name).remove()

    async def _let_go(self, pod: Object) -> None:
        """The final DELETE of a pod that has nothing running here, until it is gone."""
        backoff = Backoff()
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": pod["metadata"]["uid"]},
        }
        while True:
            try:
                await self._client.delete(pod_path(pod), options)
                return
            except Conflict:
                return
            except ApiUnavailable as error:
                await backoff.wait(error.retry_after_s)
            except ApiRefused as error:
                # Also where the server's admission has not seen yet that the pod is ours.
                if not await exists(self._client, pod):
                    return
                log.warning("final delete of %s refused: %s", pod["metadata"]["name"], error)
                await backoff.wait()

    def _folder(self, uid: str) -> PodFolder:
        return PodFolder(self._settings.state, uid)
