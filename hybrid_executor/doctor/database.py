"""The metadata database: the ledger in it, and what it says of tasks that nobody would run."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from hybrid_executor import contract
from hybrid_executor.backends.celery.redaction import error_text
from hybrid_executor.doctor.finding import Finding
from hybrid_executor.ledger.history import History
from hybrid_executor.ledger.revisions import current_problem
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.routing import RoutingTable
from hybrid_executor.settings import Settings


def metadata(settings: Settings, table: RoutingTable | None) -> Iterator[Finding]:
    """Whether it answers and is migrated, and whether somebody runs all that is unfinished in it."""
    engine = contract.metadata_engine()
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        remedy = "correct [database] sql_alchemy_conn or start it"
        yield Finding("metadata database", f"does not answer ({error_text(error)}); {remedy}")
        return
    yield Finding("metadata database")
    yield Finding("ledger", current_problem(engine))
    yield from _strangers(engine, settings)
    if settings.pools and table:
        yield from _pools(engine, settings, table)


def _strangers(engine: Engine, settings: Settings) -> Iterator[Finding]:
    """Unfinished task instances of executors that are configured no more: no scheduler adopts these."""
    known = {*settings.executor_names, *settings.other_executors}
    try:
        counted = contract.unfinished_by_executor(engine)
    except SQLAlchemyError as error:
        yield Finding("task instances", f"can't be counted ({error_text(error)}); run airflow db migrate")
        return
    strangers = {name: count for name, count in counted.items() if name not in known}
    for name, count in sorted(strangers.items()):
        yield Finding(
            "task instances",
            f"{count} unfinished name executor {name!r}, which [core] executor no longer has: nobody runs or"
            f" adopts them; clear them, or keep the name as an alias ({name}:hybrid_executor.HybridExecutor)",
        )
    if not strangers:
        yield Finding("task instances")


def _pools(engine: Engine, settings: Settings, table: RoutingTable) -> Iterator[Finding]:
    """Queues of Celery that something is on, or was in the last day, and that no pool serves."""
    try:
        counts = History(engine).counts(datetime.now(UTC) - timedelta(days=1))
        known = set(contract.unfinished_by_queue(engine))
    except (SQLAlchemyError, LedgerUnavailable) as error:
        yield Finding("pools", f"can't be compared with queues ({error}); run airflow db migrate")
        return
    used = {queue for queue in known if table.route(queue).backend is BackendName.CELERY}
    used |= {one.queue for one in counts if one.backend is BackendName.CELERY} | {settings.default_queue}
    served = {queue for pool in settings.pools for queue in pool.queues}
    for queue in sorted(used - served):
        yield Finding(
            "pools",
            f"no pool serves queue {queue!r}, so no worker is started for what is on it;"
            f" add it to one of {settings.pools_file}, or route it to pods",
        )
    if used <= served:
        yield Finding("pools", note=f"{len(settings.pools)} serve every queue that is in use")
