"""What Airflow's provider discovery reads: executors, options, commands, plugins, DB managers.

Airflow loads this in every process before its configuration is complete, so
it imports nothing of Airflow and nothing heavy.
"""

from typing import Any

from hybrid_executor.options import OPTIONS, SECTION, SECTION_DESCRIPTION


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata; the entry point ``apache_airflow_provider`` names this.

    The plugin is not in it: Airflow 3.3 loads the plugins of providers only
    with ``[core] lazy_discover_providers`` off, and reports one that comes by
    both ways as an error. It has an entry point ``airflow.plugins`` instead.
    """
    return {
        "package-name": "airflow-hybrid-executor",
        "name": "Hybrid executor",
        "description": "One executor, two backends: Kubernetes pods by queue, Celery workers for the rest.",
        "executors": ["hybrid_executor.HybridExecutor"],
        "cli": ["hybrid_executor.cli.definition.get_cli_commands"],
        "config": {
            SECTION: {
                "description": SECTION_DESCRIPTION,
                "options": {option.name: option.metadata() for option in OPTIONS},
            }
        },
        "db-managers": ["hybrid_executor.ledger.manager.LedgerDBManager"],
    }
