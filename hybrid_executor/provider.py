"""What Airflow's provider discovery reads: executors, options, commands, plugins, DB managers.

Airflow loads this in every process before its configuration is complete, so
it imports nothing of Airflow and nothing heavy.
"""

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata; the entry point ``apache_airflow_provider`` names this."""
    return {
        "package-name": "airflow-hybrid-executor",
        "name": "Hybrid executor",
        "description": "One executor, two backends: Kubernetes pods by queue, Celery workers for the rest.",
        "executors": ["hybrid_executor.HybridExecutor"],
        "cli": [],
        "db-managers": ["hybrid_executor.ledger.manager.LedgerDBManager"],
    }
