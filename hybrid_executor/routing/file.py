"""Reads the text of a routes file: YAML or JSON, version 1.

    version: 1
    routes:
      - queue: [gpu-*, ml]
        backend: kubernetes
        pod_template: gpu.yaml          # optional; relative to the routes file
        pod: {spec: {priorityClassName: high}}   # optional; laid over the template
        retry_on: [Evicted, NodeLost]   # optional; deaths that cost no retry of the task
        cluster: eu                     # optional; of the clusters file
        namespace: research             # optional; one that is watched there
        execution_api_server_url: https://airflow.example.org/execution/   # optional; as its pods reach it
        retry_limit: 3                  # of so many tries in a row
        fatal_wait_s: 600               # optional; for a missing image or secret

Decides what is wrong with it and says everything at once, each problem with
its line; never opens a file (neither this one nor the pod templates). Called
by ``hybrid_executor.settings``.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from hybrid_executor.model.attempt import BackendName, Route
from hybrid_executor.model.reason import RESTARTABLE, RESTARTABLE_ON_WORKERS, RESTARTABLE_PODS, Reason
from hybrid_executor.routing.clusters import cluster_of
from hybrid_executor.routing.document import (
    HttpAddress,
    OneOrMore,
    Path,
    Problem,
    Strict,
    Text,
    as_list,
    duplicates,
    read,
    refuse,
    shape,
    unknown,
)
from hybrid_executor.routing.globs import covers
from hybrid_executor.routing.table import QueueRule

#: Keys of a rule that a later version will define; refused by name so that no file means two things.
RESERVED_KEYS = ("limits",)
#: ``retry_limit`` where a rule gives none.
RETRY_LIMIT = 3
#: Keys that mean something for a pod alone.
POD_KEYS = (
    "cluster",
    "namespace",
    "execution_api_server_url",
    "pod_template",
    "pod",
    "fatal_wait_s",
)
#: What may cost no retry, by what the task ran on.
FORGIVABLE = {BackendName.CELERY: RESTARTABLE_ON_WORKERS, BackendName.KUBERNETES: RESTARTABLE_PODS}

#: Says what is wrong with a rule that has its shape, each problem with its path inside.
CheckRule = Callable[[Mapping[str, Any]], Iterable[Problem]]


class _Pod(Strict):
    """The top of a partial pod manifest; what is inside is the Kubernetes API's to judge."""

    apiVersion: Literal["v1"] | None = None  # noqa: N815 - the manifest's own key
    kind: Literal["Pod"] | None = None
    metadata: dict[Any, Any] | None = None
    spec: dict[Any, Any] | None = None


class _Rule(Strict):
    queue: OneOrMore
    backend: Literal["celery", "kubernetes"]
    cluster: Text | None = None
    namespace: Text | None = None
    execution_api_server_url: HttpAddress | None = None
    pod_template: Text | None = None
    pod: _Pod | None = None
    #: ``model.reason.RESTARTABLE``, spelled out for the message.
    retry_on: (
        Annotated[
            list[Literal["Evicted", "Preempted", "NodeLost", "OOMKilled", "WorkerLost"]],
            BeforeValidator(as_list),
            Field(min_length=1),
        ]
        | None
    ) = None
    retry_limit: Annotated[int, Field(ge=1)] | None = None
    fatal_wait_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class _File(Strict):
    version: Literal[1]
    routes: list[_Rule]


def parse_routes(text: str, source: str, check: CheckRule = lambda _rule: ()) -> tuple[QueueRule, ...]:
    """Return the rules of a routes file, in order.

    ``source`` is the file's path: it stands in messages and is what relative
    pod templates are relative to. Raises ``ConfigError`` with every problem.
    """
    data, tree = read(text, source, "routes file")
    problems = [*shape(data, _File, _sentence), *_meaning(data), *duplicates(tree)]
    refuse(source, tree, problems or _checked(data, check), _where)
    return tuple(_rules(_File.model_validate(data), source))


def _rules(file: _File, source: str) -> Iterator[QueueRule]:
    path = PurePath(source)
    for number, rule in enumerate(file.routes, start=1):
        template = str(path.parent / rule.pod_template) if rule.pod_template else None
        for pattern in rule.queue:
            yield QueueRule(
                pattern,
                Route(
                    backend=BackendName(rule.backend),
                    rule=f"{path.name} rule {number}: queue {pattern}",
                    cluster=cluster_of(rule.cluster),
                    namespace=rule.namespace,
                    execution_api_server_url=rule.execution_api_server_url,
                    pod_template_file=template,
                    pod_defaults=rule.pod.model_dump(exclude_unset=True) if rule.pod else None,
                    retry_on=frozenset(Reason(name) for name in rule.retry_on or ()),
                    retry_limit=(rule.retry_limit or RETRY_LIMIT) if rule.retry_on else 0,
                    fatal_wait_s=rule.fatal_wait_s,
                ),
            )


