"""Reads the routes file and builds the routing table.

Raises ``ConfigError`` for a file that is missing or wrong, so that the
executor can let attempts wait and read it again. Called by the executor and
by the ``airflow hybrid`` commands.
"""

from pathlib import Path

from hybrid_executor.model.errors import ConfigError
from hybrid_executor.options import SECTION
from hybrid_executor.pods.overlay import defaults_problems
from hybrid_executor.routing import QueueRule, RoutingTable, kubernetes_rules, parse_routes
from hybrid_executor.settings.values import Settings


def load_routing(settings: Settings) -> RoutingTable:
    """Return the table: routes file, ``kubernetes_queues``, Airflow 2's queue, then Celery."""
    airflow2 = (settings.airflow2_kubernetes_queue,) if settings.airflow2_kubernetes_queue else ()
    return RoutingTable(
        (
            *_file_rules(settings.routes_file),
            *kubernetes_rules(settings.kubernetes_queues, f"[{SECTION}] kubernetes_queues"),
            *kubernetes_rules(airflow2, "[celery_kubernetes_executor] kubernetes_queue"),
        )
    )


def _file_rules(path: str | None) -> tuple[QueueRule, ...]:
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
    return parse_routes(text, path, defaults_problems)
