"""Chooses the session that is asked: one for each cluster, all of them in the loop's one thread.

A cluster that does not answer keeps its own submissions waiting and nobody
else's. What the ledger says is in a cluster that the settings do not name (any
more) can be asked of nobody: it waits with that reason, because a pod of it may
live, until the cluster is named again or its task is withdrawn. Used by ``backend``.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from hybrid_executor.backends.kubernetes.session import Session
from hybrid_executor.model.attempt import Submission, SubmissionId
from hybrid_executor.model.observation import Ended, How, Observation, Waiting
from hybrid_executor.model.reason import Reason

log = logging.getLogger("hybrid_executor.kubernetes")

#: Before a submission to a cluster that is not named is offered again.
UNKNOWN_RETRY_S = 30.0


class Clusters:
    """The sessions of a started backend, by the names of their clusters."""

    def __init__(self, sessions: Mapping[str, Session], say: Callable[[Observation], None]) -> None:
        """``say`` is for what no session can."""
        self.sessions = sessions
        self._say = say

    async def run(self) -> None:
        """Serve all until cancelled."""
        async with asyncio.TaskGroup() as group:
            for session in self.sessions.values():
                group.create_task(session.run())

    def submit(self, batch: Sequence[Submission]) -> None:
        parts: dict[str, list[Submission]] = {}
        for submission in batch:
            parts.setdefault(submission.attempt.route.cluster, []).append(submission)
        for cluster, part in parts.items():
            if session := self.sessions.get(cluster):
                session.creation.submit(part)
            else:
                self._let_wait(cluster, [submission.id for submission in part], UNKNOWN_RETRY_S)

    def cancel(self, ids: Sequence[SubmissionId], cluster: str) -> None:
        if session := self.sessions.get(cluster):
            session.cancel(ids)
            return
        for submission in ids:
            log.warning("%s is withdrawn, and %s", submission, _unknown(cluster))
            self._say(Ended(submission, How.CANCELLED))

    def adopt(self, ids: Sequence[SubmissionId], cluster: str) -> None:
        if session := self.sessions.get(cluster):
            session.adopt(ids)
        else:
            self._let_wait(cluster, ids, None)

    def inherit(self, workloads: Mapping[str, SubmissionId | None]) -> None:
        """Stock executors know one cluster: that of ``[kubernetes_executor]``."""
        self.sessions[""].upkeep.inherit(workloads)

    def sweep(self, live_owners: frozenset[str]) -> None:
        for session in self.sessions.values():
            session.upkeep.sweep(live_owners)

    def release(self, ids: Collection[SubmissionId]) -> None:
        for session in self.sessions.values():
            session.book.release(ids)

    def _let_wait(self, cluster: str, ids: Collection[SubmissionId], retry_after_s: float | None) -> None:
        for submission in ids:
            self._say(Waiting(submission, Reason.UNKNOWN_CLUSTER, _unknown(cluster), retry_after_s))


def _unknown(cluster: str) -> str:
    return f"its cluster {cluster!r} is not in [hybrid_executor] clusters_file: a pod of it may live there"
