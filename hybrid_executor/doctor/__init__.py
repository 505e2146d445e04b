"""Checks everything that the executor needs: settings, files, versions, connections, permissions, migrations.

Each check is a function that yields findings, looks but never changes
anything that counts, waits a few seconds at most, and prints no secret. Called by
``airflow hybrid doctor``.
"""

from collections.abc import Iterator

from hybrid_executor.doctor import configured, database, kubernetes, servers
from hybrid_executor.doctor.finding import Finding
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.settings import Settings

__all__ = ["Finding", "examine"]


def examine(settings: Settings) -> Iterator[Finding]:
    """Run every check; a finding comes as soon as it is known."""
    yield from configured.settings(settings)
    yield configured.versions()
    table = yield from configured.routes(settings)
    yield from configured.pod_templates(settings, table)
    yield from servers.celery(settings)
    if table is None or any(rule.route.backend is BackendName.KUBERNETES for rule in table.rows()):
        for config in settings.every_cluster.values():
            yield from kubernetes.cluster(settings, config)
    yield from servers.live(settings)
    yield from database.metadata(settings, table)
