"""The ledger as people read it: pages of submissions, one task's story, and how many are where.

Reads and never writes, through the engine that it is given; every database
error comes out as ``LedgerUnavailable``. The commands call it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, RowMapping, Select

from hybrid_executor.ledger import queries, statements
from hybrid_executor.ledger.database import readable, translated
from hybrid_executor.ledger.queries import Place, Wanted
from hybrid_executor.ledger.rows import pod_run_of
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.record import Outcome, PodRun, Stage, SubmissionRecord

#: Submissions of one task that are read at once: tries, and mapped instances.
TASK_ROWS = 1_000
#: How much of the past one query reads, where all of it is wanted.
SLICE = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Submissions, newest first; ``following`` is where the next page begins, None on the last."""

    records: tuple[SubmissionRecord, ...]
    following: Place | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounts:
    """What is in flight and what has ended on one queue of one backend."""

    backend: BackendName
    queue: str
    stages: Mapping[Stage, int]
    ends: Mapping[Outcome, int]
    #: When the oldest that has not started was queued, UTC.
    oldest_waiting: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """So many wait on one queue for one reason; ``oldest`` is one of them."""

    count: int
    oldest: SubmissionRecord


class History:
    """Answers about the table ``hybrid_submission``; each method but one is one or two queries."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(self, wanted: Wanted, limit: int, after: Place | None = None) -> Page:
        """So many submissions at most."""
        # One more than is shown tells whether there are more.
        records = self._records(queries.newest(wanted, limit + 1, after))
        more = len(records) > limit
        records = records[:limit]
        return Page(records=tuple(records), following=_place_of(records[-1]) if more else None)

    def of_task(
        self, dag_id: str, run_id: str, task_id: str, map_index: int | None = None
    ) -> list[SubmissionRecord]:
        """The submissions of one task of a run, oldest first; of all its mapped instances for None.

        The newest 1,000 of them.
        """
        return self._records(queries.of_task(dag_id, run_id, task_id, map_index, TASK_ROWS))[::-1]

    def stages_of_run(self, dag_id: str, run_id: str) -> dict[str, Stage]:
        """How far each open attempt of a run is."""
        rows = self._rows(queries.stages_of_run(dag_id, run_id))
        return {row["attempt_id"]: Stage(row["stage"]) for row in rows}

    def span_of_run(self, dag_id: str, run_id: str) -> tuple[datetime, datetime] | None:
        """When the first and the last submission of a run were queued, UTC; None if there is none."""
        [row] = self._rows(queries.span_of_run(dag_id, run_id))
        return (row["first"], row["last"]) if row["count"] else None

    def of_attempt(self, attempt_id: str) -> list[SubmissionRecord]:
        """The submissions of one attempt, oldest first."""
        return self._records(statements.by_attempt([attempt_id]))

    def counts(self, ended_since: datetime) -> list[QueueCounts]:
        """Every queue on which something is open or has ended since then, in the order of their names."""
        stages: dict[tuple[BackendName, str], dict[Stage, int]] = {}
        oldest: dict[tuple[BackendName, str], datetime] = {}
        ends: dict[tuple[BackendName, str], dict[Outcome, int]] = {}
        for row in self._rows(queries.open_counts()):
            queue, stage = (BackendName(row["backend"]), row["queue"]), Stage(row["stage"])
            stages.setdefault(queue, {})[stage] = row["count"]
            if stage is not Stage.RUNNING:
                oldest[queue] = min(row["oldest"], oldest.get(queue, row["oldest"]))
        for row in self._rows(queries.end_counts(ended_since)):
            queue = BackendName(row["backend"]), row["queue"]
            ends.setdefault(queue, {})[Outcome(row["outcome"])] = row["count"]
        return [
            QueueCounts(
                backend=queue[0],
                queue=queue[1],
                stages=stages.get(queue, {}),
                ends=ends.get(queue, {}),
                oldest_waiting=oldest.get(queue),
            )
            for queue in sorted({*stages, *ends})
        ]

    def waits(self) -> list[Wait]:
        """What has not started, by backend, queue and reason; the longest wait first."""
        return [Wait(count=row["count"], oldest=readable(row)) for row in self._rows(queries.waits())]

    def places(self) -> dict[tuple[BackendName, str], int]:
        """How many submissions run where: a worker's name, or ``pod on node``."""
        rows = self._rows(queries.places())
        return {(BackendName(row["backend"]), row["ran_on"] or "?"): row["count"] for row in rows}

    def owners(self) -> dict[str, int]:
        """How many open submissions each scheduler's job answers for."""
        return {row["scheduler_job"]: row["count"] for row in self._rows(queries.owners())}

    def pod_runs(self, since: datetime, until: datetime, dag_id: str | None = None) -> Iterator[PodRun]:
        """What ran in pods and has ended, of what was queued since then; the oldest slice of time first.

        Each slice is a query of its own: a small part of the table, found by the index on ``queued_at``.
        """
        while since < until:
            before = min(since + SLICE, until)
            yield from map(pod_run_of, self._rows(queries.pod_runs(since, before, dag_id)))
            since = before

    def begins_at(self) -> datetime | None:
        """When the oldest submission that is known was queued, UTC."""
        return next((row["queued_at"] for row in self._rows(queries.oldest())), None)

    def _records(self, query: Select[Any]) -> list[SubmissionRecord]:
        return [readable(row) for row in self._rows(query)]

    def _rows(self, query: Select[Any]) -> Sequence[RowMapping]:
        with translated(), self._engine.connect() as connection:
            return connection.execute(query).mappings().all()


def _place_of(record: SubmissionRecord) -> Place:
    return Place(record.queued_at, *record.id)
