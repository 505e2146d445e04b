"""Each cluster: whether it answers, and what it lets the executor do."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hybrid_executor.backends.celery.redaction import redacted
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.permissions import (
    NEEDED,
    NEEDED_FOR_LOGS,
    NEEDED_FOR_PODS,
    NEEDED_FOR_VIEW,
    NEEDED_FOR_WORKERS,
    Permissions,
)
from hybrid_executor.doctor.finding import TIMEOUT_S, Finding
from hybrid_executor.model.errors import HybridExecutorError
from hybrid_executor.settings import Settings

IN_SETTINGS = "[kubernetes_executor] in_cluster, config_file"


@dataclass(frozen=True, slots=True)
class _Lacking:
    """What the credentials are not allowed, as ``verb resource``."""

    #: By namespace (None: all): for task pods, and for the API server, which may have an account of its own.
    for_pods: dict[str | None, list[str]]
    for_logs: dict[str | None, list[str]]
    for_view: list[str]
    for_workers: list[str]


def cluster(settings: Settings, config: KubernetesConfig) -> Iterator[Finding]:
    """Whether it answers, and what it lets the executor do."""
    of = f" of cluster {config.cluster}" if config.cluster else ""
    try:
        lacking = asyncio.run(_ask(settings, config))
    except HybridExecutorError as error:
        where = f"{settings.clusters_file}, kubeconfig and context" if of else IN_SETTINGS
        remedy = f"check {where}, the credentials and the API server"
        yield Finding(f"Kubernetes API{of}", f"can't be used ({redacted(str(error))}); {remedy}")
        return
    yield Finding(f"Kubernetes API{of}")
    if lacking.for_view:
        what = f"not allowed in the whole cluster: {', '.join(lacking.for_view)}"
        remedy = "bind workers/rbac/cluster-view-clusterrole.yaml, or set cluster_view = False"
        yield Finding(f"cluster view{of}", f"{what}; {remedy}")
    if apart := workers_apart(config):
        what = f"not allowed: {', '.join(lacking.for_workers)}"
        remedy = "bind workers/rbac/pools-role.yaml there, or correct [hybrid_executor] workers_namespace"
        problem = f"{what}; {remedy}" if lacking.for_workers else None
        yield Finding(f"Kubernetes permissions for pools of workers in {apart}", problem)
    for scope, verbs in lacking.for_pods.items():
        problem = f"not allowed: {', '.join(verbs)}; give the scheduler's role these verbs" if verbs else None
        for_logs = ", ".join(lacking.for_logs[scope])
        note = f"the API server's account needs besides: {for_logs}" if for_logs else ""
        yield Finding(f"Kubernetes permissions in {scope or 'all namespaces'}{of}", problem, note)


def workers_apart(config: KubernetesConfig) -> str | None:
    """The namespace of pools, in the home cluster, where no task pods are watched."""
    namespace = None if config.cluster else config.workers_namespace
    return namespace if namespace and not config.watches(namespace) else None


async def _ask(settings: Settings, config: KubernetesConfig) -> _Lacking:
    """Everything over one connection. Raises ``ApiUnavailable``."""
    api = Permissions(replace(config, request_timeout_s=TIMEOUT_S))
    needed = NEEDED if settings.workload_secret else NEEDED_FOR_PODS
    apart = workers_apart(config)
    try:
        return _Lacking(
            for_pods={scope: await api.missing(scope, needed) for scope in config.watched},
            for_logs={scope: await api.missing(scope, NEEDED_FOR_LOGS) for scope in config.watched},
            for_view=await api.missing(None, NEEDED_FOR_VIEW) if config.cluster_view else [],
            for_workers=await api.missing(apart, NEEDED_FOR_WORKERS) if apart else [],
        )
    finally:
        await api.close()