def _sentence(kind: str, path: Path, context: Mapping[str, Any]) -> str | None:  # noqa: ARG001
    name = path[-1] if path else "the file"
    if kind == "extra_forbidden" and name in RESERVED_KEYS and len(path) <= 3:
        return f"'{name}' is reserved for a later version; remove it"
    if kind == "extra_forbidden":
        return unknown(path, _model_at(path))
    if kind in ("string_too_short", "too_short") and "queue" in path:
        return "must not be empty; name a queue, or * for every queue"
    return None


def _model_at(path: Path) -> type[BaseModel]:
    if path[:1] != ("routes",):
        return _File
    return _Pod if "pod" in path else _Rule


def _meaning(data: Any) -> Iterator[Problem]:
    """What no schema says: keys that don't go together, rules that can never match.

    Looks at every rule that can be read, so that one message holds these too.
    """
    routes = data.get("routes") if isinstance(data, dict) else None
    earlier: list[tuple[int, list[str]]] = []
    for index, rule in enumerate(routes if isinstance(routes, list) else []):
        if not isinstance(rule, dict):
            continue
        yield from _keys_of_backend(index, rule)
        yield from _not_json(rule.get("pod"), ("routes", index, "pod"))
        patterns = as_list(rule.get("queue"))
        if isinstance(patterns, list) and patterns and all(isinstance(p, str) and p for p in patterns):
            if why := _never_matches(earlier, patterns):
                yield ("routes", index, "queue"), f"can never match: {why}"
            earlier.append((index + 1, patterns))


def _keys_of_backend(index: int, rule: Mapping[str, Any]) -> Iterator[Problem]:
    for key in POD_KEYS:
        if key in rule and rule.get("backend") == BackendName.CELERY:
            yield ("routes", index, key), "is for backend kubernetes; remove it or change the backend"
    for backend, forgivable in FORGIVABLE.items():
        others = _named(rule.get("retry_on"), RESTARTABLE - forgivable)
        if others and rule.get("backend") == backend:
            known = ", ".join(sorted(forgivable))
            yield ("routes", index, "retry_on"), f"{others} is no end on this backend; it has {known}"
    if "retry_limit" in rule and "retry_on" not in rule:
        yield ("routes", index, "retry_limit"), "has no effect without retry_on; add that or remove it"


def _named(value: Any, names: Collection[str]) -> str:
    """Which of the names stand there, one or a list; in words."""
    values = as_list(value)
    return ", ".join(sorted(name for name in names if name in values)) if isinstance(values, list) else ""


def _checked(data: Any, check: CheckRule) -> Iterator[Problem]:
    """What the caller knows of rules that are in order otherwise."""
    for index, rule in enumerate(data["routes"]):
        for path, message in check(rule):
            yield ("routes", index, *path), message


def _not_json(value: Any, path: Path) -> Iterator[Problem]:
    """YAML's own values, such as dates, and keys that are no text: no manifest can hold them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield (*path, str(key)), "this key must be text; put it in quotes"
            yield from _not_json(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _not_json(inner, (*path, index))
    elif isinstance(value, float) and not isfinite(value):
        yield path, "must be a finite number"
    elif not isinstance(value, str | int | float | None):
        yield path, "must be a value that JSON knows; put dates and times in quotes"


def _never_matches(earlier: Sequence[tuple[int, list[str]]], patterns: list[str]) -> str | None:
    live = [pattern for pattern in patterns if not covers([], pattern)]
    if not live:
        return f"{_quoted(patterns)} matches no queue at all; correct the pattern"
    for number, before in earlier:
        if all(covers(before, pattern) for pattern in live):
            return f"rule {number} ({_quoted(before)}) takes {_quoted(live)} first; move it up or remove it"
    everything = [pattern for _, before in earlier for pattern in before]
    if all(covers(everything, pattern) for pattern in live):
        return f"the rules before it together take {_quoted(live)}; move this rule up or remove it"
    return None


def _quoted(patterns: Sequence[str]) -> str:
    return ", ".join(repr(pattern) for pattern in patterns)


def _where(path: Path) -> str:
    """``rule 2, queue: `` for what lies in a rule, the key itself for what lies above."""
    if path[:1] == ("routes",) and len(path) > 1 and isinstance(path[1], int):
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[2:])
        inside = "".join(parts).removeprefix(".")
        return f"rule {path[1] + 1}, {inside}: " if inside else f"rule {path[1] + 1}: "
    return f"{'.'.join(str(part) for part in path)}: " if path else ""
