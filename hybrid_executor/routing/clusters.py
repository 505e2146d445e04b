"""Reads the text of a clusters file: which clusters routes may send pods to besides the executor's own.

    version: 1
    clusters:
      eu:                               # as routes name it
        kubeconfig: eu.kubeconfig       # relative to the clusters file
        context: airflow                # optional; else the kubeconfig's current one
        namespace: airflow              # of its pods, unless their route names another
        namespaces: [airflow, research] # optional; what is watched: these, or "*" for all
        execution_api_server_url: https://airflow.example.org/execution/   # optional; as its pods reach it
        cluster_view: true              # optional; else [hybrid_executor] cluster_view

YAML or JSON, version 1. Says everything that is wrong at once, each problem
with its line; opens no file, neither this one nor a kubeconfig. Called by
``hybrid_executor.settings``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from pydantic import BaseModel

from hybrid_executor.naming import DEFAULT_CLUSTER
from hybrid_executor.routing.document import (
    HttpAddress,
    OneOrMore,
    Path,
    Problem,
    Strict,
    Text,
    duplicates,
    read,
    refuse,
    shape,
    unknown,
)

#: A cluster's name is a label's value and stands in log lines and metrics.
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
#: In place of a list of namespaces: all of them, in one watch.
EVERY_NAMESPACE = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterEntry:
    """One cluster of the file."""

    name: str
    #: A path; absolute if that of the file is.
    kubeconfig: str
    context: str | None
    namespace: str
    #: What is watched; None among them is every namespace.
    namespaces: tuple[str | None, ...]
    execution_api_server_url: str | None
    #: None is what the executor's own option says.
    cluster_view: bool | None


def cluster_of(name: str | None) -> str:
    """What a route's word for a cluster means: without one, or by its name, the executor's own is ""."""
    return "" if name in (None, DEFAULT_CLUSTER) else name


class _Cluster(Strict):
    kubeconfig: Text
    context: Text | None = None
    namespace: Text
    namespaces: OneOrMore | None = None
    execution_api_server_url: HttpAddress | None = None
    cluster_view: bool | None = None


class _File(Strict):
    version: Literal[1]
    clusters: dict[str, _Cluster]


def parse_clusters(text: str, source: str) -> tuple[ClusterEntry, ...]:
    """Return the clusters of a file; raises ``ConfigError`` with every problem.

    ``source`` is the file's path: it stands in messages and is what relative
    kubeconfigs are relative to.
    """
    data, tree = read(text, source, "clusters file")
    problems = [*shape(data, _File, _sentence), *_meaning(data), *duplicates(tree)]
    refuse(source, tree, problems, _where)
    folder = PurePath(source).parent
    return tuple(_entry(name, one, folder) for name, one in _File.model_validate(data).clusters.items())


def _entry(name: str, one: _Cluster, folder: PurePath) -> ClusterEntry:
    return ClusterEntry(
        name=name,
        kubeconfig=str(folder / one.kubeconfig),
        context=one.context,
        namespace=one.namespace,
        namespaces=_watched(one.namespace, one.namespaces or []),
        execution_api_server_url=one.execution_api_server_url,
        cluster_view=one.cluster_view,
    )


def _watched(namespace: str, namespaces: list[str]) -> tuple[str | None, ...]:
    if EVERY_NAMESPACE in namespaces:
        return (None,)
    return tuple(dict.fromkeys([namespace, *namespaces]))


def _sentence(kind: str, path: Path, context: Mapping[str, Any]) -> str | None:  # noqa: ARG001
    if kind == "extra_forbidden":
        model: type[BaseModel] = _Cluster if path[:1] == ("clusters",) else _File
        return unknown(path, model)
    return None


def _meaning(data: Any) -> Iterator[Problem]:
    """What no schema says: which names a cluster may have."""
    clusters = data.get("clusters") if isinstance(data, dict) else None
    for name in clusters if isinstance(clusters, dict) else ():
        if name == DEFAULT_CLUSTER:
            yield ("clusters", name), "is the name of the cluster of [kubernetes_executor]; choose another"
        elif not isinstance(name, str) or not NAME.fullmatch(name):
            yield (
                ("clusters", str(name)),
                "must be named by at most 63 lower case letters, digits and dashes, with no dash at an end",
            )


def _where(path: Path) -> str:
    """``cluster eu, context: `` for what lies in a cluster, the key itself for what lies above."""
    if path[:1] == ("clusters",) and len(path) > 1:
        inside = ".".join(str(part) for part in path[2:])
        return f"cluster {path[1]}, {inside}: " if inside else f"cluster {path[1]}: "
    return f"{'.'.join(str(part) for part in path)}: " if path else ""
