"""Runs submissions as pods: the Kubernetes implementation of ``ports.Backend``.

This module is the border between the executor's thread and the one asyncio
thread that talks to the API servers. Calls are handed over and return at once;
what that thread has to say waits in a deque for ``poll``. The work is done by
one ``session`` for each cluster, among which ``clusters`` chooses, and by
``podlog``. Constructing it connects to nothing and imports no client.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from hybrid_executor.backends.kubernetes.answer import UNAVAILABLE_RETRY_S
from hybrid_executor.backends.kubernetes.clusters import Clusters
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.creation import MakePod
from hybrid_executor.backends.kubernetes.loop import LoopThread
from hybrid_executor.backends.kubernetes.podlog import read_log
from hybrid_executor.backends.kubernetes.poolpods import PoolPods
from hybrid_executor.backends.kubernetes.session import Session
from hybrid_executor.backends.kubernetes.times import PodTimes
from hybrid_executor.meter import WATCH_AGE, Meter, Tags
from hybrid_executor.model.attempt import BackendName, Destination, Submission, SubmissionId
from hybrid_executor.model.observation import Accepted, Ended, Observation, Rejected, Started, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import shown_cluster
from hybrid_executor.ports import Workers

log = logging.getLogger("hybrid_executor.kubernetes")

THREAD_NAME = "hybrid-kubernetes"


class KubernetesBackend:
    """Pods of one owner (a scheduler's job id), in one cluster or in several."""

    name = BackendName.KUBERNETES

    def __init__(
        self,
        config: KubernetesConfig,
        make_pod: MakePod,
        owner: str = "",
        meter: Meter | None = None,
        *,
        others: Sequence[KubernetesConfig] = (),
    ) -> None:
        """``others`` are the clusters that have names; ``make_pod`` makes the pods of all."""
        #: May be set until ``start``: a scheduler learns its job id late.
        self.owner = owner
        self._configs = {one.cluster: one for one in (config, *others)}
        self._make_pod = make_pod
        self._meter = meter or Meter()
        self._times = PodTimes(self._meter)
        self._heard: deque[Observation] = deque()
        self._loop = LoopThread(THREAD_NAME)
        self._clusters: Clusters | None = None
        self._pool_pods = (
            PoolPods(config.workers_namespace, self._loop.hand_over) if config.workers_namespace else None
        )

    @property
    def workers(self) -> Workers | None:
        """The pods of Celery workers, which the home cluster has; None where none are looked for."""
        return self._pool_pods

    @property
    def troubles(self) -> Mapping[str, str | None]:
        """See ``ports.Backend``."""
        clusters = self._clusters
        if clusters is None:
            return dict.fromkeys(self._configs)
        return {name: session.api.availability.trouble for name, session in clusters.sessions.items()}

    def start(self) -> None:
        if not self.owner:
            raise ValueError("the owner (scheduler job id) must be set before start")
        self._meter.read(WATCH_AGE, self._watch_ages)
        self._loop.start(self._serve)

    def stop(self, deadline_s: float) -> None:
        if not self._loop.stop(deadline_s):
            log.warning("backend=kubernetes was still busy %.1f s after it was told to stop", deadline_s)

    def submit(self, batch: Sequence[Submission]) -> None:
        batch = list(batch)
        self._times.submitted(batch)
        if not self._hand_over(lambda clusters: clusters.submit(batch)):
            self._heard.extend(
                Waiting(s.id, Reason.API_UNAVAILABLE, "the backend is stopped", UNAVAILABLE_RETRY_S)
                for s in batch
            )

    def poll(self) -> list[Observation]:
        return [self._heard.popleft() for _ in range(len(self._heard))]

    def cancel(self, ids: Collection[SubmissionId], cluster: str = "") -> None:
        wanted = list(ids)
        self._hand_over(lambda clusters: clusters.cancel(wanted, cluster))

    def adopt(self, ids: Collection[SubmissionId], cluster: str = "") -> None:
        wanted = list(ids)
        self._hand_over(lambda clusters: clusters.adopt(wanted, cluster))

    def inherit(self, wanted: Mapping[SubmissionId, str], unwanted: Collection[str] = ()) -> None:
        asked = {workload_id: submission for submission, workload_id in wanted.items()}
        everything = dict.fromkeys(unwanted) | asked
        self._hand_over(lambda clusters: clusters.inherit(everything))

    def sweep(self, live_owners: Collection[str]) -> None:
        live = frozenset(live_owners)
        self._hand_over(lambda clusters: clusters.sweep(live))

    def release(self, ids: Collection[SubmissionId]) -> None:
        recorded = list(ids)
        self._hand_over(lambda clusters: clusters.release(recorded))

    def log(self, attempt_id: str, cluster: str = "") -> list[str] | None:
        config = self._configs.get(cluster)
        return read_log(config, attempt_id) if config else None

    def _hand_over(self, call: Callable[[Clusters], object]) -> bool:
        return self._loop.hand_over(lambda: self._clusters and call(self._clusters))

    async def _serve(self) -> None:
        self._clusters = Clusters(
            {name: self._session(config) for name, config in self._configs.items()}, self._say
        )
        try:
            await self._clusters.run()
        finally:
            self._clusters = None

    def _session(self, config: KubernetesConfig) -> Session:
        def say(observation: Observation) -> None:
            self._say(observation, config.cluster)

        pool_pods = None if config.cluster else self._pool_pods
        return Session(config, self._make_pod, self.owner, say, self._meter, pool_pods=pool_pods)

    def _watch_ages(self) -> dict[Tags, float]:
        clusters, now_s = self._clusters, time.monotonic()
        return {
            (shown_cluster(name), reflector.scope or "all"): now_s - reflector.heard_at_s
            for name, session in (clusters.sessions if clusters else {}).items()
            for reflector in session.reflectors
        }

    def _say(self, observation: Observation, cluster: str = "") -> None:
        self._heard.append(observation)
        self._times.said(observation)
        # The controller writes what follows, many steps to a record. A record costs the loop's thread more
        # than the step that it tells of, and a pod takes four.
        if not log.isEnabledFor(logging.DEBUG):
            return
        log.debug(
            "attempt_id=%s submission=%s backend=%s %s",
            observation.submission.attempt_id,
            observation.submission.number,
            Destination(self.name, cluster),
            _in_words(observation),
        )


def _in_words(observation: Observation) -> str:
    match observation:
        case Accepted(external_name=name, lacks_payload=lacks):
            return f"phase=accepted pod={name}" + (" its workload is asked for again" if lacks else "")
        case Waiting(reason=reason, message=message):
            return f"phase=waiting reason={reason} {message}"
        case Rejected(diagnosis=diagnosis):
            return f"phase=rejected reason={diagnosis.reason} {diagnosis.message}"
        case Started(where=where):
            return f"phase=started where={where}"
        case Ended(how=how, diagnosis=diagnosis):
            why = f" reason={diagnosis.reason} {diagnosis.message}" if diagnosis else ""
            return f"phase=ended how={how}{why}"
