"""Says of each pod that waits for a node whether one could ever hold it, and what it waits for.

Off unless the settings say that the scheduler may read nodes and pods of the
whole cluster (``cluster_view``). It reads only while something waits, and never for
one pod: nodes and pods at most as often as ``RoomTiming`` says, all pods, of
which there may be many, only where one that would fit has waited for a while.
It decides nothing: the scheduler of the cluster does, and its own words stay in
the message. ``cluster.fit`` does the arithmetic.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from hybrid_executor.backends.kubernetes.answer import Answer
from hybrid_executor.backends.kubernetes.book import Book, submission_of
from hybrid_executor.backends.kubernetes.client import PodApi
from hybrid_executor.backends.kubernetes.config import RoomTiming
from hybrid_executor.cluster.fit import (
    Need,
    Node,
    Resources,
    Verdict,
    judge,
    need_of,
    node_of,
    requested_by_node,
)
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.model.observation import Observation, Waiting
from hybrid_executor.model.reason import Reason

log = logging.getLogger("hybrid_executor.kubernetes")

Pod = Mapping[str, Any]
LIVING = "status.phase!=Succeeded,status.phase!=Failed"
ROLE = "workers/rbac/cluster-view-clusterrole.yaml"


@dataclass(slots=True)
class Waiter:
    """One pod that waits for a node."""

    need: Need
    since_s: float
    verdict: Verdict | None = None
    #: What was last said of it, without the numbers.
    said: tuple[bool, tuple[str, ...]] | None = None
    #: What the cluster's scheduler says.
    words: str = ""


class Room:
    """What is known of the cluster's nodes, and of the pods that wait for one. Used by the loop's thread."""

    def __init__(
        self,
        api: PodApi,
        timing: RoomTiming,
        say: Callable[[Observation], None],
        is_known: Callable[[SubmissionId], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._timing = timing
        self._say = say
        self._is_known = is_known
        self._clock = clock
        self._waiters: dict[SubmissionId, Waiter] = {}
        #: Not judged yet.
        self._fresh: list[SubmissionId] = []
        self._manifests: list[Mapping[str, Any]] = []
        self._requested: Mapping[str, Resources] = {}
        self._nodes: list[Node] = []
        self._verdicts: dict[Need, Verdict] = {}
        self._nodes_at_s = self._pods_at_s = float("-inf")
        self._work = asyncio.Event()

    # --- what the backend sees ----------------------------------------------------------

    def saw(self, pod: Pod) -> None:
        """A pod is new or has changed."""
        submission = submission_of(pod)
        if submission is None:
            return
        if not _waits_for_a_node(pod):
            self.gone(submission)
        elif submission not in self._waiters:
            try:
                self._waiters[submission] = Waiter(need_of(pod), self._clock())
            except ValueError as error:
                log.debug("the requests of %s can't be read: %s", submission, error)
                return
            self._fresh.append(submission)
            self._work.set()

    def gone(self, submission: SubmissionId) -> None:
        """It waits no more."""
        self._waiters.pop(submission, None)

    def explained(self, observation: Observation) -> Observation:
        """A wait for a node, with what is known of its nodes put before the scheduler's words."""
        if not isinstance(observation, Waiting) or observation.reason is not Reason.UNSCHEDULABLE:
            return observation
        waiter = self._waiters.get(observation.submission)
        if waiter is None:
            return observation
        waiter.words = observation.message
        if waiter.verdict is None or waiter.said is None:
            return observation
        return _wait(observation.submission, waiter, waiter.verdict)

    # --- the work -----------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Look while something waits."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.nodes_every_s if self._waiters else None):
                    await self._work.wait()
            self._work.clear()
            if not self._waiters:
                continue
            try:
                await self._read()
            except Answer as answer:
                if answer.code in (401, 403):
                    log.warning("cluster_view is on, and needs the rights of %s: %s", ROLE, answer)
                await asyncio.sleep(self._timing.refused_s)
            except ApiUnavailable:
                await asyncio.sleep(self._timing.nodes_every_s)
            else:
                self._judge()

    async def _read(self) -> None:
        """Bring nodes and, if they matter, pods up to date; judge all anew after that."""
        now_s = self._clock()
        stale = now_s - self._nodes_at_s >= self._timing.nodes_every_s
        if stale:
            self._manifests = [node async for node in self._api.listed("nodes")]
            self._nodes_at_s = now_s
        if now_s - self._pods_at_s >= self._timing.pods_every_s and self._somebody_fits(now_s):
            pods = [pod async for pod in self._api.listed("pods", LIVING)]
            self._requested, self._pods_at_s, stale = requested_by_node(pods), now_s, True
        if stale:
            self._nodes = [
                node_of(node, self._requested.get(node["metadata"]["name"])) for node in self._manifests
            ]
            self._verdicts.clear()
            self._fresh = list(self._waiters)

    def _somebody_fits(self, now_s: float) -> bool:
        return any(
            waiter.verdict is not None
            and waiter.verdict.possible
            and now_s - waiter.since_s >= self._timing.patience_s
            for waiter in self._waiters.values()
        )

    @property
    def _counted(self) -> bool:
        """Whether it is known what the pods on the nodes ask for."""
        return self._clock() - self._pods_at_s < 2 * self._timing.pods_every_s

    def _judge(self) -> None:
        """Tell what is new; pods of one template are judged once."""
        fresh, self._fresh = self._fresh, []
        for submission in fresh:
            waiter = self._waiters.get(submission)
            if waiter is None:
                continue
            if not self._is_known(submission):
                self.gone(submission)
                continue
            if waiter.need not in self._verdicts:
                self._verdicts[waiter.need] = judge(waiter.need, self._nodes, counted=self._counted)
            waiter.verdict = self._verdicts[waiter.need]
            self._tell(submission, waiter, waiter.verdict)

    def _tell(self, submission: SubmissionId, waiter: Waiter, verdict: Verdict) -> None:
        """Say what is of help: that nothing could hold it, at once; what it waits for, after a while."""
        changed = waiter.said is not None and waiter.said[0] is not verdict.possible
        patient = self._clock() - waiter.since_s >= self._timing.patience_s
        news = verdict.possible, verdict.lacking
        if waiter.said != news and (changed or not verdict.possible or (self._counted and patient)):
            waiter.said = news
            self._say(_wait(submission, waiter, verdict))


def _wait(submission: SubmissionId, waiter: Waiter, verdict: Verdict) -> Waiting:
    """Ours first, then the scheduler's words, whichever of the two came first."""
    reason = Reason.UNSCHEDULABLE if verdict.possible else Reason.NO_NODE
    theirs = f". The scheduler: {waiter.words}" if waiter.words else ""
    return Waiting(submission, reason, f"{verdict.text}{theirs}")


def _waits_for_a_node(pod: Pod) -> bool:
    """Gates and a deletion are waits of their own."""
    spec, meta = pod.get("spec") or {}, pod["metadata"]
    phase = (pod.get("status") or {}).get("phase", "Pending")
    gated = bool(spec.get("schedulingGates"))
    return phase == "Pending" and not spec.get("nodeName") and not gated and not meta.get("deletionTimestamp")


class Both:
    """A ``watch.Sink`` that shows the room what it shows the book."""

    def __init__(self, book: Book, room: Room) -> None:
        self._book = book
        self._room = room
        self.listing, self.listed = book.listing, book.listed

    def changed(self, pod: Pod) -> None:
        self._book.changed(pod)
        self._room.saw(pod)

    def removed(self, pod: Pod) -> None:
        self._book.removed(pod)
        if (submission := submission_of(pod)) is not None:
            self._room.gone(submission)
