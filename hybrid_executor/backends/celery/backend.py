"""``ports.Backend`` on Celery: the surface that the executor calls, from one thread.

Two threads do the work: ``sender`` publishes and withdraws, ``observer`` hears
of results and looks things up. What they see is queued here until ``poll``. A
third, of ``workers``, notices workers that take nothing.
Nothing is forked, no signal is used, and the messages are those of the stock
executor, so that stock workers and Flower serve them unchanged.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from hybrid_executor.backends.celery.app import provider_app
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.lookup import Why
from hybrid_executor.backends.celery.observer import Forget, LookUp, Observer
from hybrid_executor.backends.celery.sender import Sender
from hybrid_executor.backends.celery.workers import WorkerWatch
from hybrid_executor.meter import IDLE_WORKERS, Meter
from hybrid_executor.model.attempt import BackendName, Submission, SubmissionId
from hybrid_executor.model.observation import Observation, Started, Waiting


class CeleryBackend:
    """Constructing it opens nothing and imports nothing of Airflow; ``start`` does."""

    name = BackendName.CELERY

    def __init__(
        self,
        config: CeleryConfig,
        make_app: Callable[[], Any] = provider_app,
        meter: Meter | None = None,
    ) -> None:
        self._config = config
        self._make_app = make_app
        self._meter = meter or Meter()
        self._watch: WorkerWatch | None = None
        self._sender: Sender | None = None
        self._observer: Observer | None = None
        self._seen: deque[Observation] = deque()
        #: The last word about each submission until it is released, None before the first.
        self._last: dict[SubmissionId, Observation | None] = {}

    @property
    def troubles(self) -> Mapping[str, str | None]:
        """See ``ports.Backend``; of the broker, for a result store that is away holds nothing back."""
        return {"": self._sender.trouble if self._sender else None}

    def start(self) -> None:
        """See ``ports.Backend``. Raises ``ConfigError`` where Airflow's Celery options make no app."""
        app = self._make_app()
        self._observer = Observer(app, self._config, self._seen.append)
        self._sender = Sender(app, self._config, self._observer, self._seen.append)
        self._watch = WorkerWatch(app, self._config, self._observer.waiting_queues, self._meter)
        self._meter.read(IDLE_WORKERS, self._watch.idle_count)
        self._observer.start()
        self._sender.start()
        self._watch.start()

    def stop(self, deadline_s: float) -> None:
        """See ``ports.Backend``. What was handed over is still published if the broker is there."""
        deadline = time.monotonic() + deadline_s
        sender, observer, self._sender, self._observer = self._sender, self._observer, None, None
        if sender and observer and self._watch:
            # A little is kept for the others.
            sender.stop(0.8 * deadline_s)
            self._watch.stop((deadline - time.monotonic()) / 2)
            observer.stop(deadline - time.monotonic())

    def submit(self, batch: Sequence[Submission]) -> None:
        """See ``ports.Backend``. What is with the broker already is answered, not published again."""
        fresh = [submission for submission in batch if self._take(submission.id)]
        if fresh and self._sender:
            self._sender.submit(fresh)

    def _take(self, submission: SubmissionId) -> bool:
        """Whether it is to be published now."""
        if submission in self._last:
            match self._last[submission]:
                case None:
                    return False  # its answer is on the way
                case Waiting(retry_after_s=float() | int()):
                    pass
                case known:
                    self._seen.append(known)
                    return False
        self._last[submission] = None
        return True

    def poll(self) -> list[Observation]:
        """See ``ports.Backend``."""
        seen = []
        while self._seen:
            observed = self._seen.popleft()
            self._last[observed.submission] = observed
            seen.append(observed)
        return seen

    def cancel(self, ids: Collection[SubmissionId], cluster: str = "") -> None:  # noqa: ARG002
        """See ``ports.Backend``.

        A message that lies in its queue is taken out (Redis) or discarded by
        the worker that gets it. A running task is not killed here, as in the
        stock executor: Airflow's Execution API stops it at its next heartbeat.
        """
        if ids and self._sender:
            self._sender.cancel(sorted(ids))

    def adopt(self, ids: Collection[SubmissionId], cluster: str = "") -> None:  # noqa: ARG002
        """See ``ports.Backend``.

        On brokers that can't be looked into (anything but Redis) something
        without a result is answered ``Accepted``, for want of better knowledge.
        """
        if self._observer:
            self._observer.tell(*(LookUp(i, Why.ADOPT) for i in ids if not self._is_being_sent(i)))

    def inherit(self, wanted: Mapping[SubmissionId, str], unwanted: Collection[str] = ()) -> None:  # noqa: ARG002
        """See ``ports.Backend``.

        The stock Celery executor names its messages by the attempt's UUID, as
        the first submission here is named. An unwanted message stays: when its
        turn comes, the Execution API turns it away.
        """
        self.adopt(wanted.keys())

    def _is_being_sent(self, submission: SubmissionId) -> bool:
        """Its answer is on the way; a look-up could overtake the message and call it absent."""
        return submission in self._last and self._last[submission] is None

    def sweep(self, live_owners: Collection[str]) -> None:
        """See ``ports.Backend``: nothing bears a scheduler's name here.

        Results of dead schedulers' tasks expire by themselves, and a queued
        message is run by a worker whoever sent it.
        """

    def release(self, ids: Collection[SubmissionId]) -> None:
        """See ``ports.Backend``: results expire by themselves (``result_expires``)."""
        for submission in ids:
            last = self._last.pop(submission, None)
            if self._observer and isinstance(last, Started):
                # It ended without a result, with its worker: nothing more will be heard of it.
                self._observer.tell(Forget(submission))

    def log(self, attempt_id: str, cluster: str = "") -> list[str] | None:  # noqa: ARG002
        """See ``ports.Backend``: workers serve their own logs, which Airflow reads itself."""
        return None
