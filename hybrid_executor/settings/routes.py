"""Reads the routes file and builds the routing table.

Raises ``ConfigError`` for a file that is missing or wrong, so that the
executor can let attempts wait and read it again. Called by the executor and
by the ``airflow hybrid`` commands.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hybrid_executor.model.errors import ConfigError
from hybrid_executor.options import SECTION
from hybrid_executor.pods.overlay import defaults_problems
from hybrid_executor.routing import QueueRule, RoutingTable, kubernetes_rules, parse_routes
from hybrid_executor.routing.clusters import cluster_of
from hybrid_executor.routing.document import Problem
from hybrid_executor.settings.values import Settings


def load_routing(settings: Settings) -> RoutingTable:
    """Return the table: routes file, ``kubernetes_queues``, Airflow 2's queue, then Celery."""
    airflow2 = (settings.airflow2_kubernetes_queue,) if settings.airflow2_kubernetes_queue else ()
    return RoutingTable(
        (
            *_file_rules(settings),
            *kubernetes_rules(settings.kubernetes_queues, f"[{SECTION}] kubernetes_queues"),
            *kubernetes_rules(airflow2, "[celery_kubernetes_executor] kubernetes_queue"),
        )
    )


def _file_rules(settings: Settings) -> tuple[QueueRule, ...]:
    path = settings.routes_file
    if path is None:
        return ()
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            [f"{path}: can't be read ({error.strerror}); correct [{SECTION}] routes_file or the file"]
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text; write it as UTF-8"]) from error
    return parse_routes(text, path, lambda rule: _problems(rule, settings))


def _problems(rule: Mapping[str, Any], settings: Settings) -> Iterator[Problem]:
    """What no pod may be, and places that the settings do not have."""
    for path, message in defaults_problems(rule.get("pod") or {}):
        yield ("pod", *path), message
    cluster, namespace = cluster_of(rule.get("cluster")), rule.get("namespace")
    config = settings.every_cluster.get(cluster)
    if config is None:
        source = settings.clusters_file or f"[{SECTION}] clusters_file, which is not set"
        known = ", ".join(filter(None, settings.every_cluster)) or "none"
        yield ("cluster",), f"{cluster!r} is no cluster of {source} (it has: {known})"
    elif namespace and not config.watches(namespace):
        where = (
            f"namespaces of cluster {cluster} in {settings.clusters_file}"
            if cluster
            else "[kubernetes_executor] multi_namespace_mode_namespace_list, with multi_namespace_mode = True"
        )
        yield ("namespace",), f"{namespace!r} is not watched there; add it to {where}"
