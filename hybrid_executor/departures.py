"""What becomes of Celery attempts whose worker's pod leaves or has gone: pods speak before any timeout does.

A pod that is being deleted is noted in the rows of what runs there, so that the
autoscaler counts it no more: it goes on, but in no replica that is to stay. A
pod that has gone has ended what ran there, without a word: that is an
observation of the Celery backend's, ``WorkerLost``, and ``lifecycle`` decides
about it as about any other. Only what is known to have run in that pod, and not
in a later one of its name, ends so: the pod must have said another beginning
before, since a scheduler's clock may differ from the cluster's.

Costs the pods that have changed and the attempts on them. Knows pods as values
(``ports.Workers``); without pools, or without any way to Kubernetes, nothing is
ever noted, and Airflow's own heartbeat timeout stays the last word. Called by
``controller``.
"""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.journal import Journal
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.observation import Diagnosis, Ended, How, Observation
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Change
from hybrid_executor.model.worker import WorkerPod, WorkerState, pod_of
from hybrid_executor.ports import Clock, Workers

log = logging.getLogger("hybrid_executor")

#: So many pods that left are remembered, for attempts that are heard of later.
LEFT_MAX = 1_000

Lost = list[tuple[BackendName, Observation]]


class Departures:
    """The worker pods that left in the sight of one scheduler."""

    def __init__(self, *, workers: Workers, inflight: Inflight, journal: Journal, clock: Clock) -> None:
        self._workers = workers
        self._inflight = inflight
        self._journal = journal
        self._clock = clock
        #: By name, the oldest first.
        self._left: dict[str, WorkerPod] = {}
        #: When the worker of each pod that is there began, by the pod's name.
        self._began: dict[str, datetime] = {}
        #: Heard to run somewhere, and not compared with the pods yet.
        self._placed: list[Flight] = []
        #: Adopted, of workers that were leaving when a former scheduler saw them last.
        self._in_doubt: list[Flight] = []

    def placed(self, flight: Flight) -> None:
        """It is known where this one runs."""
        self._placed.append(flight)

    def adopted(self, flights: Iterable[Flight]) -> None:
        """These come from another scheduler, which may have seen their workers leave."""
        for flight in flights:
            if flight.where:
                (self._in_doubt if flight.worker_leaves else self._placed).append(flight)

    def step(self) -> Lost:
        """What has ended because its worker has; the rest of what has changed is noted in the ledger."""
        lost: Lost = []
        for pod in self._workers.poll():
            self._remember(pod)
            for flight in self._inflight.on(pod.name):
                lost += self._judge(flight, pod)
        placed, self._placed = self._placed, []
        for flight in placed:
            name = pod_of(flight.where or "")
            flight.worker_began_at = self._began.get(name)
            if left := self._left.get(name):
                lost += self._judge(flight, left)
        return lost + self._settle_doubts()

    def _remember(self, pod: WorkerPod) -> None:
        self._left.pop(pod.name, None)
        if pod.state is WorkerState.GONE:
            self._began.pop(pod.name, None)
        else:
            self._began[pod.name] = pod.began_at
        if pod.state is not WorkerState.LIVE:
            self._left[pod.name] = pod
            if len(self._left) > LEFT_MAX:
                del self._left[next(iter(self._left))]

    def _judge(self, flight: Flight, pod: WorkerPod) -> Lost:
        if self._inflight.get(flight.attempt.id) is not flight:
            return []
        if pod.state is WorkerState.GONE:
            return [_lost(flight, f"the pod of its worker, {pod.name} of pool {pod.pool}, is gone")]
        if flight.worker_began_at not in (None, pod.began_at) and self._started_at(flight) < pod.began_at:
            return [_lost(flight, f"the worker in pod {pod.name} of pool {pod.pool} was started anew")]
        flight.worker_began_at = pod.began_at
        if pod.state is WorkerState.LEAVING and not flight.worker_leaves:
            flight.worker_leaves = True
            self._journal.change(Change(id=flight.id, worker_leaves_at=self._clock.now()))
        return []

    def _started_at(self, flight: Flight) -> datetime:
        """When it was heard to run: later than it did, so that no start is taken for a former worker's."""
        return self._clock.now() - timedelta(seconds=self._clock.monotonic_s() - flight.started_s)

    def _settle_doubts(self) -> Lost:
        """Whoever was leaving then and is not there now is gone."""
        if not self._in_doubt or (pods := self._workers.pods) is None:
            return []
        doubtful, self._in_doubt = self._in_doubt, []
        return [
            _lost(flight, f"the pod of its worker {flight.where} was leaving, and is gone")
            for flight in doubtful
            if flight.where and pod_of(flight.where) not in pods
        ]


def _lost(flight: Flight, message: str) -> tuple[BackendName, Observation]:
    log.warning("attempt_id=%s submission=%d %s", *flight.id, message)
    diagnosis = Diagnosis(reason=Reason.WORKER_LOST, message=message)
    return BackendName.CELERY, Ended(flight.id, How.FAILED, diagnosis)
