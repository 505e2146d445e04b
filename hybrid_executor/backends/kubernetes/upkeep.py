"""Deletes, marks, looks up and takes over pods; goes on by itself until it is answered.

``Upkeep`` carries out what the book orders and what the executor asks of pods
that the book does not know. Look-ups are gathered: however many attempts are
asked for at once, one list answers. What the API server does not answer is
tried again with backoff, for ever; nothing is said until it is known.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from enum import Flag, auto
from typing import Any, NoReturn

from hybrid_executor.backends.kubernetes.answer import Answer
from hybrid_executor.backends.kubernetes.book import (
    Book,
    Known,
    Order,
    Pod,
    of_deployment,
    our_labels,
    submission_of,
)
from hybrid_executor.backends.kubernetes.client import PodApi
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.model.observation import Diagnosis, Ended, How, Observation
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import (
    LABEL_ATTEMPT,
    LABEL_DONE,
    LABEL_EXECUTOR,
    LABEL_OWNER,
)
from hybrid_executor.pods.diagnosis import observe
from hybrid_executor.pods.stock import workload_id

log = logging.getLogger("hybrid_executor.kubernetes")

#: Up to so many attempts are named in a selector; beyond, all of the executor's pods are
#: listed. A UUID takes 37 characters, and proxies cut URLs at 8 KiB.
NAMED_MAX = 100
BACKOFF_MAX_S = 30.0
#: What is asked for within so long shares one list.
GATHER_S = 0.02
#: Every pod of a hybrid executor, whoever owns it.
OURS = f"{LABEL_EXECUTOR}=True,{LABEL_ATTEMPT}"
#: Every pod of a stock executor that it has not done with.
STOCK = f"{LABEL_EXECUTOR}=True,!{LABEL_ATTEMPT},{LABEL_DONE}!=True"


class Purpose(Flag):
    """Why a pod is looked up."""

    #: To watch it from now on.
    ADOPT = auto()
    #: To withdraw it.
    CANCEL = auto()
    #: It left the watch: is it gone?
    VERIFY = auto()


class Upkeep:
    """Everything that is done to pods besides making and watching them."""

    def __init__(
        self,
        api: PodApi,
        book: Book,
        config: KubernetesConfig,
        owner: str,
        say: Callable[[Observation], None],
        *,
        is_being_made: Callable[[SubmissionId], bool],
    ) -> None:
        self._api = api
        self._book = book
        self._config = config
        self._owner = owner
        self._say = say
        self._is_being_made = is_being_made
        self._slots = asyncio.Semaphore(config.upkeep_concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[SubmissionId, Purpose] = {}
        self._inheriting: dict[str, SubmissionId | None] = {}
        self._sweep_for: frozenset[str] | None = None
        self._work = asyncio.Event()

    # --- what is asked; returns at once -----------------------------------------------

    def carry_out(self, order: Order, known: Known) -> None:
        match order:
            case Order.DELETE if known.taken_back:
                self._insist(lambda: self._take_back(known), f"taking pod {known.name} back")
            case Order.DELETE:
                self._insist(lambda: self._delete(known), f"deleting pod {known.name}")
            case Order.DISPOSE:
                self._insist(lambda: self._dispose(known), f"disposing of pod {known.name}")
            case Order.LOOK_UP:
                self._ask([known.id], Purpose.VERIFY)

    def adopt(self, ids: Collection[SubmissionId]) -> None:
        self._ask(ids, Purpose.ADOPT)

    def cancel(self, ids: Collection[SubmissionId]) -> None:
        self._ask(ids, Purpose.CANCEL)

    def inherit(self, workloads: Mapping[str, SubmissionId | None]) -> None:
        """Take over the stock pods of these workloads under these names; without a name they are deleted."""
        self._inheriting |= workloads
        if workloads:
            self._work.set()

    def sweep(self, live_owners: frozenset[str]) -> None:
        self._sweep_for = live_owners
        self._work.set()

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def run(self) -> NoReturn:
        """Look up what was asked for, a batch at a time."""
        failures = 0
        while True:
            await self._work.wait()
            await asyncio.sleep(GATHER_S)
            self._work.clear()
            try:
                await self._look_up()
                await self._inherit()
                await self._sweep()
                failures = 0
            except (Answer, ApiUnavailable) as error:
                self._work.set()
                failures += 1
                await _pause(failures, error, "looking pods up")

    # --- deleting and disposing ---------------------------------------------------------

    def _insist(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        task = asyncio.create_task(self._until_answered(work, what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_answered(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        failures = 0
        while True:
            try:
                async with self._slots:
                    await work()
                return
            except (Answer, ApiUnavailable) as error:
                failures += 1
                await _pause(failures, error, what)

    async def _delete(self, known: Known) -> None:
        """Delete this very pod, and none that has its name since."""
        known.deleting = True
        try:
            await self._request_deletion(known.namespace, known.name, known.uid)
        except Answer as answer:
            if not answer.is_absence:
                known.deleting = False
                raise
            if not known.taken_back:
                # Else the watch will show it: until then the name may not be free.
                self._book.gone(known.id)
        except ApiUnavailable:
            known.deleting = False
            raise

    async def _request_deletion(self, namespace: str, name: str, uid: str) -> None:
        options = {**delete_options(self._config.delete_options), "preconditions": {"uid": uid}}
        await self._api.delete(namespace, name, options)

    async def _take_back(self, known: Known) -> None:
        # Unless it has started after all: then its Secret was made although the answer said no.
        if known.taken_back or known.cancelled:
            await self._delete(known)

    async def _dispose(self, known: Known) -> None:
        failed = known.end is not None and known.end.how is How.FAILED
        keep = failed and not self._config.delete_worker_pods_on_failure
        if self._config.delete_worker_pods and not keep:
            await self._delete(known)
            return
        try:
            done = {LABEL_DONE: "True"}
            await self._api.retire(known.namespace, known.name, done, stop=known.is_outlived)
        except Answer as answer:
            if answer.code != 404:
                raise
            self._book.forget(known.id)

    # --- looking up ---------------------------------------------------------------------

    def _ask(self, ids: Collection[SubmissionId], purpose: Purpose) -> None:
        for submission in ids:
            self._asked[submission] = self._asked.get(submission, Purpose(0)) | purpose
        if ids:
            self._work.set()

    async def _look_up(self) -> None:
        asked, self._asked = self._asked, {}
        if not asked:
            return
        try:
            found = await self._find(asked)
        except (Answer, ApiUnavailable):
            for submission, purpose in asked.items():
                self._ask([submission], purpose)
            raise
        for submission, purpose in asked.items():
            if submission in found:
                self._insist(self._settling(found[submission], submission, purpose), f"settling {submission}")
            else:
                self._absent(submission, purpose)

    async def _find(self, ids: Collection[SubmissionId]) -> dict[SubmissionId, Pod]:
        """The pods of these submissions, whoever owns them; one list for each namespace watched."""
        selector = OURS
        if len(ids) <= NAMED_MAX:
            selector += f" in ({','.join(sorted({s.attempt_id for s in ids}))})"
        found: dict[SubmissionId, Pod] = {}
        async for pod in self._list(selector):
            submission = submission_of(pod)
            if submission is not None and submission in ids:
                found[submission] = pod
        return found

    async def _list(self, selector: str) -> Any:
        for namespace in self._config.watched:
            async for page in self._api.pages(namespace, selector):
                for pod in page["items"]:
                    yield pod

    def _absent(self, submission: SubmissionId, purpose: Purpose) -> None:
        if submission in self._book and Purpose.VERIFY in purpose:
            self._book.gone(submission)
        elif self._book.cancel(submission) if Purpose.CANCEL in purpose else self._book.repeat(submission):
            pass  # it was made while the list was under way
        elif Purpose.CANCEL in purpose:
            self._say(Ended(submission, How.CANCELLED))
        elif Purpose.ADOPT in purpose and not self._is_being_made(submission):
            message = "no pod bears this submission"
            self._say(Ended(submission, How.ABSENT, Diagnosis(reason=Reason.LOST, message=message)))

    def _settling(
        self, pod: Pod, submission: SubmissionId, purpose: Purpose
    ) -> Callable[[], Awaitable[None]]:
        return lambda: self._settle(pod, submission, purpose)

    async def _settle(self, pod: Pod, submission: SubmissionId, purpose: Purpose) -> None:
        """A pod was found: take it over, or leave it to whoever has it."""
        labels = pod["metadata"]["labels"]
        if LABEL_DONE in labels:
            # Kept for people to look at, outside every watch: its end is all there is to say.
            self._book.changed(pod)
            self._book.forget(submission)
            return
        if labels.get(LABEL_OWNER) != self._owner:
            if purpose is Purpose.VERIFY:
                self._book.forget(submission)
                return
            taken = await self._take_over(pod, {LABEL_OWNER: self._owner})
            if taken is None:
                self._absent(submission, purpose)
                return
            pod = taken
        if submission in self._book and Purpose.ADOPT in purpose:
            self._book.repeat(submission)
        self._book.changed(pod)
        if Purpose.CANCEL in purpose:
            self._book.cancel(submission)

    async def _take_over(self, pod: Pod, labels: Mapping[str, str]) -> Pod | None:
        """Make it ours by these labels, so that it comes through our watch; None if it is gone."""
        meta = pod["metadata"]
        try:
            return await self._api.label(meta["namespace"], meta["name"], labels)
        except Answer as answer:
            if answer.code == 404:
                return None
            raise

    # --- inheriting ---------------------------------------------------------------------

    async def _inherit(self) -> None:
        asked, self._inheriting = self._inheriting, {}
        if not asked:
            return
        found: list[tuple[Pod, SubmissionId | None]] = []
        try:
            async for pod in self._list(STOCK):
                workload = workload_id(pod)
                if workload is not None and workload in asked:
                    found.append((pod, asked[workload]))
        except (Answer, ApiUnavailable):
            self._inheriting = asked | self._inheriting
            raise
        for pod, submission in found:
            what = f"taking over pod {pod['metadata']['name']} of another executor"
            self._insist(self._inheriting_one(pod, submission), what)

    def _inheriting_one(self, pod: Pod, submission: SubmissionId | None) -> Callable[[], Awaitable[None]]:
        if submission:
            return self._taking(pod, our_labels(submission, self._owner, self._config))
        return lambda: self._withdraw(pod)

    async def _withdraw(self, pod: Pod) -> None:
        """Delete a pod that nobody here has ever known."""
        meta = pod["metadata"]
        try:
            await self._request_deletion(meta["namespace"], meta["name"], meta["uid"])
        except Answer as answer:
            if not answer.is_absence:
                raise

    # --- sweeping -----------------------------------------------------------------------

    async def _sweep(self) -> None:
        live, self._sweep_for = self._sweep_for, None
        if live is None:
            return
        living = ",".join(sorted({*live, self._owner}))
        selector = f"{OURS},{of_deployment(self._config)},{LABEL_OWNER} notin ({living}),{LABEL_DONE}!=True"
        try:
            left = [pod async for pod in self._list(selector) if submission_of(pod) and observe(pod).ended]
        except (Answer, ApiUnavailable):
            self._sweep_for = self._sweep_for or live
            raise
        for pod in left:
            taking = self._taking(pod, {LABEL_OWNER: self._owner})
            self._insist(taking, f"sweeping pod {pod['metadata']['name']}")

    def _taking(self, pod: Pod, labels: Mapping[str, str]) -> Callable[[], Awaitable[None]]:
        async def take() -> None:
            taken = await self._take_over(pod, labels)
            if taken is not None:
                self._book.changed(taken)

        return take


async def _pause(failures: int, error: Answer | ApiUnavailable, what: str) -> None:
    """Wait before the next try; a refusal that patience may not mend is said once."""
    if failures == 1 and isinstance(error, Answer) and not error.is_back_pressure:
        log.warning("%s was refused and is tried again: %s", what, error)
    ceiling_s = min(BACKOFF_MAX_S, 0.25 * 2.0 ** min(failures, 16))
    await asyncio.sleep(max(error.retry_after_s or 0.0, ceiling_s * random.uniform(0.5, 1.0)))  # noqa: S311


def delete_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """``delete_option_kwargs`` are the Python client's names; the API wants camel case."""
    return {_camel(name): value for name, value in given.items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
