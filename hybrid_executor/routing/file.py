"""Reads the text of a routes file: YAML or JSON, version 1.

    version: 1
    routes:
      - queue: [gpu-*, ml]
        backend: kubernetes
        pod_template: gpu.yaml          # optional; relative to the routes file
        pod: {spec: {priorityClassName: high}}   # optional; laid over the template
        retry_on: [Evicted, NodeLost]   # optional; deaths that cost no retry of the task
        retry_limit: 3                  # of so many tries in a row
        fatal_wait_s: 600               # optional; for a missing image or secret

Decides what is wrong with it and says everything at once, each problem with
its line; never opens a file (neither this one nor the pod templates). Called
by ``hybrid_executor.settings``.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import PurePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from yaml.reader import ReaderError

from hybrid_executor.model.attempt import BackendName, Route
from hybrid_executor.model.errors import ConfigError
from hybrid_executor.model.reason import Reason
from hybrid_executor.routing.globs import covers
from hybrid_executor.routing.table import QueueRule

#: Keys of a rule that a later version will define; refused by name so that no file means two things.
RESERVED_KEYS = ("namespace", "cluster", "limits")
#: ``retry_limit`` where a rule gives none.
RETRY_LIMIT = 3
#: Keys that mean something for a pod alone.
POD_KEYS = ("pod_template", "pod", "retry_on", "retry_limit", "fatal_wait_s")

Path = tuple[str | int, ...]
Problem = tuple[Path, str]
#: Says what is wrong with a rule's ``pod``, each problem with its path inside.
CheckPod = Callable[[Mapping[str, Any]], Iterable[Problem]]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Pattern = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Pod(_Strict):
    """The top of a partial pod manifest; what is inside is the Kubernetes API's to judge."""

    apiVersion: Literal["v1"] | None = None  # noqa: N815 - the manifest's own key
    kind: Literal["Pod"] | None = None
    metadata: dict[Any, Any] | None = None
    spec: dict[Any, Any] | None = None


class _Rule(_Strict):
    queue: Annotated[list[Pattern], BeforeValidator(_as_list), Field(min_length=1)]
    backend: Literal["celery", "kubernetes"]
    pod_template: Annotated[str, Field(min_length=1)] | None = None
    pod: _Pod | None = None
    #: ``model.reason.RESTARTABLE``, spelled out for the message.
    retry_on: (
        Annotated[
            list[Literal["Evicted", "Preempted", "NodeLost", "OOMKilled"]],
            BeforeValidator(_as_list),
            Field(min_length=1),
        ]
        | None
    ) = None
    retry_limit: Annotated[int, Field(ge=1)] | None = None
    fatal_wait_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class _File(_Strict):
    version: Literal[1]
    routes: list[_Rule]


def parse_routes(text: str, source: str, check_pod: CheckPod = lambda _pod: ()) -> tuple[QueueRule, ...]:
    """Return the rules of a routes file, in order.

    ``source`` is the file's path: it stands in messages and is what relative
    pod templates are relative to. Raises ``ConfigError`` with every problem.
    """
    data, tree = _read(text, source)
    problems = [*_shape(data), *_meaning(data), *_duplicates(tree)]
    if not problems:
        problems = list(_pods(data, check_pod))
    if problems:
        located = sorted((_line(tree, path), _where(path), what) for path, what in problems)
        raise ConfigError([f"{source}:{line}: {where}{what}" for line, where, what in located])
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
                    pod_template_file=template,
                    pod_defaults=rule.pod.model_dump(exclude_unset=True) if rule.pod else None,
                    retry_on=frozenset(Reason(name) for name in rule.retry_on or ()),
                    retry_limit=(rule.retry_limit or RETRY_LIMIT) if rule.retry_on else 0,
                    fatal_wait_s=rule.fatal_wait_s,
                ),
            )


def _read(text: str, source: str) -> tuple[Any, yaml.Node | None]:
    """Return the data and the tree that knows the lines."""
    if source.endswith(".json"):
        return _read_json(text, source)
    try:
        loader = yaml.SafeLoader(text)
        tree = loader.get_single_node()
        return (loader.construct_document(tree) if tree else None), tree
    except yaml.YAMLError as error:
        raise ConfigError([_syntax(error, text, source)]) from error
    except RecursionError as error:
        raise ConfigError([f"{source}:1: is nested too deeply to be a routes file"]) from error
    except ValueError as error:  # what YAML takes for a date or a number and Python doesn't
        raise ConfigError([f"{source}:1: holds a value that can't be read: {error}"]) from error


def _read_json(text: str, source: str) -> tuple[Any, yaml.Node | None]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError([f"{source}:{error.lineno}: is not valid JSON: {error.msg}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{source}:1: is nested too deeply to be a routes file"]) from error
    try:
        # JSON allows a tab only between tokens, where YAML doesn't allow one.
        return data, yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return data, None  # valid JSON that is no YAML: only the line numbers are lost


