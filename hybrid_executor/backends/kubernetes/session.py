"""One cluster from a start to a stop: a connection, and all that is done over it, in the loop's thread.

``Session`` joins ``creation`` (makes pods), ``watch`` (sees them), ``book``
(knows what follows), ``upkeep`` (deletes, looks up, takes over) and ``room``.
It knows nothing of other clusters: ``clusters`` chooses among sessions.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from hybrid_executor.backends.kubernetes.book import Book, Known, Order, watch_selector
from hybrid_executor.backends.kubernetes.client import PodApi
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.creation import Creation, MakePod
from hybrid_executor.backends.kubernetes.poolpods import PoolPods, pool_selector
from hybrid_executor.backends.kubernetes.room import Both, Room
from hybrid_executor.backends.kubernetes.upkeep import Upkeep
from hybrid_executor.backends.kubernetes.watch import Reflector, Sink
from hybrid_executor.meter import Meter
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Observation

log = logging.getLogger("hybrid_executor.kubernetes")

FAULT_PAUSE_S = 5.0
#: How often it is looked whose fatal wait has lasted too long.
CONDEMN_EVERY_S = 1.0


class Session:
    """The pods of one owner (a scheduler's job id) in one cluster."""

    def __init__(
        self,
        config: KubernetesConfig,
        make_pod: MakePod,
        owner: str,
        say: Callable[[Observation], None],
        meter: Meter,
        *,
        pool_pods: PoolPods | None = None,
    ) -> None:
        """``pool_pods`` is told of the pods of Celery workers, and has its patches sent."""
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
        self._pool_pods = pool_pods
        selector = watch_selector(owner, config)
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
            await self.api.close()

    def cancel(self, ids: Sequence[SubmissionId]) -> None:
        unknown = [s for s in ids if not (self.creation.withdraw(s) or self.book.cancel(s))]
        self.upkeep.cancel(unknown)

    def adopt(self, ids: Sequence[SubmissionId]) -> None:
        """What is known answers from memory; what is being made will be answered by that.

        A pod is still being made while its Secret is, and may have started by then.
        """
        self.upkeep.adopt([s for s in ids if not self.book.repeat(s) and s not in self.creation])

    def _works(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        watches = [reflector.run for reflector in self.reflectors]
        return [
            *watches,
            *[self.creation.run] * self._config.creation_concurrency,
            self.upkeep.run,
            self._condemn,
            *([self.room.run] if self._config.cluster_view else []),
            *(self._works_on_workers(self._pool_pods) if self._pool_pods else []),
        ]

    def _works_on_workers(self, pods: PoolPods) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        selector = pool_selector(self._config)
        reflector = Reflector(self.api, pods.namespace, selector, pods, self._config.watch)
        return [reflector.run, partial(pods.patch, self.api)]

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
