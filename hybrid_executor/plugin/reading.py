"""What the page reads: the ledger, Airflow's schedulers and task instances, and the pools' own queries.

Reads and never writes. One survey serves everybody who looks at the same time:
it is made anew when the ledger has changed and is not younger than
``FRESH_S``, however many look. ``app`` calls it in its worker threads.
"""

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from hybrid_executor import contract, workforce
from hybrid_executor.contract import TaskView
from hybrid_executor.ledger import survey
from hybrid_executor.ledger.history import History, Page
from hybrid_executor.ledger.queries import Place, Wanted
from hybrid_executor.ledger.survey import Survey
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.errors import ConfigError
from hybrid_executor.model.record import SubmissionRecord
from hybrid_executor.overview import places
from hybrid_executor.plugin.access import Reader
from hybrid_executor.plugin.answers import ClusterAnswer, pool_answers
from hybrid_executor.plugin.asking import Seen
from hybrid_executor.poolload import DIALECTS, PoolLoad, pool_loads
from hybrid_executor.runcount import RunCount, count_run
from hybrid_executor.scaling import demand_of
from hybrid_executor.settings import Settings, load_routing, load_settings

#: How far back ends and curves go.
WITHIN = timedelta(hours=1)
#: How old a survey may be at most while everything changes all the time.
FRESH_S = 2.0


def version(who: Reader, now: datetime, more: str = "") -> str:
    """An entity tag: another one when the ledger, the user's rights or the minute has changed; one query.

    Ages in words are right to the minute, and so is where the last hour begins.
    """
    rights = sorted(dag_id or "" for dag_id in who.dag_ids)
    parts = [survey.mark(contract.metadata_engine()), f"{now:%H:%M}", who.user_id, more, *rights]
    return blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class _Taken:
    survey: Survey
    mark: str
    minute: datetime
    at_s: float


class Surveys:
    """The newest survey, made at most every ``FRESH_S`` seconds and only if something has changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: _Taken | None = None

    def newest(self, now: datetime) -> Survey:
        """Raises ``LedgerUnavailable``. Whoever comes while one is made waits for it."""
        with self._lock:
            taken, minute = self._newest, now.replace(second=0, microsecond=0)
            if taken and time.monotonic() - taken.at_s < FRESH_S:
                return taken.survey
            engine = contract.metadata_engine()
            mark = survey.mark(engine)
            if taken is None or (mark, minute) != (taken.mark, taken.minute):
                taken = _Taken(survey.survey(engine, now, now - WITHIN), mark, minute, time.monotonic())
                self._newest = taken
            return taken.survey


def page(wanted: Wanted, limit: int, after: Place | None) -> Page:
    """One page of the ledger."""
    return History(contract.metadata_engine()).page(wanted, limit, after)


def task(
    dag_id: str, run_id: str, task_id: str, map_index: int | None
) -> tuple[list[TaskView], list[SubmissionRecord]]:
    """A task in Airflow and in the ledger; without an index all of its mapped instances."""
    records = History(contract.metadata_engine()).of_task(dag_id, run_id, task_id, map_index)
    return _views(dag_id, run_id, task_id, map_index), records


def states(dag_id: str, run_id: str, task_id: str, map_index: int | None) -> str:
    """The states of a task's instances in Airflow, as one word; one query."""
    views = _views(dag_id, run_id, task_id, map_index)
    return " ".join(f"{view.map_index}:{view.state}:{view.try_number}" for view in views)


def _views(dag_id: str, run_id: str, task_id: str, map_index: int | None) -> list[TaskView]:
    views = contract.task_views(dag_id, run_id, task_id)
    return [view for view in views if map_index in (None, view.map_index)]


def run_count(dag_id: str, run_id: str) -> RunCount:
    """Where each task instance of a run is; two queries."""
    # The ledger last: what begins meanwhile is further on in both.
    groups = contract.run_groups(dag_id, run_id)
    return count_run(groups, History(contract.metadata_engine()).stages_of_run(dag_id, run_id))


def run_mark(dag_id: str, run_id: str) -> str:
    """A word that is another one as soon as a task instance of a run has another state; one query."""
    return " ".join(sorted(map(str, contract.run_groups(dag_id, run_id))))


def span_of_run(dag_id: str, run_id: str) -> tuple[datetime, datetime] | None:
    """When the first and the last submission of a run were queued."""
    return History(contract.metadata_engine()).span_of_run(dag_id, run_id)


def workforce_rows(seen: Seen) -> tuple[list[dict[str, str]], list[tuple[str, int]]]:
    """The rows of ``airflow hybrid workers``, and how many tasks run in pods on which node; one query."""
    told = History(contract.metadata_engine()).places()
    running = {name: count for (backend, name), count in told.items() if backend is BackendName.CELERY}
    nodes = [
        (name, count)
        for backend, name, count in places((*place, count) for place, count in told.items())
        if backend is BackendName.KUBERNETES
    ]
    return list(workforce.rows(seen.force, running, load_settings().pools)), nodes


def cluster() -> ClusterAnswer:
    """What is of no DAG: schedulers, and pools of workers as an autoscaler sees them."""
    settings = load_settings()
    alive = contract.live_schedulers(settings.scheduler_health_check_threshold_s)
    owners = History(contract.metadata_engine()).owners()
    loads, problems = _loads(settings)
    if not alive:
        problems.append("no scheduler is alive: nothing is queued, and what has ended is not noticed")
    return ClusterAnswer(
        schedulers=sorted(alive),
        orphans=sum(count for owner, count in owners.items() if owner not in alive),
        pools=pool_answers(loads),
        problems=problems,
    )


def _loads(settings: Settings) -> tuple[list[PoolLoad], list[str]]:
    engine = contract.metadata_engine()
    dialect = DIALECTS.get(engine.dialect.name)
    if dialect is None or not settings.pools:
        return [], []
    try:
        table = load_routing(settings)
    except ConfigError as error:
        return [], [
            f"every task waits until the routes file is corrected: {'; '.join(map(str, error.problems))}"
        ]
    names, default = settings.executor_names, settings.default_executor
    pairs = [(pool, demand_of(pool, table, names, default)) for pool in settings.pools]
    return pool_loads(engine, dialect, pairs), []


def now() -> datetime:
    """The time of one answer."""
    return datetime.now(UTC)
