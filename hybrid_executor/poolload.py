"""What each pool has in flight, and how many workers an autoscaler would give it, by its own query.

Asks the metadata database and no cluster: how many workers there are is
Kubernetes' to say. ``airflow hybrid scaling`` and the page in Airflow's UI call it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from hybrid_executor.ledger.database import translated
from hybrid_executor.routing import Pool
from hybrid_executor.scaling import Demand, Dialect, in_flight_query, trigger_query

#: What SQLAlchemy calls the databases that an autoscaler can ask.
DIALECTS: dict[str, Dialect] = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLoad:
    """One pool at one time."""

    pool: Pool
    #: Attempts that wait for its workers or run on them.
    in_flight: int
    #: Workers that would have all of it in hand at once.
    wanted: int

    @property
    def replicas(self) -> int:
        """What an autoscaler makes of ``wanted``."""
        return min(max(self.wanted, self.pool.min_replicas), self.pool.max_replicas)


def pool_loads(engine: Engine, dialect: Dialect, pools: Iterable[tuple[Pool, Demand]]) -> list[PoolLoad]:
    """Two queries for each pool; raises ``LedgerUnavailable``."""
    with translated(), engine.connect() as connection:
        return [
            PoolLoad(
                pool=pool,
                in_flight=_ask(connection, in_flight_query(dialect, demand)),
                wanted=_ask(connection, trigger_query(dialect, demand)),
            )
            for pool, demand in pools
        ]


def _ask(connection: Connection, query: str) -> int:
    # As the autoscaler sends it: a % is no placeholder.
    plain = connection.execution_options(no_parameters=True)
    return int(plain.exec_driver_sql(query).scalar_one())
