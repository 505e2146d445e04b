"""Pods of Celery workers, as plain values."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class WorkerState(StrEnum):
    """How a worker's pod stands."""

    LIVE = "live"
    #: It is being deleted: it has its grace period, or what is left of it.
    LEAVING = "leaving"
    #: Its containers have ended, and nothing of it runs any more.
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPod:
    """One pod of a pool, which is one Celery worker."""

    name: str
    pool: str
    state: WorkerState
    #: When its present worker can have begun at the earliest: what had started before was another's. UTC.
    began_at: datetime
    #: As the pod says it: whoever has less goes first.
    deletion_cost: int = 0


def pod_of(worker: str) -> str:
    """The pod's name in a Celery worker's: ``celery@<pod>``."""
    return worker.rpartition("@")[2]
