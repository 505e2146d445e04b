"""Which layer gave a pod each of its fields.

Compares the manifest after one layer with the manifest after the next: a
field belongs to the last layer that changed it, and what the executor seals
belongs to the seal whoever wrote it first. Items of a list are known by what
they are merged by (a container by its name, a mount by its path), so that an
item put in front of others takes none of their fields. Knows nothing of how
a pod is made; ``airflow hybrid explain --pod`` is its caller.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import yaml

from hybrid_executor.pods.fields import Path
from hybrid_executor.pods.overlay import MERGED_BY


class Layer(StrEnum):
    """What a pod is made of, in the order in which one goes over the other."""

    #: ``[kubernetes_executor] pod_template_file`` or the route's ``pod_template``.
    TEMPLATE = "template"
    #: The ``pod`` of the route.
    ROUTE = "route"
    #: The template that the task names, or ``[sdk] queue_to_coordinator``: in place of the two above.
    OWN_TEMPLATE = "own_template"
    EXECUTOR = "executor"
    POD_OVERRIDE = "pod_override"
    POD_MUTATION_HOOK = "pod_mutation_hook"
    SEAL = "seal"


#: Where comments stand at the latest, unless a line is longer.
_COMMENT_COLUMN = 72

Stage = tuple[Layer, Mapping[str, Any]]
Leaf = tuple[Path, tuple[str, ...], Any]


def layers_of(stages: Sequence[Stage], sealed: Collection[tuple[str, ...]] = ()) -> dict[Path, Layer]:
    """By path in the last stage's manifest: the layer that set it. A list of plain values is one field."""
    after = [(layer, {names: value for _, names, value in _leaves(manifest)}) for layer, manifest in stages]
    return {
        path: Layer.SEAL if any(names[: len(one)] == one for one in sealed) else _setter(names, after)
        for path, names, _ in _leaves(stages[-1][1])
    }


def _setter(names: tuple[str, ...], after: Sequence[tuple[Layer, Mapping[tuple[str, ...], Any]]]) -> Layer:
    *before, (setter, fields) = after
    for layer, earlier in reversed(before):
        if names not in earlier or earlier[names] != fields[names]:
            break
        setter = layer
    return setter


def _leaves(value: Any, path: Path = (), names: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every field: where it stands, where it stands by names, and its value."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key), (*names, key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        seen: list[str] = []
        for index, item in enumerate(value):
            name = _name(names[-1] if names else "", item)
            seen.append(name)
            again = f"#{seen.count(name)}" if seen.count(name) > 1 else ""
            yield from _leaves(item, (*path, index), (*names, name + again))
    else:
        yield path, names, value


def _name(field: str, item: Any) -> str:
    by = MERGED_BY.get(field)
    if by and isinstance(item, Mapping) and by in item:
        return str(item[by])
    return json.dumps(item, sort_keys=True)


def annotated(manifest: Mapping[str, Any], layers: Mapping[Path, Layer]) -> str:
    """The manifest as YAML, each field with its layer in a comment at the end of its line."""
    text = yaml.dump(dict(manifest), Dumper=_OneLine, sort_keys=False, width=float("inf"))
    lines, root = text.splitlines(), yaml.compose(text, Loader=yaml.SafeLoader)
    comments = {_line(root, path): layer for path, layer in layers.items()}
    width = min(max((len(lines[line]) for line in comments), default=0), _COMMENT_COLUMN)
    for line, layer in comments.items():
        lines[line] = f"{lines[line]:<{width}}  # {layer}"
    return "\n".join(lines) + "\n"


class _OneLine(yaml.SafeDumper):
    """Writes every value on one line; what breaks lines is escaped."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = '"' if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_OneLine.add_representer(str, _text)


def _line(node: Any, path: Path) -> int:
    """The line of a field; for a list, that of its key."""
    line: int = 0
    for part in path:
        if isinstance(node, yaml.MappingNode):
            key, node = next(pair for pair in node.value if pair[0].value == part)
            line = key.start_mark.line
        else:
            node = node.value[part]
            line = node.start_mark.line
    return line
