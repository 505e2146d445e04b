"""``airflow hybrid routes``: the routing table, in the order in which it is asked."""

import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence

from airflow.cli.simple_table import AirflowConsole
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from rich.markup import escape

from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.model.errors import ConfigError
from hybrid_executor.routing import QueueRule, RoutingTable
from hybrid_executor.settings import Settings, load_routing, load_settings


@suppress_logs_and_warning
@providers_configuration_loaded
def routes(args: Namespace) -> None:
    """Print the table; what is wrong with the settings and the pod templates goes to standard error."""
    settings = load_settings()
    tell((*settings.problems, *settings.notes))
    table = routing_or_exit(settings)
    show([_row(number, rule) for number, rule in enumerate(table.rows(), start=1)], args.output)
    problems = Templates(settings.pod_template_file).load(rule.route for rule in table.rows())
    if problems:
        tell(problems)
        raise SystemExit(
            "Until this is corrected, a scheduler uses the last good version of a template that it has seen,"
            " and tasks without one fail as InvalidPod."
        )


def _row(number: int, rule: QueueRule) -> dict[str, str]:
    return {
        "order": str(number),
        "queue": rule.pattern,
        "backend": str(rule.route.backend),
        "cluster": rule.route.cluster,
        "namespace": rule.route.namespace or "",
        "pod_template": rule.route.pod_template_file or "",
        "pod_defaults": "yes" if rule.route.pod_defaults else "",
        "retry_on": rule.route.forgives,
        "rule": rule.route.rule,
    }


def routing_or_exit(settings: Settings) -> RoutingTable:
    """Return the table, or print every problem of the routes file and exit with 1."""
    try:
        return load_routing(settings)
    except ConfigError as error:
        tell(error.problems)
        raise SystemExit(
            "Until this is corrected, every task waits with the reason RoutesInvalid."
        ) from error


def show(rows: Sequence[Mapping[str, str]], output: str) -> None:
    """Print rows in one of Airflow's formats. A table's cells are text: ``[core]`` is no markup."""
    as_text = escape if output == "table" else str
    cells = [{name: as_text(value) for name, value in row.items()} for row in rows]
    AirflowConsole().print_as(data=cells, output=output)


def tell(lines: Iterable[str]) -> None:
    """Print lines to standard error, so that what is piped stays clean."""
    for line in lines:
        print(line, file=sys.stderr)
