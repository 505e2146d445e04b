"""Finds out where submissions are of which nobody knows: result store, queues, what workers hold.

Why somebody asks decides what the answer is: one adopted is waiting, running,
over or absent; one whose publishing is in doubt is accepted or to be sent
again; one that is withdrawn is taken out of its queue. Something is called
absent only after several looks: a message is nowhere to be seen for a moment
while a worker takes it.

Used by the thread that reads results, which may block here. What can't be
asked because it is away is asked again later, and nothing is answered until then.
"""

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from enum import Enum, auto

from celery import states

from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.outage import Outage
from hybrid_executor.backends.celery.queues import Behind, Held, Place, Queued, QueueReader, Unseen
from hybrid_executor.backends.celery.results import Result, ResultReader, ResultsUnavailable, observation
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.errors import BrokerUnavailable
from hybrid_executor.model.observation import Accepted, Diagnosis, Ended, How, Observation, Started, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import celery_task_id

WITHDRAWN = Diagnosis(reason=Reason.REVOKED, message="withdrawn before a worker ran it")


class Why(Enum):
    """Why a submission is looked up."""

    ADOPT = auto()
    #: The connection broke while it was published.
    DOUBT = auto()
    #: Revoked, by us or by somebody else: tell when it is gone.
    CANCEL = auto()


@dataclass(slots=True)
class _Search:
    submission: SubmissionId
    why: Why
    queue: str | None
    due_s: float
    looks: int = 0
    first_missed_s: float | None = None
    #: Whether its process was ever seen to run.
    started: bool = False


class Lookup:
    """The searches that are under way."""

    def __init__(
        self,
        results: ResultReader,
        queues: QueueReader,
        config: CeleryConfig,
        say: Callable[[Observation], None],
        *,
        acks_late: bool,
        queue_of: MutableMapping[SubmissionId, str],
    ) -> None:
        """``queue_of`` is told where something was found to wait."""
        self._results = results
        self._queues = queues
        self._config = config
        self._say = say
        #: Whether a worker holds the message as long as the task runs.
        self._acks_late = acks_late
        self._queue_of = queue_of
        self._searches: dict[str, _Search] = {}
        self._broker = Outage("the Celery broker (look-up of messages)", config.outage_pause_max_s)

    def add(
        self, submission: SubmissionId, why: Why, queue: str | None, now_s: float, *, started: bool = False
    ) -> None:
        """Look this one up at the next ``step``; replaces an earlier search for it."""
        search = _Search(submission, why, queue, due_s=now_s, started=started)
        self._searches[celery_task_id(submission)] = search

    def drop(self, submission: SubmissionId) -> None:
        """It has ended or started by another word."""
        self._searches.pop(celery_task_id(submission), None)

    def is_cancelled(self, submission: SubmissionId) -> bool:
        search = self._searches.get(celery_task_id(submission))
        return search is not None and search.why is Why.CANCEL

    def next_due_s(self) -> float | None:
        """When ``step`` has something to do; None if nothing is looked up."""
        return min((search.due_s for search in self._searches.values()), default=None)

    def step(self, now_s: float) -> None:
        """One look at everything that is due. Raises ``ResultsUnavailable``, the queues being read before."""
        due = {task_id: search for task_id, search in self._searches.items() if search.due_s <= now_s}
        if not due:
            return
        for search in due.values():
            search.due_s = now_s + self._config.look_again_s
        results, store_away = self._read_results(list(due))
        rest = self._answer_results(due, results)
        places = self._find(rest, results, now_s)
        if places is not None:
            self._answer_places(rest, places, now_s)
        if store_away:
            raise store_away
        if places is not None:
            self._count_missing({t: s for t, s in rest.items() if t not in places}, now_s)

    def _read_results(self, task_ids: list[str]) -> tuple[dict[str, Result], ResultsUnavailable | None]:
        try:
            return self._results.read(task_ids), None
        except ResultsUnavailable as error:
            return {}, error

    def _find(
        self, searches: Mapping[str, _Search], results: Mapping[str, Result], now_s: float
    ) -> dict[str, Place] | None:
        """Where their messages are; None while the broker is away."""
        if not searches:
            return {}
        if not self._queues.can_look:
            # A revoked one that never ran is discarded by the worker that gets it.
            return {t: Unseen() for t, search in searches.items() if t not in results or search.started}
        try:
            places = self._queues.find({task_id: search.queue for task_id, search in searches.items()})
        except BrokerUnavailable as error:
            pause_s = self._broker.failed(str(error))
            for search in searches.values():
                search.due_s = now_s + pause_s
            return None
        self._broker.over()
        return places

    def _count_missing(self, missing: Mapping[str, _Search], now_s: float) -> None:
        # Read once more: a task may have ended, and its message gone, since the results were read.
        results = self._results.read(list(missing)) if missing else {}
        for task_id, search in self._answer_results(missing, results).items():
            if search.why is Why.CANCEL and search.started and not self._acks_late:
                continue  # its message was gone as soon as it ran
            if search.first_missed_s is None:
                search.first_missed_s = now_s
            search.looks += 1
            patient = now_s - search.first_missed_s >= self._config.absent_after_s
            if search.looks >= self._config.absent_looks and patient:
                del self._searches[task_id]
                self._say(_absent(search, self._config))

    def _answer_results(
        self, searches: Mapping[str, _Search], results: Mapping[str, Result]
    ) -> dict[str, _Search]:
        """Answer what the results tell; returns the rest."""
        rest = dict(searches)
        for task_id, result in results.items():
            search = searches[task_id]
            seen = observation(search.submission, result)
            search.started = search.started or isinstance(seen, Started)
            if result.status == states.REVOKED:
                search.why = Why.CANCEL
            # A withdrawn one that runs is not killed here: Airflow does that, at its next heartbeat.
            if search.why is not Why.CANCEL or isinstance(seen, Ended):
                del rest[task_id]
                self._answer(task_id, search, seen)
        return rest

    def _answer(self, task_id: str, search: _Search, seen: Started | Ended | None) -> None:
        if search.why is Why.DOUBT or seen is None:
            self._say(Accepted(search.submission, task_id))
        if seen is not None:
            # Before it is said: after an end nothing of it is to be remembered.
            self._results.known(task_id)
            self._say(seen)
        self._searches.pop(task_id, None)

    def _answer_places(
        self, searches: Mapping[str, _Search], places: Mapping[str, Place], now_s: float
    ) -> None:
        for task_id, place in places.items():
            search = searches[task_id]
            search.looks, search.first_missed_s = 0, None
            if search.why is Why.CANCEL:
                self._withdraw(task_id, search, place, now_s)
                continue
            del self._searches[task_id]
            if isinstance(place, Queued):
                self._queue_of[search.submission] = place.queue
            self._say(_where(task_id, search, place))

    def _withdraw(self, task_id: str, search: _Search, place: Place, now_s: float) -> None:
        if isinstance(place, Queued):
            try:
                removed = self._queues.remove(place)
            except BrokerUnavailable as error:
                search.due_s = now_s + self._broker.failed(str(error))
                return
            if removed:
                del self._searches[task_id]
                self._say(Ended(search.submission, How.CANCELLED, WITHDRAWN))
        else:
            # Its worker discards it, or runs it until Airflow stops it. Should the worker die,
            # the message comes back to its queue and is found there.
            search.due_s = now_s + self._config.look_again_s


