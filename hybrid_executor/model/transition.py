"""One step of a submission on its way, as its scheduler saw it, and how long each leg of the way took."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from hybrid_executor.model.attempt import Attempt
from hybrid_executor.model.reason import Reason


class Leg(StrEnum):
    """The way of a submission in four parts; a name is part of the interface."""

    #: From its queueing, or from the end of the submission before it, to the first hand-over to its backend.
    QUEUED = "queued"
    #: From there until the backend has it: the message is published, the pod exists.
    WAITING = "waiting"
    #: From there until its process runs: a worker takes it, or the pod is scheduled and pulled.
    STARTING = "starting"
    #: From there to its end.
    RUNNING = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When a submission came how far; None: it did not, or nobody knows. UTC."""

    queued_at: datetime
    sent_at: datetime | None = None
    accepted_at: datetime | None = None
    started_at: datetime | None = None

    @property
    def leg(self) -> tuple[Leg, datetime]:
        """The one that it is on, and since when."""
        if self.started_at is not None:
            return Leg.RUNNING, self.started_at
        if self.accepted_at is not None:
            return Leg.STARTING, self.accepted_at
        if self.sent_at is not None:
            return Leg.WAITING, self.sent_at
        return Leg.QUEUED, self.queued_at

    def legs(self, until: datetime) -> Iterator[tuple[Leg, datetime, datetime]]:
        """Each leg that was begun, with its beginning and its end; the last one ends with ``until``."""
        begun = [
            (leg, at)
            for leg, at in zip(
                Leg, (self.queued_at, self.sent_at, self.accepted_at, self.started_at), strict=True
            )
            if at is not None
        ]
        ends = [at for _, at in begun[1:]] + [until]
        for (leg, begin), end in zip(begun, ends, strict=True):
            yield leg, begin, max(begin, end)


#: States with which a leg ends, the first time: which of ``Times`` says that it was not the first.
_BEGINS = {"sent": "sent_at", "accepted": "accepted_at", "started": "started_at"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """What happened to a submission. States are phases in lower case, and outcomes."""

    attempt: Attempt
    number: int
    #: None where this scheduler had nothing to do with it before.
    before: str | None
    after: str
    at: datetime
    #: As far as it had come before.
    times: Times
    #: Whether it is over: ``after`` is an outcome.
    is_end: bool = False
    #: The Celery task id, or ``namespace/pod``.
    external_name: str | None = None
    #: Where its process runs: a Celery worker, or a pod on a node.
    where: str | None = None
    #: What it waits for, or why it ended.
    reason: Reason | None = None
    message: str = ""
    exit_code: int | None = None

    @property
    def took(self) -> tuple[Leg, float] | None:
        """The leg that ends with this step and its seconds; None where it goes on."""
        if not self.is_end and (self.after not in _BEGINS or getattr(self.times, _BEGINS[self.after])):
            return None
        leg, begin = self.times.leg
        return leg, max(0.0, (self.at - begin).total_seconds())
