"""A pod's submission as the events that a Celery worker would send of it: what Flower shows of pods.

Pure: reads records of the ledger, which hold no token. A namespace is shown as
a worker, since Flower knows nothing else that runs tasks. ``hybrid_executor.flower``
asks which events are due, ``events`` sends them.

    queued            task-sent       pending, with its queue as routing key
    pod made          task-received   from here on with the pod's name among its arguments
    container runs    task-started
    succeeded         task-succeeded  its process ended well, as with Celery; how the task did, Airflow knows
    failed            task-failed     the diagnosis as exception, what to do about it as traceback
    replaced          task-retried    ended before its task began; the next submission is a task of its own
    restarted         task-retried    Airflow runs it again
    revoked           task-revoked
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any

from hybrid_executor.backends.celery.shown import argsrepr, kwargsrepr, shadow
from hybrid_executor.model.record import Outcome, SubmissionRecord
from hybrid_executor.naming import celery_task_id


class Told(IntEnum):
    """How far Flower has been told of a submission; one that has ended was told all."""

    SENT = 1
    RECEIVED = 2
    STARTED = 3
    ENDED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of the worker ``hostname``."""

    type: str
    hostname: str
    at: datetime
    fields: Mapping[str, Any] = field(default_factory=dict)


def worker_name(namespace: str, cluster: str = "") -> str:
    """``kubernetes@NAMESPACE``, and ``kubernetes@NAMESPACE.CLUSTER`` for a cluster that routes name.

    A namespace has no dots, so two are never the same.
    """
    return f"kubernetes@{namespace}.{cluster}" if cluster else f"kubernetes@{namespace}"


def worker_of(record: SubmissionRecord, namespaces: Mapping[str, str]) -> str:
    """The worker that a submission is shown on; ``namespaces`` by cluster, for one that has no pod yet."""
    namespace, slash, _ = (record.external_name or "").partition("/")
    known = namespace if slash else namespaces.get(record.cluster, "default")
    return worker_name(known, record.cluster)


def reached(record: SubmissionRecord) -> Told:
    """How far it is."""
    if record.ended_at:
        return Told.ENDED
    if record.started_at:
        return Told.STARTED
    return Told.RECEIVED if record.submitted_at else Told.SENT


def events_of(record: SubmissionRecord, told: Told | None, worker: str) -> list[Event]:
    """What has happened to it since it was told of so far, in order."""
    moments = (
        (Told.SENT, record.queued_at),
        (Told.RECEIVED, record.submitted_at),
        (Told.STARTED, record.started_at),
        (Told.ENDED, record.ended_at),
    )
    events = []
    for step, at in moments:
        if at is not None and step > (told or 0):
            kind, fields = _told_as(step, record)
            fields = {"uuid": celery_task_id(record.id), **fields}
            events.append(Event(type=kind, hostname=worker, at=at, fields=fields))
    return events


def _told_as(step: Told, record: SubmissionRecord) -> tuple[str, dict[str, Any]]:
    match step:
        case Told.SENT:
            return "task-sent", _what(record) | {"queue": record.queue, "routing_key": record.queue}
        case Told.RECEIVED:
            return "task-received", _what(record)
        case Told.STARTED:
            return "task-started", {}
        case Told.ENDED:
            return _end(record)


def _what(record: SubmissionRecord) -> dict[str, Any]:
    more = {"pod": record.external_name} if record.external_name else {}
    if record.id.number > 1:
        more |= {"attempt": record.id.attempt_id}
    return {
        "name": shadow(record),
        "args": argsrepr(record),
        "kwargs": kwargsrepr(record, **more),
        "retries": record.address.try_number - 1 if record.address else 0,
        "root_id": celery_task_id(record.id),
    }


def _end(record: SubmissionRecord) -> tuple[str, dict[str, Any]]:
    why = record.diagnosis
    reason = {"exception": str(why or record.outcome), "traceback": why.reason.hint if why else ""}
    ran = {}
    if record.started_at and record.ended_at:
        ran = {"runtime": max(0.0, (record.ended_at - record.started_at).total_seconds())}
    match record.outcome:
        case Outcome.SUCCEEDED:
            return "task-succeeded", {"result": repr(record.where or ""), **ran}
        case Outcome.REVOKED:
            return "task-revoked", {"terminated": bool(ran), "signum": None, "expired": False, **ran}
        case Outcome.REPLACED | Outcome.RESTARTED:
            return "task-retried", {**reason, **ran}
        case _:
            return "task-failed", {**reason, **ran}
