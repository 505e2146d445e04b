"""The pods of Celery workers in the home cluster: who is there, who leaves, who is gone; and what they cost.

``PoolPods`` is a ``watch.Sink`` beside that of task pods, and ``ports.Workers``
for the controller. It knows a worker's pod by its label, never makes or ends
one, and writes nothing but the annotation by which a ReplicaSet chooses whom to
end first. It does not know what a worker runs: that is the ledger's to say.

Two threads meet here: the loop's tells and patches, that of the heartbeat asks.
What passes between them is a deque and dictionaries that are replaced, never changed.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hybrid_executor.backends.kubernetes.answer import Answer
from hybrid_executor.backends.kubernetes.client import Pod, PodApi
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.model.worker import WorkerPod, WorkerState
from hybrid_executor.naming import LABEL_DEPLOYMENT, LABEL_POOL

log = logging.getLogger("hybrid_executor.kubernetes")

#: A ReplicaSet ends the pods with the lowest first; none counts as 0.
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
#: Between two patches: a storm of starts makes no storm of requests.
PATCH_PAUSE_S = 0.05
#: The container in which the worker is, where there are others.
WORKER_CONTAINER = "worker"


def pool_selector(config: KubernetesConfig) -> str:
    """The workers of this Airflow."""
    return f"{LABEL_POOL},{LABEL_DEPLOYMENT}={config.deployment}"


class PoolPods:
    """What is known of them since the first list."""

    def __init__(self, namespace: str, hand_over: Callable[[Callable[[], object]], object]) -> None:
        """``hand_over`` has the loop make a call soon."""
        self.namespace = namespace
        self._hand_over = hand_over
        self._pods: dict[str, WorkerPod] = {}
        self._news: deque[WorkerPod] = deque()
        #: Of the list that is under way.
        self._listed: set[str] | None = None
        self._is_known = False
        self._wanted: dict[str, int] = {}
        self._wants = asyncio.Event()

    # --- ports.Workers, of the heartbeat's thread ---------------------------------------

    @property
    def pods(self) -> Mapping[str, WorkerPod] | None:
        """See ``ports.Workers``."""
        return dict(self._pods) if self._is_known else None

    def poll(self) -> list[WorkerPod]:
        """See ``ports.Workers``."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def mark(self, costs: Mapping[str, int]) -> None:
        """See ``ports.Workers``."""
        wanted = dict(costs)
        self._hand_over(lambda: self._want(wanted))

    # --- watch.Sink, of the loop's thread -----------------------------------------------

    def listing(self, scope: str | None, began: float) -> None:  # noqa: ARG002 (watch.Sink's)
        self._listed = set()

    def listed(self, scope: str | None) -> None:  # noqa: ARG002 (watch.Sink's)
        for name in self._pods.keys() - (self._listed or set()):
            self._tell(replace(self._pods[name], state=WorkerState.GONE))
        self._listed, self._is_known = None, True

    def changed(self, pod: Pod) -> None:
        if self._listed is not None:
            self._listed.add(pod["metadata"]["name"])
        self._tell(worker_pod(pod))

    def removed(self, pod: Pod) -> None:
        self._tell(replace(worker_pod(pod), state=WorkerState.GONE))

    def _tell(self, seen: WorkerPod) -> None:
        if seen == self._pods.get(seen.name):
            return
        if seen.state is WorkerState.GONE:
            if self._pods.pop(seen.name, None) is None:
                return
        else:
            self._pods[seen.name] = seen
        self._news.append(seen)

    # --- costs ----------------------------------------------------------------------------

    def _want(self, costs: Mapping[str, int]) -> None:
        self._wanted |= costs
        self._wants.set()

    async def patch(self, api: PodApi) -> None:
        """Patch what is wanted, until cancelled; what fails is the next decision's to want again."""
        while True:
            await self._wants.wait()
            if not self._wanted:
                self._wants.clear()
                continue
            # Whoever has become busy goes before whoever has become idle: it must not be chosen.
            name = max(self._wanted, key=lambda name: self._wanted[name])
            cost = self._wanted.pop(name)
            try:
                await api.annotate(self.namespace, name, {DELETION_COST: str(cost)})
            except (Answer, ApiUnavailable) as error:
                log.info("worker %s: its deletion cost could not be set: %s", name, error)
            await asyncio.sleep(PATCH_PAUSE_S)


def worker_pod(pod: Pod) -> WorkerPod:
    """What matters of a pod's manifest and status."""
    metadata = pod["metadata"]
    return WorkerPod(
        name=metadata["name"],
        pool=metadata["labels"][LABEL_POOL],
        state=_state(pod),
        began_at=_began_at(pod),
        deletion_cost=_cost((metadata.get("annotations") or {}).get(DELETION_COST)),
    )


def _state(pod: Pod) -> WorkerState:
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        # An evicted pod stays as an object.
        return WorkerState.GONE
    return WorkerState.LEAVING if pod["metadata"].get("deletionTimestamp") else WorkerState.LIVE


def _began_at(pod: Pod) -> datetime:
    """The pod's creation, or the start of its worker's container where that was started again."""
    statuses: list[Mapping[str, Any]] = (pod.get("status") or {}).get("containerStatuses") or []
    for status in statuses:
        is_worker = status.get("name") == WORKER_CONTAINER or len(statuses) == 1
        running = (status.get("state") or {}).get("running")
        if is_worker and running and status.get("restartCount"):
            return _time(running["startedAt"])
    return _time(pod["metadata"]["creationTimestamp"])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _cost(text: str | None) -> int:
    """Kubernetes itself takes one that is no number for 0."""
    try:
        return int(text or 0)
    except ValueError:
        return 0
