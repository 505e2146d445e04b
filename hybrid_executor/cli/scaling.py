"""``airflow hybrid scaling``: what each pool has in flight, and how many workers an autoscaler would give it.

The answers are those of the very query that the autoscaler asks. Changes
nothing and asks no cluster: how many workers there are is Kubernetes' to say.
"""

from argparse import Namespace
from collections.abc import Sequence

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor import contract
from hybrid_executor.cli.ledger import reading
from hybrid_executor.cli.routes import routing_or_exit, show, tell
from hybrid_executor.poolload import DIALECTS, PoolLoad, pool_loads
from hybrid_executor.routing import Pool
from hybrid_executor.scaling import Dialect, demand_of, trigger_query
from hybrid_executor.settings import Settings, load_settings


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
    with reading():
        loads = pool_loads(contract.metadata_engine(), dialect, zip(pools, demands, strict=True))
    show([_row(load) for load in loads], args.output)


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


def _row(load: PoolLoad) -> dict[str, str]:
    return {
        "pool": load.pool.name,
        "queues": ", ".join(load.pool.queues),
        "in_flight": str(load.in_flight),
        "concurrency": str(load.pool.concurrency),
        "wanted": str(load.wanted),
        "min": str(load.pool.min_replicas),
        "max": str(load.pool.max_replicas),
        "replicas": str(load.replicas),
    }