def _where(task_id: str, search: _Search, place: Place) -> Observation:
    if search.why is Why.DOUBT:
        return Accepted(search.submission, task_id)
    match place:
        case Queued(queue=queue, ahead=ahead, total=total):
            return Waiting(search.submission, Reason.IN_QUEUE, _in_line(queue, ahead, total))
        case Behind(queue=queue, read=read, total=total):
            words = (
                f"not among the first {read} of {total} messages of queue {queue!r}; taken to be behind them"
            )
            return Waiting(search.submission, Reason.IN_QUEUE, words)
        case Unseen():
            words = "sent; this broker can't be looked into, so nobody knows whether a worker has taken it"
            return Waiting(search.submission, Reason.IN_QUEUE, words)
        case Held():
            # It starts in a moment. If it does not, its worker died with it, and Airflow takes it for stuck.
            return Accepted(search.submission, task_id)


def _in_line(queue: str, ahead: int, total: int) -> str:
    place = f"{ahead} of {total} messages were before it at the last look" if ahead else "it is next in line"
    return f"in queue {queue!r}, {place}; no worker has taken it yet"


def _absent(search: _Search, config: CeleryConfig) -> Observation:
    match search.why:
        case Why.ADOPT:
            return Ended(search.submission, How.ABSENT)
        case Why.DOUBT:
            words = "the broker did not take the message"
            return Waiting(
                search.submission, Reason.BROKER_UNAVAILABLE, words, retry_after_s=config.publish_retry_s
            )
        case Why.CANCEL:
            return Ended(search.submission, How.CANCELLED, WITHDRAWN)
