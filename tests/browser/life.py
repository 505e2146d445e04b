"""What the ledger holds after a busy hour: some 200 tasks on both backends, most of them well, some not.

And behind them a history, by SQL: ``fill`` of it takes the seconds that rows one by one would take hours.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from hybrid_executor.backends.celery.roster import Member
from hybrid_executor.ledger.tables import submission
from hybrid_executor.model.attempt import BackendName, TaskAddress
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, SubmissionRecord
from hybrid_executor.model.worker import WorkerPod, WorkerState
from hybrid_executor.workforce import Workforce
from tests.contract.ledger_suite import a_record

CELERY: dict[str, Any] = {"backend": BackendName.CELERY, "queue": "default", "rule": "no other rule: celery"}
GPU: dict[str, Any] = {
    "backend": BackendName.KUBERNETES,
    "queue": "gpu-large",
    "rule": "routes.yaml rule 1: queue gpu-*",
}
PODS: dict[str, Any] = {
    "backend": BackendName.KUBERNETES,
    "queue": "kubernetes",
    "rule": "[hybrid_executor] kubernetes_queues",
}
RUN_ID = "scheduled__2026-11-22T07:00:00+00:00"
#: Why something does not start: a missing image, a quota, a queue without workers, a broker that is away.
WAITS: list[tuple[dict[str, Any], str, Reason, str]] = [
    (PODS, "train", Reason.IMAGE_PULL, "container base: image registry.example.org/ml:9 is not there"),
    (GPU, "embed", Reason.QUOTA, "exceeded quota: gpus, requested: 1, used: 8, limited: 8"),
    (CELERY | {"queue": "reports"}, "send", Reason.IN_QUEUE, "no worker has taken it yet"),
    (CELERY, "load", Reason.BROKER_UNAVAILABLE, "the broker does not answer: Connection refused"),
]
ENDS = {
    BackendName.KUBERNETES: [
        (Outcome.FAILED, Reason.OOM_KILLED, "container base: limit 512Mi"),
        (Outcome.RESTARTED, Reason.EVICTED, "the node was low on memory"),
        (Outcome.FAILED, Reason.ERROR, "the task's process ended with exit code 1"),
    ],
    BackendName.CELERY: [
        (Outcome.FAILED, Reason.WORKER_LOST, "its process was killed with signal 9"),
        (Outcome.RESTARTED, Reason.WORKER_LOST, "its worker's pod is gone"),
        (Outcome.FAILED, Reason.ERROR, "the task's process ended with exit code 1"),
    ],
}


def _member(queue: str, at_hand: int) -> Member:
    return Member(queues=(queue,), at_hand=at_hand, slots=8)


#: Submissions that ended before the last hour began, two a second.
HISTORY = 1_000_000
FILL = f"""
INSERT INTO hybrid_submission
    (attempt_id, submission, kind, workload_id, dag_id, task_id, run_id, map_index, try_number,
     queue, backend, rule, scheduler_job, queued_at, submitted_at, started_at, ended_at, outcome, ran_on)
SELECT md5(g::text)::uuid::text, 1, 'task', md5('w' || g)::uuid::text,
       CASE WHEN g % 3 = 0 THEN 'training' ELSE 'etl' END, 'task' || g % 20, 'run' || g / 2000, -1, 1,
       CASE WHEN g % 3 = 0 THEN 'kubernetes' ELSE 'default' END,
       CASE WHEN g % 3 = 0 THEN 'kubernetes' ELSE 'celery' END, 'default', '0',
       at, at, at, at + interval '1 minute', 'succeeded', 'celery@light-' || g % 4
FROM (SELECT g, now() - interval '2 hours' - g * interval '0.5 seconds' AS at
      FROM generate_series(1, {HISTORY}) AS g) AS history
