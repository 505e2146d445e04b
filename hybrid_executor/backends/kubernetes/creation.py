"""Makes pods: a queue, most urgent first, and a bounded number of requests under way.

``Creation`` answers every submission that it was given with an acceptance
(through the book), a wait or a rejection, and loses none. A repeat of a lost
POST bears the same name, so "already exists" is an acceptance if that pod
bears our attempt and submission. Throttling and an API server that is away
close the gate for all: what is queued is let go at once, with the reason,
and comes back from the executor.

A pod's workload follows it at once (``delivery``), before the same worker
makes another pod. What was handed over again for its payload alone is given
that and no second pod.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from hybrid_executor.backends.kubernetes.answer import (
    CONFLICT_RETRY_S,
    Answer,
    creation_answer,
    wait_for_api,
)
from hybrid_executor.backends.kubernetes.book import Book, Pod, our_labels, submission_of
from hybrid_executor.backends.kubernetes.client import PodApi
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.delivery import Delivery
from hybrid_executor.backends.kubernetes.gate import Gate
from hybrid_executor.model.attempt import Submission, SubmissionId
from hybrid_executor.model.errors import ApiUnavailable, InvalidPod
from hybrid_executor.model.observation import Diagnosis, Ended, How, Observation, Rejected, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import LABEL_CLUSTER, LABEL_OWNER
from hybrid_executor.pods.workload import mounts_workload

log = logging.getLogger("hybrid_executor.kubernetes")

MakePod = Callable[[Submission], Pod]


class Creation:
    """The submissions that are on their way to becoming pods."""

    def __init__(
        self,
        api: PodApi,
        book: Book,
        config: KubernetesConfig,
        owner: str,
        *,
        make_pod: MakePod,
        say: Callable[[Observation], None],
        cancel_unknown: Callable[[Collection[SubmissionId]], None],
    ) -> None:
        self._api = api
        self._book = book
        self._config = config
        self._owner = owner
        self._make_pod = make_pod
        self._say = say
        self._cancel_unknown = cancel_unknown
        self._gate = Gate()
        self._delivery = Delivery(api, book, self._gate, config)
        self._count = itertools.count()
        self._queue: asyncio.PriorityQueue[tuple[int, int, Submission]] = asyncio.PriorityQueue()
        #: Given and not answered yet; True once it is withdrawn.
        self._open: dict[SubmissionId, bool] = {}

    def __contains__(self, submission: object) -> bool:
        return submission in self._open

    def submit(self, batch: Sequence[Submission]) -> None:
        """Queue what is new; what is queued or known already is not made again."""
        for submission in batch:
            if submission.id not in self._open and not self._is_complete(submission.id):
                self._open[submission.id] = False
                self._queue.put_nowait((-submission.attempt.priority, next(self._count), submission))

    def _is_complete(self, submission: SubmissionId) -> bool:
        """Whether there is nothing left to send; then it is said again how it stands."""
        return self._book.lacking(submission) is None and self._book.repeat(submission)

    def withdraw(self, submission: SubmissionId) -> bool:
        """Cancel one that is not a pod yet; False if it is not here."""
        if submission not in self._open:
            return False
        self._open[submission] = True
        return True

    async def run(self) -> NoReturn:
        """One of ``creation_concurrency`` workers."""
        while True:
            _, _, submission = await self._queue.get()
            try:
                if self._open[submission.id]:
                    is_there = submission.id in self._book
                    self._answer(submission.id, None if is_there else Ended(submission.id, How.CANCELLED))
                else:
                    wait = self._gate.wait(submission.id)
                    self._answer(submission.id, wait or await self._create(submission))
            finally:
                if submission.id in self._open:
                    message = "interrupted; whether the pod was made is not known"
                    self._answer(submission.id, Waiting(submission.id, Reason.API_UNAVAILABLE, message, 0.0))

    def _answer(self, submission: SubmissionId, answer: Observation | None) -> None:
        """Close the hand-over, and honour a withdrawal that came while it was under way."""
        withdrawn = self._open.pop(submission)
        match answer:
            case Waiting() if withdrawn:
                # Whether the request made a pod is not known: only a look-up can tell.
                self._cancel_unknown([submission])
            case Waiting() if submission in self._book and not self._book.lacking(submission):
                pass  # the reply was lost, and the watch has shown the pod since
            case None:
                # The book has told, or will.
                if withdrawn:
                    self._book.cancel(submission)
            case _:
                self._say(answer)

    async def _create(self, submission: Submission) -> Observation | None:
        """Make the pod, unless it is there, and give it its workload; None where the book tells."""
        is_new = self._book.lacking(submission.id) is None
        refused = await self._make(submission) if is_new else None
        if refused is None and (pod := self._book.lacking(submission.id)):
            refused = await self._delivery.deliver(submission, pod, is_new=is_new)
        return refused

    async def _make(self, submission: Submission) -> Waiting | Rejected | None:
        try:
            pod = prepared(self._make_pod(submission), submission.id, self._owner, self._config)
        except InvalidPod as error:
            return Rejected(submission.id, Diagnosis(reason=error.reason, message=str(error)))
        except Exception as error:
            # The maker runs users' hooks. Whatever it lets through must cost this attempt alone.
            log.exception("making the pod of %s failed", submission.id)
            message = f"the pod could not be made: {type(error).__name__}: {error}"
            return Rejected(submission.id, Diagnosis(reason=Reason.INVALID_POD, message=message))
        namespace = pod["metadata"]["namespace"]
        if mounts_workload(pod) and (wait := self._delivery.wait(namespace, submission.id)):
            return wait
        try:
            made = await self._api.create(namespace, pod)
        except Answer as answer:
            return await self._refused(submission.id, pod, answer)
        except ApiUnavailable as error:
            return self._gate.close(wait_for_api(submission.id, error))
        self._gate.open()
        self._book.created(made)
        return None

    async def _refused(self, submission: SubmissionId, pod: Pod, answer: Answer) -> Waiting | Rejected | None:
        if answer.code == 409 and answer.is_about_existence:
            return await self._already_there(
                submission, pod["metadata"]["namespace"], pod["metadata"]["name"]
            )
        outcome = creation_answer(submission, answer)
        if answer.is_back_pressure and isinstance(outcome, Waiting):
            return self._gate.close(outcome)
        return outcome

    async def _already_there(self, submission: SubmissionId, namespace: str, name: str) -> Waiting | None:
        """Take a pod of that name for ours if its labels say so, whoever owned it before."""
        try:
            pod = await self._api.read(namespace, name)
            if submission_of(pod) != submission:
                message = f"a pod named {namespace}/{name} exists and is not this submission's"
                return Waiting(submission, Reason.CONFLICT, message, retry_after_s=CONFLICT_RETRY_S)
            if pod["metadata"]["labels"].get(LABEL_OWNER) != self._owner:
                pod = await self._api.label(namespace, name, {LABEL_OWNER: self._owner})
        except Answer as answer:
            message = f"a pod named {namespace}/{name} exists, and reading it was refused: {answer}"
            return Waiting(submission, Reason.CONFLICT, message, retry_after_s=CONFLICT_RETRY_S)
        except ApiUnavailable as error:
            return self._gate.close(wait_for_api(submission, error))
        self._book.created(pod)
        return None


def prepared(pod: Pod, submission: SubmissionId, owner: str, config: KubernetesConfig) -> dict[str, Any]:
    """The pod as it is sent: with the labels that find it again, whatever a hook made of them."""
    meta = dict(pod["metadata"])
    labels = {name: value for name, value in (meta.get("labels") or {}).items() if name != LABEL_CLUSTER}
    meta["labels"] = {**labels, **our_labels(submission, owner, config)}
    meta.setdefault("namespace", config.namespace)
    if not config.watches(meta["namespace"]):
        raise InvalidPod(
            f"metadata.namespace {meta['namespace']!r} is not watched: "
            "set [kubernetes_executor] multi_namespace_mode"
        )
    return {**pod, "metadata": meta}
