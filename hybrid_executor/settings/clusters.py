"""Reads the clusters file into the configurations that the Kubernetes backend takes.

Never raises: a file that is missing or wrong becomes lines of problems, and its
clusters stay unknown, which the routes that name them then say too. A
kubeconfig that is missing or lacks the context is told as well, and its cluster
stays known: what goes there waits, for the file may still come. Called by
``settings.load``.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.options import SECTION
from hybrid_executor.routing import ClusterEntry, parse_clusters
from hybrid_executor.settings.reader import Reader
from hybrid_executor.settings.values import Cluster


def load_clusters(read: Reader, path: str | None, base: KubernetesConfig) -> tuple[Cluster, ...]:
    """The clusters of the file; what it does not say is as in ``base``, ``[kubernetes_executor]``."""
    entries = read.file(SECTION, "clusters_file", path, parse_clusters)
    read.problems.extend(problem for entry in entries for problem in _kubeconfig_problems(entry, str(path)))
    return tuple(_cluster(entry, base) for entry in entries)


def _cluster(entry: ClusterEntry, base: KubernetesConfig) -> Cluster:
    return Cluster(
        kubernetes=replace(
            base,
            cluster=entry.name,
            namespace=entry.namespace,
            scopes=entry.namespaces,
            in_cluster=False,
            config_file=entry.kubeconfig,
            cluster_context=entry.context,
            # Of these the kubeconfig speaks for itself.
            verify_ssl=True,
            ssl_ca_cert=None,
            cluster_view=base.cluster_view if entry.cluster_view is None else entry.cluster_view,
        ),
        execution_api_server_url=entry.execution_api_server_url,
    )


def _kubeconfig_problems(entry: ClusterEntry, path: str) -> Iterator[str]:
    place = f"{path}: cluster {entry.name}"
    try:
        known = yaml.safe_load(Path(entry.kubeconfig).read_text(encoding="utf-8"))
        contexts = [str(context["name"]) for context in known["contexts"]]
    except OSError as error:
        yield f"{place}, kubeconfig: {entry.kubeconfig} can't be read ({error.strerror}); tasks for it wait"
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        # Its text holds credentials, so what is wrong with it is not quoted.
        yield f"{place}, kubeconfig: {entry.kubeconfig} is no kubeconfig with contexts; tasks for it wait"
    else:
        context = entry.context or known.get("current-context")
        if context not in contexts:
            have = f"{entry.kubeconfig} (it has: {', '.join(contexts)})"
            what = f"{context!r} is not in {have}" if context else f"name one of {have}"
            yield f"{place}, context: {what}; tasks for it wait"