"""  # noqa: S608


def fill(engine: Engine) -> None:
    """Put the history into an empty ledger."""
    with engine.begin() as connection:
        # Faster than to keep them while the table fills.
        for index in submission.indexes:
            index.drop(connection)
        connection.execute(text(FILL))
        for index in submission.indexes:
            index.create(connection)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE hybrid_submission"))


#: Who runs them: with and without tasks, and such as somebody should look at.
WORKFORCE = Workforce(
    members={
        f"celery@light-{number}": _member("default", at_hand) for number, at_hand in enumerate((3, 0, 8, 2))
    }
    | {
        "celery@light-9": replace(_member("default", 1), queues=()),
        "celery@reports-0": _member("reports", 0),
    },
    idle=frozenset({"celery@reports-0"}),
    pods={
        name: WorkerPod(name=name, pool="light", state=state, began_at=datetime(2026, 11, 22, tzinfo=UTC))
        for name, state in [
            *((f"light-{number}", WorkerState.LIVE) for number in (0, 1, 2, 9, 7)),
            ("light-3", WorkerState.LEAVING),
        ]
    },
)


def a_run(records: Sequence[SubmissionRecord], dag_id: str) -> list[tuple[str, int, str | None, str | None]]:
    """A run's task instances as Airflow has them: those of the hour, and some that are not so far."""
    states = {Outcome.SUCCEEDED: "success", Outcome.FAILED: "failed", Outcome.RESTARTED: "up_for_retry"}
    known = [
        (
            record.address.task_id,
            record.address.map_index,
            states[record.outcome] if record.outcome else "running" if record.started_at else "queued",
            record.id.attempt_id,
        )
        for record in records
        if record.address and record.address.dag_id == dag_id
    ]
    return [*known, *(("publish", number, None, None) for number in range(30))]


def a_busy_hour(scheduler_job: str) -> list[SubmissionRecord]:
    """The same at each call but for the times, which end now."""
    return list(_records(random.Random(8), datetime.now(UTC), scheduler_job))


def _records(chance: random.Random, now: datetime, scheduler_job: str) -> Iterator[SubmissionRecord]:
    numbers = count()

    def record(kind: dict[str, Any], task_id: str, queued: float, **values: Any) -> SubmissionRecord:
        """Queued so many minutes ago."""
        address = TaskAddress(
            dag_id="etl" if kind is CELERY else "training",
            task_id=task_id,
            run_id=RUN_ID,
            map_index=next(numbers),
        )
        attempt = str(UUID(int=chance.getrandbits(128), version=4))
        return a_record(
            **kind,
            attempt=attempt,
            scheduler_job=scheduler_job,
            address=address,
            queued_at=now - timedelta(minutes=queued),
            **values,
        )

    for number in range(160):
        kind = chance.choice([CELERY, CELERY, PODS, GPU])
        queued = chance.uniform(5, 58)
        started = queued - chance.expovariate(1 / (0.1 if kind is CELERY else 1.5))
        ended = started - chance.expovariate(1 / 2)
        where = f"celery@light-{number % 4}" if kind is CELERY else f"task-{number} on node-{number % 3}"
        times = {
            "submitted_at": now - timedelta(minutes=queued),
            "started_at": now - timedelta(minutes=max(started, 0.2)),
            "where": where,
        }
        if ended < 0.2:
            yield record(kind, "load", queued, **times)
            continue
        outcome, reason, message = (
            chance.choice(ENDS[kind["backend"]])
            if chance.random() < 0.12
            else (Outcome.SUCCEEDED, None, None)
        )
        over = {"ended_at": now - timedelta(minutes=ended), "outcome": outcome, "reason": reason}
        yield record(kind, "load", queued, **times, **over, message=message)
    for kind, task_id, reason, message in WAITS:
        for _ in range(10):
            queued = chance.uniform(1, 25)
            since = now - timedelta(minutes=queued) + timedelta(seconds=2.6)
            waits = {"waits_for": reason, "waits_message": message, "waits_since": since}
            submitted = None if reason is Reason.BROKER_UNAVAILABLE else since - timedelta(seconds=2.4)
            yield record(kind, task_id, queued, submitted_at=submitted, **waits)
