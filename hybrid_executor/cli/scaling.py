"""``airflow hybrid scaling``: what each pool has in flight, and how many workers an autoscaler would give it.

The answers are those of the very query that the autoscaler asks. Changes
nothing and asks no cluster: how many workers there are is Kubernetes' to say.
"""

from argparse import Namespace
from collections.abc import Sequence

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from sqlalchemy import Connection

from hybrid_executor import contract
from hybrid_executor.cli.ledger import reading
from hybrid_executor.cli.routes import routing_or_exit, show, tell
from hybrid_executor.ledger.database import translated
from hybrid_executor.routing import Pool
from hybrid_executor.scaling import Demand, Dialect, demand_of, in_flight_query, trigger_query
from hybrid_executor.settings import Settings, load_settings

#: What SQLAlchemy calls the databases that an autoscaler can ask.
DIALECTS: dict[str, Dialect] = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


@suppress_logs_and_warning
@providers_configuration_loaded
def scaling(args: Namespace) -> None:
    """Print a row for each pool, or the query of one."""
    settings = load_settings()
    tell(settings.problems)
    pools, table = _chosen(settings, args.pool), routing_or_exit(settings)
    dialect = _dialect()
    demands = [demand_of(pool, table, settings.executor_names, settings.default_executor) for pool in pools]
    if args.query:
        if len(pools) > 1:
            raise SystemExit(f"each pool has a query of its own: add --pool, one of {_names(pools)}")
        print(trigger_query(dialect, demands[0]), end="")
        return
    with reading(), translated(), contract.metadata_engine().connect() as connection:
        rows = [_row(connection, dialect, pool, demand) for pool, demand in zip(pools, demands, strict=True)]
    show(rows, args.output)


def _chosen(settings: Settings, name: str | None) -> tuple[Pool, ...]:
    if not settings.pools:
        raise SystemExit("there are no pools: name them in the file of [hybrid_executor] pools_file")
    chosen = tuple(pool for pool in settings.pools if name in (None, pool.name))
    if not chosen:
        raise SystemExit(f"no pool is named {name!r}; there are: {_names(settings.pools)}")
    return chosen


def _names(pools: Sequence[Pool]) -> str:
    return ", ".join(pool.name for pool in pools)


def _dialect() -> Dialect:
    name = contract.metadata_engine().dialect.name
    if name not in DIALECTS:
        raise SystemExit(f"the metadata database is {name}, which no autoscaler can ask")
    return DIALECTS[name]


def _row(connection: Connection, dialect: Dialect, pool: Pool, demand: Demand) -> dict[str, str]:
    wanted = _ask(connection, trigger_query(dialect, demand))
    return {
        "pool": pool.name,
        "queues": ", ".join(pool.queues),
        "in_flight": str(_ask(connection, in_flight_query(dialect, demand))),
        "concurrency": str(pool.concurrency),
        "wanted": str(wanted),
        "min": str(pool.min_replicas),
        "max": str(pool.max_replicas),
        "replicas": str(min(max(wanted, pool.min_replicas), pool.max_replicas)),
    }


def _ask(connection: Connection, query: str) -> int:
    # As the autoscaler sends it: a % is no placeholder.
    plain = connection.execution_options(no_parameters=True)
    return int(plain.exec_driver_sql(query).scalar_one())