def _syntax(error: yaml.YAMLError, text: str, source: str) -> str:
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{source}:{line}: is not valid YAML: the character U+{error.character:04X} is not allowed"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    what = getattr(error, "problem", None) or str(error)
    return f"{source}:{mark.line + 1 if mark else 1}: is not valid YAML: {what}"


def _shape(data: Any) -> Iterator[Problem]:
    """What pydantic finds: missing and unknown keys, wrong types and values."""
    try:
        _File.model_validate({} if data is None else data)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            path = found["loc"]
            yield path, _sentence(found["type"], path, found["msg"], found.get("ctx", {}))


def _sentence(kind: str, path: Path, message: str, context: Mapping[str, Any]) -> str:
    name = path[-1] if path else "the file"
    if kind == "extra_forbidden" and name in RESERVED_KEYS and len(path) <= 3:
        return f"'{name}' is reserved for a later version; remove it"
    if kind == "extra_forbidden":
        return f"unknown key '{name}'; remove it or correct its name (known: {_known(path)})"
    if kind == "missing":
        return f"'{name}' is missing; add it{' (version: 1)' if name == 'version' else ''}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind in ("string_too_short", "too_short"):
        return (
            "must not be empty; name a queue, or * for every queue"
            if "queue" in path
            else "must not be empty"
        )
    return _TYPES.get(kind, message[:1].lower() + message[1:])


_TYPES = {
    "string_type": "must be text; put it in quotes",
    "list_type": "must be a list",
    "model_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of keys to values",
}


def _known(path: Path) -> str:
    model: type[BaseModel] = _File
    if path[:1] == ("routes",):
        model = _Pod if "pod" in path else _Rule
    return ", ".join(model.model_fields)


def _meaning(data: Any) -> Iterator[Problem]:
    """What no schema says: keys that don't go together, rules that can never match.

    Looks at every rule that can be read, so that one message holds these too.
    """
    routes = data.get("routes") if isinstance(data, dict) else None
    earlier: list[tuple[int, list[str]]] = []
    for index, rule in enumerate(routes if isinstance(routes, list) else []):
        if not isinstance(rule, dict):
            continue
        yield from _pod_keys(index, rule)
        yield from _not_json(rule.get("pod"), ("routes", index, "pod"))
        patterns = _as_list(rule.get("queue"))
        if isinstance(patterns, list) and patterns and all(isinstance(p, str) and p for p in patterns):
            if why := _never_matches(earlier, patterns):
                yield ("routes", index, "queue"), f"can never match: {why}"
            earlier.append((index + 1, patterns))


def _pod_keys(index: int, rule: Mapping[str, Any]) -> Iterator[Problem]:
    for key in POD_KEYS:
        if key in rule and rule.get("backend") == BackendName.CELERY:
            yield ("routes", index, key), "is for backend kubernetes; remove it or change the backend"
    if "retry_limit" in rule and "retry_on" not in rule:
        yield ("routes", index, "retry_limit"), "has no effect without retry_on; add that or remove it"


def _pods(data: Any, check_pod: CheckPod) -> Iterator[Problem]:
    """What no pod may be, of rules that are in order otherwise."""
    for index, rule in enumerate(data["routes"]):
        for path, message in check_pod(rule.get("pod") or {}):
            yield ("routes", index, "pod", *path), message


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


def _duplicates(tree: yaml.Node | None, path: Path = ()) -> Iterator[Problem]:
    """Keys given twice: YAML and JSON would quietly take the last."""
    if isinstance(tree, yaml.SequenceNode):
        for index, child in enumerate(tree.value):
            yield from _duplicates(child, (*path, index))
    elif isinstance(tree, yaml.MappingNode):
        seen = set()
        for key, child in tree.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                yield (*path, key.value), "is given twice; keep one"
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
                yield from _duplicates(child, (*path, key.value))


def _where(path: Path) -> str:
    """``rule 2, queue: `` for what lies in a rule, the key itself for what lies above."""
    if path[:1] == ("routes",) and len(path) > 1 and isinstance(path[1], int):
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[2:])
        inside = "".join(parts).removeprefix(".")
        return f"rule {path[1] + 1}, {inside}: " if inside else f"rule {path[1] + 1}: "
    return f"{'.'.join(str(part) for part in path)}: " if path else ""


def _line(tree: yaml.Node | None, path: Path) -> int:
    """The line of the deepest node on the path; for a key, of the key and not of its value."""
    line = tree.start_mark.line if tree else 0
    for part in path:
        found = _child(tree, part)
        if found is None:
            break
        line, tree = found
    return line + 1


def _child(tree: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(tree, yaml.SequenceNode) and isinstance(part, int) and part < len(tree.value):
        return tree.value[part].start_mark.line, tree.value[part]
    if isinstance(tree, yaml.MappingNode):
        for key, child in reversed(tree.value):
            if key.value == part:
                return key.start_mark.line, child
    return None
