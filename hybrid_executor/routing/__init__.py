"""Which backend, cluster and workers a queue goes to: the routing table, the files that say so, globs.

Pure: text and values in, values or one ``ConfigError`` out. Reading the file
is the business of ``hybrid_executor.settings``; the executor and the
``airflow hybrid`` commands ask the table.
"""

from hybrid_executor.routing.clusters import ClusterEntry, parse_clusters
from hybrid_executor.routing.file import RESERVED_KEYS, parse_routes
from hybrid_executor.routing.pools import Pool, parse_pools
from hybrid_executor.routing.table import QueueRule, RoutingTable, kubernetes_rules

__all__ = [
    "RESERVED_KEYS",
    "ClusterEntry",
    "Pool",
    "QueueRule",
    "RoutingTable",
    "kubernetes_rules",
    "parse_clusters",
    "parse_pools",
    "parse_routes",
]
