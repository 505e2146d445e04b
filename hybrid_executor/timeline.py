"""A submission's story in words: what happened when, how it stands, and what to do about it.

Pure: reads records of the ledger and knows no clock. Says nothing that the
ledger does not; what became of the task is Airflow's to say. Called by the
commands, the page in Airflow's UI, and the controller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction

from hybrid_executor.cluster.quantity import about
from hybrid_executor.durations import in_words
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.record import Outcome, Stage, SubmissionRecord


class Event(StrEnum):
    """What can happen to a submission."""

    QUEUED = "queued"
    WAITS = "waits"
    SUBMITTED = "submitted"
    STARTED = "started"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One line of a story. The time is UTC."""

    at: datetime
    event: Event
    text: str


#: Every pod is pending for a moment; a wait that was over so soon is no part of the story.
SHORT_WAIT = timedelta(seconds=1)
#: What an outcome means, where its name does not say it all.
_MEANS: Mapping[Outcome, str] = {
    Outcome.SUCCEEDED: "its process ended well",
    Outcome.REPLACED: "it ended before the task had started, and was sent again",
    Outcome.REVOKED: "withdrawn",
    Outcome.RESTARTED: "it died while the task ran, and Airflow runs the task again without using a retry",
}
#: What Airflow's own states mean while the ledger knows nothing of the task.
_UNKNOWN_HERE = {
    None: "Airflow has not scheduled it: its upstream tasks, or its DAG run, are not so far",
    "scheduled": (
        "the scheduler has not queued it: pool slots, max_active_tasks, [core] parallelism, or a scheduler"
        " that is not running (airflow jobs check --job-type SchedulerJob)"
    ),
    "queued": (
        "no executor of this kind has recorded it: it is being queued, another executor has it, or the"
        " routes file is wrong (airflow hybrid routes)"
    ),
    "deferred": "it waits in the triggerer, which has no place here",
    "up_for_retry": "it waits for its retry_delay",
    "up_for_reschedule": "its sensor looks again later",
}


def story(record: SubmissionRecord) -> list[Moment]:
    """What is known of a submission, in the order in which it happened.

    A message may be taken, and its task run, before the look that saw it
    queued is written: times that are the same keep the order of life.
    """
    moments = [Moment(at=record.queued_at, event=Event.QUEUED, text=_queued(record))]
    if record.submitted_at:
        moments.append(Moment(at=record.submitted_at, event=Event.SUBMITTED, text=_submitted(record)))
    if record.waits_for and record.waits_since and _waited(record):
        words = (
            f"{record.waits_for}: {record.waits_message}" if record.waits_message else str(record.waits_for)
        )
        moments.append(Moment(at=record.waits_since, event=Event.WAITS, text=f"waits for {words}"))
    if record.started_at:
        where = f" on {record.where}" if record.where and record.backend is BackendName.CELERY else ""
        pod = f": {record.where}" if record.where and record.backend is BackendName.KUBERNETES else ""
        moments.append(Moment(at=record.started_at, event=Event.STARTED, text=f"started{where}{pod}"))
    if record.ended_at and record.outcome:
        moments.append(
            Moment(at=record.ended_at, event=Event.ENDED, text=_ended(record, record.outcome) + _took(record))
        )
    return sorted(moments, key=lambda moment: moment.at)


def headline(record: SubmissionRecord, now: datetime) -> str:
    """How it stands, in one line."""
    diagnosis = record.diagnosis
    match record.state:
        case Stage.QUEUED:
            why = diagnosis or "it waits for room on its backend or for its scheduler"
            return f"queued {in_words(now - record.queued_at)} ago, not submitted: {why}"
        case Stage.SUBMITTED:
            since = in_words(now - (record.submitted_at or record.queued_at))
            return f"submitted {since} ago, not started" + (f": {diagnosis}" if diagnosis else "")
        case Stage.RUNNING:
            since = in_words(now - (record.started_at or record.queued_at))
            return f"running for {since}" + (f" on {record.where}" if record.where else "")
        case Outcome() as outcome:
            return _ended(record, outcome)


def advice(record: SubmissionRecord) -> str:
    """What to do about how it stands; empty where there is nothing to do."""
    if record.diagnosis:
        return record.diagnosis.reason.hint
    if record.state is Stage.QUEUED:
        limits = "celery_parallelism" if record.backend is BackendName.CELERY else "kubernetes_parallelism"
        return f"`airflow hybrid status` shows what is ahead of it; {limits} and [core] parallelism limit it"
    if record.state is Stage.SUBMITTED and record.backend is BackendName.CELERY:
        return (
            f"start workers for queue {record.queue}, unless `airflow hybrid workers` shows one that has room"
        )
    return ""


def unknown_here(state: str | None) -> str:
    """What the state of a task in Airflow says where the ledger knows nothing of that task."""
    return _UNKNOWN_HERE.get(
        state, "the ledger knows nothing of it: another executor ran it, or it was trimmed"
    )


def _queued(record: SubmissionRecord) -> str:
    number = f" (submission {record.id.number})" if record.id.number > 1 else ""
    cluster = f" in cluster {record.cluster}" if record.cluster else ""
    return f"queued{number}; goes to {record.backend}{cluster} by {record.rule}"


def _submitted(record: SubmissionRecord) -> str:
    if record.backend is BackendName.CELERY:
        return f"submitted to queue {record.queue}"
    return f"submitted as {record.external_name}" if record.external_name else "submitted"


def _ended(record: SubmissionRecord, outcome: Outcome) -> str:
    code = f", exit code {record.exit_code}" if record.exit_code else ""
    why = f": {record.diagnosis}" if record.reason else ""
    means = f" ({_MEANS[outcome]})" if outcome in _MEANS else ""
    return f"{outcome}{means}{code}{why}"


def _took(record: SubmissionRecord) -> str:
    """What its container took, for a look at requests and limits; empty where nobody measured."""
    if record.memory_peak_bytes is None:
        return ""
    asked = record.memory_limit_bytes or record.memory_request_bytes
    of = f" of {about(Fraction(asked))}" if asked else ""
    cpu = f", {record.cpu_peak_m}m of cpu in its busiest minute" if record.cpu_peak_m is not None else ""
    return f"; took up to {about(Fraction(record.memory_peak_bytes))}{of} memory{cpu}"


def _waited(record: SubmissionRecord) -> bool:
    """Whether the wait is worth a line: it lasted, or it is how things stand."""
    over = record.started_at or record.ended_at
    return over is None or record.waits_since is None or over - record.waits_since >= SHORT_WAIT
