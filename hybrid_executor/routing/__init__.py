"""Which backend a queue goes to: the routing table, the routes file and its globs.

Pure: text and values in, values or one ``ConfigError`` out. Reading the file
is the business of ``hybrid_executor.settings``; the executor and the
``airflow hybrid`` commands ask the table.
"""

from hybrid_executor.routing.file import RESERVED_KEYS, parse_routes
from hybrid_executor.routing.table import QueueRule, RoutingTable, kubernetes_rules

__all__ = ["RESERVED_KEYS", "QueueRule", "RoutingTable", "kubernetes_rules", "parse_routes"]
