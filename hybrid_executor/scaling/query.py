"""The one definition of what a pool of Celery workers has to do, as SQL.

A pool has in flight

- Celery attempts of its queues that the ledger has as open, whether they wait
  inside the executor, in the queue, or run, and whose task instance still
  carries them and is not over. Not those that run on a worker whose pod is on
  its way out: a new worker is not for them.
- Callbacks and connection tests of its queues that the ledger has as open.
- Task instances, queued or running, of which the ledger knows nothing: those of
  an executor that was configured before. Only they need the routing table, and
  it is asked when the query is written: ``task_queues`` are those of the pool's
  queues whose tasks go to Celery.

The text is the same for every Airflow, because who asks does not know which
one migrated the database. From 3.4 on each try is a row, and past ones, some of
them queued for ever, have no ``working_set``. It is asked for without a table's
name: where ``task_instance`` has no such column, SQL looks for it in the query
around, whose one row says that it is true.

The answer is always one number. ``trigger_query`` divides it by the tasks that
one worker takes, and rounds up: a target of 1 then makes replicas of it exactly.

This and ``contract`` are the only places with SQL on Airflow's tables. It is
text, because whoever runs it has neither Python nor Airflow; literals are
quoted here and names are never taken from outside. It reads the open rows of
the ledger, the task instances that are queued or running by the index on their
state, and one entry of the ledger's key for each of those.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from hybrid_executor.comparison import ALIVE
from hybrid_executor.model.attempt import BackendName, WorkloadKind
from hybrid_executor.routing import Pool, RoutingTable

Dialect = Literal["postgresql", "mysql"]
DIALECTS: tuple[Dialect, ...] = ("postgresql", "mysql")

#: Of whom a DAG may write ``executor=`` besides alias and path.
CLASS_NAME = "HybridExecutor"

#: Every ``{...}`` is filled with literals or, for the chart, with what makes literals of values.
IN_FLIGHT = """\
  (SELECT count(DISTINCT s.attempt_id)
     FROM hybrid_submission s
     JOIN task_instance ti ON ti.external_executor_id = s.attempt_id
    WHERE s.ended_at IS NULL
      AND s.worker_leaves_at IS NULL
      AND s.backend = '{celery}'
      AND {submission_queue} IN ({queues})
      AND ti.state IN ({alive})
      AND working_set IS TRUE)
  +
  (SELECT count(DISTINCT s.attempt_id)
     FROM hybrid_submission s
    WHERE s.ended_at IS NULL
      AND s.worker_leaves_at IS NULL
      AND s.backend = '{celery}'
      AND {submission_queue} IN ({queues})
      AND s.kind <> '{task}')
  +
  (SELECT count(*)
     FROM task_instance ti
    WHERE ti.state IN ({alive})
      AND working_set IS TRUE
      AND {task_queue} IN ({task_queues})
      AND COALESCE(ti.executor, {default_executor}) IN ({executors})
      AND (SELECT max(s.submission) FROM hybrid_submission s
            WHERE s.attempt_id = ti.external_executor_id) IS NULL)
"""
#: What is true of every row in a database whose task instances have no such column.
EVERY_ROW = "FROM (SELECT TRUE AS working_set) AS every_row\n"
TRIGGER = f"SELECT ceil((\n{IN_FLIGHT}) / {{concurrency}}.0) AS workers\n{EVERY_ROW}"
COUNT = f"SELECT (\n{IN_FLIGHT}) AS in_flight\n{EVERY_ROW}"

#: Queues are compared with their case, as routes and Celery do; columns of MySQL don't by themselves.
_COLUMNS: Mapping[Dialect, Mapping[str, str]] = {
    "postgresql": {"submission_queue": "s.queue", "task_queue": "ti.queue"},
    "mysql": {
        "submission_queue": "CAST(s.queue AS BINARY)",
        "task_queue": "CAST(ti.queue AS BINARY)",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked for: one pool, as a query can know it."""

    #: What the pool's workers serve.
    queues: tuple[str, ...]
    #: Those of them whose tasks go to Celery.
    task_queues: tuple[str, ...]
    #: The names by which a task may ask for this executor.
    executors: tuple[str, ...]
    #: Who runs a task that names none.
    default_executor: str
    #: Tasks that one worker runs at a time.
    concurrency: int


def demand_of(pool: Pool, table: RoutingTable, executors: Collection[str], default_executor: str) -> Demand:
    """What a pool has to be asked for; ``executors`` are alias and path of this one."""
    return Demand(
        queues=pool.queues,
        task_queues=tuple(q for q in pool.queues if table.route(q).backend is BackendName.CELERY),
        executors=tuple(dict.fromkeys((*executors, CLASS_NAME))),
        default_executor=default_executor,
        concurrency=pool.concurrency,
    )


def trigger_query(dialect: Dialect, demand: Demand) -> str:
    """One number: how many workers would have all of it in hand at once; neither NULL nor below 0."""
    return filled(TRIGGER, dialect, _literals(dialect, demand))


def in_flight_query(dialect: Dialect, demand: Demand) -> str:
    """One number: how much there is."""
    return filled(COUNT, dialect, _literals(dialect, demand))


def filled(text: str, dialect: Dialect, values: Mapping[str, str]) -> str:
    """The text with what the code knows, and with these values for what a deployment knows."""
    return text.format(
        celery=BackendName.CELERY,
        task=WorkloadKind.TASK,
        alive=_listed("postgresql", sorted(ALIVE)),
        **_COLUMNS[dialect],
        **values,
    )


def _literals(dialect: Dialect, demand: Demand) -> Mapping[str, str]:
    return {
        "queues": _listed(dialect, demand.queues),
        "task_queues": _listed(dialect, demand.task_queues),
        "executors": _listed(dialect, demand.executors),
        "default_executor": _literal(dialect, demand.default_executor),
        "concurrency": str(demand.concurrency),
    }


def _listed(dialect: Dialect, values: Iterable[str]) -> str:
    """For ``IN``; nothing equals NULL."""
    return ", ".join(_literal(dialect, value) for value in values) or "NULL"


def _literal(dialect: Dialect, value: str) -> str:
    # MySQL takes a backslash for an escape, PostgreSQL does not.
    text = value.replace("\\", "\\\\") if dialect == "mysql" else value
    return "'" + text.replace("'", "''") + "'"
