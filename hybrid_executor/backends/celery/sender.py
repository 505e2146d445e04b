"""The thread ``hybrid-celery-publish``: hands submissions to the broker and withdraws them, in order.

A withdrawal never overtakes the publishing of what it withdraws, and is tried
until the broker has it. Everything in here but ``submit``, ``cancel`` and the
life cycle belongs to that thread.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.lookup import Why
from hybrid_executor.backends.celery.observer import Follow, LookUp, Observer
from hybrid_executor.backends.celery.outage import Outage
from hybrid_executor.backends.celery.publish import PublishAnswer, Published, Publisher, Unpublished
from hybrid_executor.backends.celery.redaction import error_text
from hybrid_executor.model.attempt import Submission, SubmissionId
from hybrid_executor.model.errors import BrokerUnavailable
from hybrid_executor.model.observation import Accepted, Observation, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import celery_task_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Send:
    batch: tuple[Submission, ...]


@dataclass(frozen=True, slots=True)
class Withdraw:
    ids: tuple[SubmissionId, ...]


@dataclass(frozen=True, slots=True)
class Wake:
    """Nothing but a reason to look whether to stop."""


class Sender:
    """Constructing starts nothing; ``start`` starts the thread."""

    def __init__(
        self, app: Any, config: CeleryConfig, observer: Observer, say: Callable[[Observation], None]
    ) -> None:
        self._config = config
        self._observer = observer
        self._say = say
        self._publisher = Publisher(app, config)
        self._jobs: queue.SimpleQueue[Send | Withdraw | Wake] = queue.SimpleQueue()
        self._outage = Outage("the Celery broker", config.outage_pause_max_s, level=logging.DEBUG)
        self._withdrawals: dict[SubmissionId, None] = {}
        self._withdraw_at_s = 0.0
        self._give_up_at_s = float("inf")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hybrid-celery-publish", daemon=True)

    @property
    def trouble(self) -> str | None:
        """Why the broker takes nothing; may be asked by any thread."""
        return self._outage.trouble

    def start(self) -> None:
        self._thread.start()

    def submit(self, batch: Sequence[Submission]) -> None:
        """Never blocks."""
        self._jobs.put(Send(tuple(batch)))

    def cancel(self, ids: Sequence[SubmissionId]) -> None:
        """Never blocks."""
        self._jobs.put(Withdraw(tuple(ids)))

    def stop(self, deadline_s: float) -> None:
        """Publish what was handed over, if the broker is there and the deadline admits it; end the thread."""
        self._give_up_at_s = time.monotonic() + deadline_s
        self._stopping.set()
        self._jobs.put(Wake())
        self._thread.join(max(deadline_s, 0.0))

    def _run(self) -> None:
        while not self._stopping.is_set() or not self._jobs.empty():
            if time.monotonic() >= self._give_up_at_s:
                break
            self._do_next()
        self._publisher.close()

    def _do_next(self) -> None:
        pause_s = max(self._withdraw_at_s - time.monotonic(), 0.0) if self._withdrawals else None
        try:
            job = self._jobs.get(timeout=pause_s)
        except queue.Empty:
            job = Wake()
        match job:
            case Send(batch=batch):
                self._publish(batch)
            case Withdraw(ids=ids):
                self._withdrawals.update(dict.fromkeys(ids))
                self._withdraw_at_s = 0.0
            case Wake():
                pass
        if self._withdrawals and time.monotonic() >= self._withdraw_at_s:
            self._withdraw()

    def _publish(self, batch: tuple[Submission, ...]) -> None:
        queue_of = {submission.id: submission.attempt.queue for submission in batch}
        answered = set()
        try:
            for answer in self._publisher.publish(batch):
                answered.add(answer.submission)
                self._pass_on(answer, queue_of[answer.submission])
        except Exception as error:
            # A broker's client may raise anything. Without this thread nothing would ever be sent.
            log.exception("publishing to the Celery broker failed")
            for submission in batch:
                if submission.id not in answered:
                    lost = Unpublished(submission.id, error_text(error), in_doubt=True)
                    self._pass_on(lost, submission.attempt.queue)

    def _pass_on(self, answer: PublishAnswer, queue_name: str) -> None:
        match answer:
            case Published(submission=submission):
                self._outage.over()
                self._say(Accepted(submission, celery_task_id(submission)))
                self._observer.tell(Follow(submission, queue_name))
            case Unpublished(submission=submission, message=message, in_doubt=in_doubt):
                self._outage.failed(message)
                look = in_doubt and self._publisher.can_look
                pause_s = None if look else self._config.publish_retry_s
                self._say(Waiting(submission, Reason.BROKER_UNAVAILABLE, message, retry_after_s=pause_s))
                if look:
                    self._observer.tell(LookUp(submission, Why.DOUBT, queue_name))
            case rejected:
                self._say(rejected)

    def _withdraw(self) -> None:
        ids = list(self._withdrawals)
        try:
            self._publisher.revoke([celery_task_id(submission) for submission in ids])
        except BrokerUnavailable as error:
            self._withdraw_at_s = time.monotonic() + self._outage.failed(str(error))
            return
        self._outage.over()
        self._withdrawals.clear()
        for submission in ids:
            self._observer.tell(LookUp(submission, Why.CANCEL))
