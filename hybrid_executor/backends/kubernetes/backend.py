"""Runs submissions as pods: the Kubernetes implementation of ``ports.Backend``.

This module is the border between the executor's thread and the one asyncio
thread that talks to the API server. Calls are handed over and return at once;
what that thread has to say waits in a deque for ``poll``. The work is done by
``creation`` (makes pods), ``watch`` (sees them), ``book`` (knows what follows),
``upkeep`` (deletes, looks up, takes over) and ``podlog``. Constructing it
connects to nothing and imports no client.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

from hybrid_executor.backends.kubernetes.answer import UNAVAILABLE_RETRY_S
from hybrid_executor.backends.kubernetes.book import Book, Known, Order, watch_selector
from hybrid_executor.backends.kubernetes.client import PodApi
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.creation import Creation, MakePod
from hybrid_executor.backends.kubernetes.loop import LoopThread
from hybrid_executor.backends.kubernetes.podlog import read_log
from hybrid_executor.backends.kubernetes.room import Both, Room
from hybrid_executor.backends.kubernetes.times import PodTimes
from hybrid_executor.backends.kubernetes.upkeep import Upkeep
from hybrid_executor.backends.kubernetes.watch import Reflector, Sink
from hybrid_executor.meter import WATCH_AGE, Meter, Tags
from hybrid_executor.model.attempt import BackendName, Submission, SubmissionId
from hybrid_executor.model.observation import Accepted, Ended, Observation, Rejected, Started, Waiting
from hybrid_executor.model.reason import Reason

log = logging.getLogger("hybrid_executor.kubernetes")

THREAD_NAME = "hybrid-kubernetes"
FAULT_PAUSE_S = 5.0
#: How often it is looked whose fatal wait has lasted too long.
CONDEMN_EVERY_S = 1.0


class KubernetesBackend:
    """Pods of one owner (a scheduler's job id) on one API server."""

    name = BackendName.KUBERNETES

    def __init__(
        self, config: KubernetesConfig, make_pod: MakePod, owner: str = "", meter: Meter | None = None
    ) -> None:
        #: May be set until ``start``: a scheduler learns its job id late.
        self.owner = owner
        self._config = config
        self._make_pod = make_pod
        self._meter = meter or Meter()
        self._times = PodTimes(self._meter)
        self._heard: deque[Observation] = deque()
        self._loop = LoopThread(THREAD_NAME)
        self._session: Session | None = None

    @property
    def trouble(self) -> str | None:
        session = self._session
        return session.api.availability.trouble if session else None

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
        if not self._hand_over(lambda session: session.creation.submit(batch)):
            self._heard.extend(
                Waiting(s.id, Reason.API_UNAVAILABLE, "the backend is stopped", UNAVAILABLE_RETRY_S)
                for s in batch
            )

    def poll(self) -> list[Observation]:
        return [self._heard.popleft() for _ in range(len(self._heard))]

    def cancel(self, ids: Collection[SubmissionId]) -> None:
        wanted = list(ids)
        self._hand_over(lambda session: session.cancel(wanted))

    def adopt(self, ids: Collection[SubmissionId]) -> None:
        wanted = list(ids)
        self._hand_over(lambda session: session.adopt(wanted))

    def inherit(self, wanted: Mapping[SubmissionId, str], unwanted: Collection[str] = ()) -> None:
        asked = {workload_id: submission for submission, workload_id in wanted.items()}
        everything = dict.fromkeys(unwanted) | asked
        self._hand_over(lambda session: session.upkeep.inherit(everything))

    def sweep(self, live_owners: Collection[str]) -> None:
        live = frozenset(live_owners)
        self._hand_over(lambda session: session.upkeep.sweep(live))

    def release(self, ids: Collection[SubmissionId]) -> None:
        recorded = list(ids)
        self._hand_over(lambda session: session.book.release(recorded))

    def log(self, attempt_id: str) -> list[str] | None:
        return read_log(self._config, attempt_id)

    def _hand_over(self, call: Callable[["Session"], object]) -> bool:
        return self._loop.hand_over(lambda: self._session and call(self._session))

    async def _serve(self) -> None:
        session = Session(self._config, self._make_pod, self.owner, self._say, self._meter)
        self._session = session
        try:
            await session.run()
        finally:
            self._session = None
            await session.api.close()

    def _watch_ages(self) -> dict[Tags, float]:
        session, now_s = self._session, time.monotonic()
        reflectors = session.reflectors if session else ()
        return {(reflector.scope or "all",): now_s - reflector.heard_at_s for reflector in reflectors}

    def _say(self, observation: Observation) -> None:
        self._heard.append(observation)
        self._times.said(observation)
        log.info(
            "attempt_id=%s submission=%s backend=kubernetes %s",
            observation.submission.attempt_id,
            observation.submission.number,
            _in_words(observation),
        )


class Session:
    """What lives from a start to a stop, all of it in the loop's thread."""

    def __init__(
        self,
        config: KubernetesConfig,
        make_pod: MakePod,
        owner: str,
        say: Callable[[Observation], None],
        meter: Meter,
    ) -> None:
        self._config = config
        self.api = PodApi(config, meter)
        self.room = Room(self.api, config.room, say, is_known=lambda submission: submission in self.book)
        if config.cluster_view:
            say = self._explaining(say)
        self.book = Book(
            say,
            self._carry_out,
            config.fatal_waiting_reasons,
            config.fatal_wait_s,
            is_being_made=self._is_being_made,
        )
        self.upkeep = Upkeep(self.api, self.book, config, owner, say, is_being_made=self._is_being_made)
        self.creation = Creation(
            self.api, self.book, config, owner, make_pod=make_pod, say=say, cancel_unknown=self.upkeep.cancel
        )
        selector = watch_selector(owner, config.deployment)
        self.reflectors = [
            Reflector(self.api, scope, selector, self._sink(), config.watch) for scope in config.watched
        ]

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for work in self._works():
                    group.create_task(_keep_going(work))
        finally:
            self.upkeep.stop()

    def cancel(self, ids: Sequence[SubmissionId]) -> None:
        unknown = [s for s in ids if not (self.creation.withdraw(s) or self.book.cancel(s))]
        self.upkeep.cancel(unknown)

    def adopt(self, ids: Sequence[SubmissionId]) -> None:
        """What is known answers from memory; what is being made will be answered by that."""
        self.upkeep.adopt([s for s in ids if s not in self.creation and not self.book.repeat(s)])

    def _works(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        watches = [reflector.run for reflector in self.reflectors]
        return [
            *watches,
            *[self.creation.run] * self._config.creation_concurrency,
            self.upkeep.run,
            self._condemn,
            *([self.room.run] if self._config.cluster_view else []),
        ]

    def _sink(self) -> Sink:
        return Both(self.book, self.room) if self._config.cluster_view else self.book

    def _explaining(self, say: Callable[[Observation], None]) -> Callable[[Observation], None]:
        return lambda observation: say(self.room.explained(observation))

    async def _condemn(self) -> None:
        while True:
            await asyncio.sleep(CONDEMN_EVERY_S)
            self.book.condemn_overdue()

    def _carry_out(self, order: Order, known: Known) -> None:
        self.upkeep.carry_out(order, known)

    def _is_being_made(self, submission: SubmissionId) -> bool:
        return submission in self.creation


async def _keep_going(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A fault of ours in one of the works is told and stops neither it nor the others for good."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("backend=kubernetes has a fault and goes on")
            await asyncio.sleep(FAULT_PAUSE_S)


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
