"""``airflow hybrid pods``: the pods of this Airflow with their tasks, and what holds them up.

Asks the API servers alone, with the right to list and nothing else; no database.
"""

from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.inventory import Inventory, attempts_of
from hybrid_executor.cli.clusters import ask, chosen
from hybrid_executor.cli.routes import show
from hybrid_executor.durations import in_words
from hybrid_executor.naming import shown_cluster
from hybrid_executor.pods.inventory import PodSummary, summarise
from hybrid_executor.settings import load_settings


@suppress_logs_and_warning
@providers_configuration_loaded
def pods(args: Namespace) -> None:
    """Print one row per pod, the oldest first; exits with 1 if a cluster does not answer."""
    settings = load_settings()
    answers = ask(chosen(settings, args.cluster), lambda api, config: _collect(api, config, args.namespace))
    found = [pod for page in answers.found for pod in page if args.all or pod.ended_at is None]
    found.sort(key=_age_order)
    now = datetime.now(UTC)
    if args.output in ("json", "yaml"):
        rows = [_record(pod, now) for pod in found]
    else:
        rows = [_row(pod, now, several=bool(settings.clusters)) for pod in found]
    show(rows, args.output)
    answers.exit_if_incomplete()


async def summaries(
    api: Inventory, config: KubernetesConfig, namespaces: Sequence[str] | None
) -> AsyncIterator[list[PodSummary]]:
    """The pods of this Airflow, page by page, in the namespaces given or else in those of the settings."""
    for namespace in namespaces or config.watched:
        async for page in api.list_pages(namespace, attempts_of(config)):
            yield [summarise(pod) for pod in page]


async def _collect(
    api: Inventory, config: KubernetesConfig, namespaces: Sequence[str] | None
) -> list[PodSummary]:
    return [pod async for page in summaries(api, config, namespaces) for pod in page]


def _age_order(pod: PodSummary) -> tuple[datetime, str]:
    return pod.created_at or datetime.max.replace(tzinfo=UTC), pod.external_name


def _row(pod: PodSummary, now: datetime, *, several: bool) -> dict[str, str]:
    """What fits on a line; the cluster where there are ``several``."""
    return {
        **({"cluster": shown_cluster(pod.cluster)} if several else {}),
        "namespace": pod.namespace,
        "pod": pod.name,
        **_task(pod),
        "phase": str(pod.phase),
        "age": in_words(now - pod.created_at) if pod.created_at else "",
        "reason": pod.reason,
        "node": pod.node or "",
    }


def _record(pod: PodSummary, now: datetime) -> dict[str, str]:
    """What a program may want besides."""
    return _row(pod, now, several=True) | {
        "attempt": pod.submission.attempt_id if pod.submission else "",
        "submission": str(pod.submission.number) if pod.submission else "",
        "scheduler_job": pod.owner or "",
        "created_at": pod.created_at.isoformat() if pod.created_at else "",
        "ended_at": pod.ended_at.isoformat() if pod.ended_at else "",
    }


def _task(pod: PodSummary) -> dict[str, str]:
    if pod.address is None:
        return dict.fromkeys(("dag_id", "task_id", "run_id", "map_index", "try_number"), "")
    return {
        "dag_id": pod.address.dag_id,
        "task_id": pod.address.task_id,
        "run_id": pod.address.run_id,
        "map_index": str(pod.address.map_index) if pod.address.map_index >= 0 else "",
        "try_number": str(pod.address.try_number),
    }
