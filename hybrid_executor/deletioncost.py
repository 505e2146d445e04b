"""Which worker a scale-in takes: each pod's deletion cost is kept in step with how many tasks it runs.

A ReplicaSet that shrinks ends the pod with the lowest
``controller.kubernetes.io/pod-deletion-cost`` first, so it is written before
anybody needs it: a worker that has become busy at once, one that has become
idle after ``IDLE_S``, and all of a pool with their exact numbers when less is in
flight than its replicas can hold, since it is about to shrink. In between a
busy worker keeps a number that is not exact, and an idle one its former: few patches.

``costs`` decides, over plain values. The numbers are the ledger's, which all
schedulers share, so two of them want the same. ``DeletionCosts`` asks the ledger
only while a worker that this scheduler has seen begin or end a task is not
settled, and then every ``ROUND_S``. Called by ``controller``.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import ceil

from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.worker import WorkerPod, WorkerState, pod_of
from hybrid_executor.ports import Clock, Ledger, Workers
from hybrid_executor.routing import Pool

log = logging.getLogger("hybrid_executor")

ROUND_S = 5.0
#: For how long a worker must have had nothing before it counts as idle.
IDLE_S = 10.0
#: For how long a patch that was asked for is waited for.
PATIENCE_S = 30.0

#: Queue, worker or None, how many.
Loads = Sequence[tuple[str, str | None, int]]


def tasks_by_pod(loads: Loads) -> Counter[str]:
    """How many tasks run where."""
    found: Counter[str] = Counter()
    for _, worker, count in loads:
        if worker:
            found[pod_of(worker)] += count
    return found


def shrinking(pools: Iterable[Pool], pods: Iterable[WorkerPod], loads: Loads) -> frozenset[str]:
    """Pools that have more workers than what is in flight needs."""
    live = Counter(pod.pool for pod in pods if pod.state is WorkerState.LIVE)
    found = set()
    for pool in pools:
        in_flight = sum(count for queue, _, count in loads if queue in pool.queues)
        if live[pool.name] > max(pool.min_replicas, ceil(in_flight / pool.concurrency)):
            found.add(pool.name)
    return frozenset(found)


def costs(
    pods: Iterable[WorkerPod],
    tasks: Mapping[str, int],
    shrinks: Collection[str],
    idle_s: Mapping[str, float],
) -> dict[str, int]:
    """The pods whose cost is to change, and to what; ``idle_s`` is for how long one has had nothing."""
    wanted = {}
    for pod in pods:
        count = tasks.get(pod.name, 0)
        if pod.state is not WorkerState.LIVE or pod.deletion_cost == count:
            continue
        became_busy = count > 0 >= pod.deletion_cost
        became_idle = not count and idle_s.get(pod.name, 0.0) >= IDLE_S
        if became_busy or became_idle or pod.pool in shrinks:
            wanted[pod.name] = count
    return wanted


class DeletionCosts:
    """The costs that one scheduler keeps."""

    def __init__(self, *, workers: Workers, pools: Sequence[Pool], ledger: Ledger, clock: Clock) -> None:
        self._workers = workers
        self._pools = pools
        self._ledger = ledger
        self._clock = clock
        #: Pods that began or ended a task in this scheduler's sight, and are not settled.
        self._touched: set[str] = set()
        self._idle_since_s: dict[str, float] = {}
        #: What was asked for, and when.
        self._asked: dict[str, tuple[int, float]] = {}
        self._round_s = float("-inf")

    def placed(self, worker: str) -> None:
        """It began a task: it is busy now, whatever else it runs."""
        name = pod_of(worker)
        self._touched.add(name)
        self._idle_since_s.pop(name, None)
        pod = (self._workers.pods or {}).get(name)
        if pod and pod.deletion_cost <= 0:
            self._ask({name: 1})

    def left(self, worker: str) -> None:
        """A task on it has ended."""
        self._touched.add(pod_of(worker))

    def step(self) -> None:
        """Do a round, if there is anything to settle and the last was long enough ago."""
        now_s = self._clock.monotonic_s()
        if not self._touched or now_s - self._round_s < ROUND_S:
            return
        self._round_s = now_s
        pods = self._workers.pods or {}
        self._touched &= pods.keys()
        if not self._touched:
            return
        try:
            loads = self._ledger.celery_loads()
        except LedgerUnavailable as error:
            log.info("deletion costs stay as they are: %s", error)
            return
        tasks = tasks_by_pod(loads)
        self._note_idle(pods, tasks, now_s)
        shrinks = shrinking(self._pools, pods.values(), loads)
        idle_s = {name: now_s - since_s for name, since_s in self._idle_since_s.items()}
        wanted = costs(pods.values(), tasks, shrinks, idle_s)
        self._ask(wanted)
        # Whoever is idle, and not for long enough, is looked at again.
        unsettled = {n for n in self._touched if not tasks[n] and pods[n].deletion_cost}
        self._touched = unsettled | wanted.keys()

    def _note_idle(self, pods: Collection[str], tasks: Mapping[str, int], now_s: float) -> None:
        since_s = self._idle_since_s
        self._idle_since_s = {n: since_s.get(n, now_s) for n in pods if not tasks.get(n)}

    def _ask(self, wanted: Mapping[str, int]) -> None:
        """Once for each value, and again where it did not come about."""
        now_s = self._clock.monotonic_s()
        self._asked = {n: (c, at_s) for n, (c, at_s) in self._asked.items() if now_s - at_s < PATIENCE_S}
        fresh = {n: c for n, c in wanted.items() if self._asked.get(n, (None, 0.0))[0] != c}
        if fresh:
            self._asked |= {name: (cost, now_s) for name, cost in fresh.items()}
            self._workers.mark(fresh)
