"""The thread ``hybrid-celery-results``: follows the results of what is in flight, and looks things up.

It reads nothing while nothing is in flight. Where results are pushed they are
heard at once, and read seldom, for what a push has missed; elsewhere they are
read often. A result store that is away ends no attempt and loses no answer: it
is asked again until it is back.

Whatever is in flight, each turn takes a bounded part of it: one look-up, so
many pushes, so many reads. A push waits for one turn; a result whose push was
lost in silence, for the rest of ``repair_interval_s`` and one round of reads,
which is a turn for each ``results_chunk``. Everything in here but ``tell`` and
the life cycle belongs to that thread.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from celery import states

from hybrid_executor.backends.celery.bell import Bell
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.lookup import WITHDRAWN, Lookup, Why
from hybrid_executor.backends.celery.outage import Outage
from hybrid_executor.backends.celery.push import Push
from hybrid_executor.backends.celery.queues import QueueReader
from hybrid_executor.backends.celery.results import Result, ResultReader, ResultsUnavailable, observation
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Ended, How, Observation, Started, Waiting
from hybrid_executor.naming import celery_task_id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Follow:
    """It is published: tell what becomes of it."""

    submission: SubmissionId
    queue: str


@dataclass(frozen=True, slots=True)
class LookUp:
    """Find out where it is, and follow it."""

    submission: SubmissionId
    why: Why
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Forget:
    """It is over, as somebody else has found out."""

    submission: SubmissionId


Order = Follow | LookUp | Forget


class Observer:
    """Constructing starts nothing; ``start`` starts the thread."""

    def __init__(self, app: Any, config: CeleryConfig, say: Callable[[Observation], None]) -> None:
        self._config = config
        self._tell_backend = say
        self._results = ResultReader(app, config)
        self._push = Push(self._results, config)
        self._queues = QueueReader(app, config)
        acks_late = bool(app.conf.task_acks_late)
        self._queue_of: dict[SubmissionId, str] = {}
        self._lookup = Lookup(
            self._results, self._queues, config, self._say, acks_late=acks_late, queue_of=self._queue_of
        )
        self._outage = Outage("the Celery result store", config.outage_pause_max_s)
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._bell = Bell()
        self._followed: dict[str, SubmissionId] = {}
        self._started: set[SubmissionId] = set()
        #: Tasks to be read, in the order of their turn: of those whose subscription was confirmed, and
        #: of all that were followed when the round began.
        self._joined: dict[str, None] = {}
        self._round: dict[str, None] = {}
        self._read_at_s = 0.0
        self._away_until_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hybrid-celery-results", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, *orders: Order) -> None:
        """Called by the other threads; never blocks. Orders that come together are obeyed together."""
        for order in orders:
            self._orders.put(order)
        if orders:
            self._bell.ring()

    def waiting_queues(self) -> frozenset[str]:
        """Queues in which something waits that has not started; may be asked by any thread."""
        # Copies of a dictionary and of a set are made in one step of the interpreter.
        queue_of, started = dict(self._queue_of), set(self._started)
        return frozenset(name for submission, name in queue_of.items() if submission not in started)

    def stop(self, deadline_s: float) -> None:
        """End the thread; one that is stuck in a read is left to die with the process."""
        self._stopping.set()
        self._bell.ring()
        self._thread.join(max(deadline_s, 0.0))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._bell.wait(self._pause_s(time.monotonic()), self._push.file())
            if not self._stopping.is_set():
                self._work_safely()
        for opened in (self._push, self._results, self._queues, self._bell):
            opened.close()

    def _work_safely(self) -> None:
        try:
            self._take_orders()
            self._work(time.monotonic())
        except Exception:
            # A result backend may raise anything. Without this thread no task would ever end.
            log.exception("reading Celery's results failed; trying again")
            self._push.close()
            self._away_until_s = time.monotonic() + self._config.outage_pause_max_s

    def _work(self, now_s: float) -> None:
        if now_s < self._away_until_s:
            return
        try:
            self._look(now_s)
            self._follow(now_s)
        except ResultsUnavailable as error:
            self._push.close()
            self._away_until_s = now_s + self._outage.failed(str(error))
        else:
            if self._followed:
                self._outage.over()

    def _look(self, now_s: float) -> None:
        try:
            self._lookup.step(now_s)
        except ResultsUnavailable:
            raise
        except Exception:
            # What one look-up stumbles over keeps nobody from hearing of the others.
            log.exception("looking for Celery tasks failed; trying again")

    def _follow(self, now_s: float) -> None:
        heard = self._push.hear(now_s)
        self._judge(self._results.heard(heard.raws))
        self._joined.update(dict.fromkeys(task_id for task_id in heard.joined if task_id in self._followed))
        if not self._round and now_s >= self._read_due_s():
            self._read_at_s = now_s
            self._push.probe(now_s)
            self._round = dict.fromkeys((*self._joined, *self._followed))
            self._joined.clear()
        self._read_some(self._joined)
        self._read_some(self._round)

    def _read_some(self, waiting: dict[str, None]) -> None:
        """Read the first of these, as many as one command asks for; those that can't be read stay."""
        some = list(islice(waiting, self._config.results_chunk))
        self._judge(self._results.changes(some))
        for task_id in some:
            waiting.pop(task_id, None)

    def _read_due_s(self) -> float:
        """When all that is followed is to be read."""
        config = self._config
        return self._read_at_s + (config.repair_interval_s if self._push.is_open else config.poll_interval_s)

    def _judge(self, results: Iterable[tuple[str, Result]]) -> None:
        for task_id, result in results:
            if not (submission := self._followed.get(task_id)):
                continue
            if seen := observation(submission, result):
                self._say(seen)
            elif result.status == states.REVOKED and not self._lookup.is_cancelled(submission):
                # Somebody else's revocation. Whether anything still runs is to be found out.
                self._look_up(submission, Why.CANCEL)

    def _pause_s(self, now_s: float) -> float | None:
        """How long to wait for orders and pushes; None means until one comes."""
        if self._joined or self._round:
            return max(self._away_until_s - now_s, 0.0)
        due = [due_s for due_s in (self._lookup.next_due_s(), self._push.due_s()) if due_s is not None]
        if self._followed:
            due.append(self._read_due_s())
        return max(min(due), self._away_until_s) - now_s if due else None

    def _take_orders(self) -> None:
        while True:
            try:
                self._obey(self._orders.get_nowait())
            except queue.Empty:
                return

    def _obey(self, order: Order) -> None:
        match order:
            case Follow(submission=submission, queue=name):
                self._watch(submission)
                self._queue_of[submission] = name
            case LookUp(submission=submission, why=why, queue=name):
                if why is Why.ADOPT and self._lookup.is_cancelled(submission):
                    return
                if name:
                    self._queue_of[submission] = name
                self._watch(submission)
                self._look_up(submission, why)
            case Forget(submission=submission):
                self._lookup.drop(submission)
                self._leave(submission)

    def _watch(self, submission: SubmissionId) -> None:
        self._followed[celery_task_id(submission)] = submission
        self._push.follow(celery_task_id(submission))

    def _look_up(self, submission: SubmissionId, why: Why) -> None:
        started = submission in self._started
        self._lookup.add(submission, why, self._queue_of.get(submission), time.monotonic(), started=started)

    def _say(self, seen: Observation) -> None:
        """Pass on what was seen; stop following what is over or has to be sent again."""
        submission = seen.submission
        if isinstance(seen, Started):
            self._started.add(submission)
        if isinstance(seen, Ended):
            if self._lookup.is_cancelled(submission) and seen.how is not How.ABSENT:
                # Airflow stops the process at its next heartbeat, and Celery stores
                # success or failure as it happens: what ended it is the withdrawal.
                seen = Ended(submission, How.CANCELLED, seen.diagnosis or WITHDRAWN)
            self._lookup.drop(submission)
        if isinstance(seen, Ended) or (isinstance(seen, Waiting) and seen.retry_after_s is not None):
            self._leave(submission)
        self._tell_backend(seen)

    def _leave(self, submission: SubmissionId) -> None:
        self._followed.pop(celery_task_id(submission), None)
        self._queue_of.pop(submission, None)
        self._started.discard(submission)
        for waiting in (self._joined, self._round):
            waiting.pop(celery_task_id(submission), None)
        self._push.leave(celery_task_id(submission))
        self._results.forget(celery_task_id(submission))
