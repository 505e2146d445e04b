"""Lays a route's ``pod_defaults`` over a template.

The rules are those of a strategic merge, as ``kubectl patch`` has them:
mappings merge, null removes, lists of named things merge by name, other lists
are replaced. Two differ because it helps: tolerations and ``envFrom`` are
appended (a queue adds to what the template tolerates), and an item of ``env``
or ``volumes`` replaces its namesake whole (it has one source, not two merged).
Called by the keeper of templates; ``defaults_problems`` by whoever reads the
routes file as well.
"""

import json
from collections.abc import Mapping
from typing import Any

from hybrid_executor.model.errors import ConfigError
from hybrid_executor.pods.fields import STRING_MAPS, Path, as_client_reads
from hybrid_executor.pods.template import PodTemplate, field_name, manifest_problems

Problem = tuple[Path, str]

_MERGED_BY = {
    "containers": "name",
    "initContainers": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
_REPLACED_BY = {"env": "name", "volumes": "name", "imagePullSecrets": "name"}
_APPENDED = frozenset({"tolerations", "envFrom"})
#: What tells the items of a list from each other, by the list's name.
MERGED_BY = {**_MERGED_BY, **_REPLACED_BY}
#: A partial manifest may say what kind of thing it is.
_TOP_LEVEL = frozenset({"apiVersion", "kind", "metadata", "spec"})
_MAPPINGS = ("metadata", "spec")


def with_defaults(template: PodTemplate, defaults: Mapping[str, Any], rule: str) -> PodTemplate:
    """The template of a route; ``ConfigError`` names the rule and every field that does not fit."""
    problems = defaults_problems(defaults)
    merged: Any = None
    if not problems:
        # Read as a template is, but only now: until the merge a null removes.
        merged = as_client_reads(lay_over(template.document(), defaults), lambda _path, _message: None)
        problems = manifest_problems(merged)
    if problems:
        raise ConfigError([f"{rule}, pod: {field_name(path)}: {message}" for path, message in problems])
    return PodTemplate(template.source, json.dumps(merged))


def lay_over(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``overlay`` merged into it; shares parts with both, changes neither."""
    merged = dict(base)
    for key, value in overlay.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(key, merged.get(key), value)
    return merged


def _merged(key: str, base: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return lay_over(base if isinstance(base, Mapping) else {}, value)
    if isinstance(value, list) and isinstance(base, list):
        if key in _APPENDED:
            return [*base, *(item for item in value if item not in base)]
        if key in MERGED_BY:
            return _merged_by(MERGED_BY[key], base, value, whole=key in _REPLACED_BY)
    return value


def _merged_by(name: str, base: list[Any], value: list[Any], *, whole: bool) -> list[Any]:
    merged = {_name_of(item, name, index): item for index, item in enumerate(base)}
    for item in value:
        old = {} if whole else merged.get(item[name], {})
        merged[item[name]] = lay_over(old, item)
    return list(merged.values())


def _name_of(item: Any, name: str, index: int) -> str | int:
    value = item.get(name) if isinstance(item, Mapping) else None
    return value if isinstance(value, str | int) else index


def defaults_problems(defaults: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with ``pod_defaults`` whatever the template, with the field; empty if nothing is."""
    problems: list[Problem] = []
    as_client_reads(dict(defaults), lambda path, message: problems.append((path, message)))
    known = ", ".join(sorted(_TOP_LEVEL))
    unknown = sorted(defaults.keys() - _TOP_LEVEL)
    problems.extend(((key,), f"unknown; pod_defaults have {known}") for key in unknown)
    for key in _MAPPINGS:
        value = defaults.get(key, {})
        if isinstance(value, Mapping):
            problems.extend(_shape_problems(value, (key,)))
        else:
            problems.append(((key,), "must be a mapping"))
    return problems


def _shape_problems(value: Mapping[str, Any], path: Path) -> list[Problem]:
    problems = []
    for key, item in value.items():
        here = (*path, key)
        if key in MERGED_BY or key in _APPENDED:
            problems.extend(_list_problems(key, item, here))
        elif isinstance(item, Mapping) and key not in STRING_MAPS:  # a label may be named `env`
            problems.extend(_shape_problems(item, here))
    return problems


def _list_problems(key: str, items: Any, path: Path) -> list[Problem]:
    if items is None:
        return [(path, "must not be removed: `base` runs the task")] if path == ("spec", "containers") else []
    if not isinstance(items, list):
        return [(path, "must be a list")]
    problems: list[Problem] = []
    for index, item in enumerate(items):
        wanted = MERGED_BY.get(key)
        if not isinstance(item, Mapping) or (wanted and not isinstance(item.get(wanted), str | int)):
            needs = f" with {wanted}, by which it is merged" if wanted else ""
            problems.append(((*path, index), f"must be a mapping{needs}"))
        else:
            problems.extend(_shape_problems(item, (*path, index)))
    return problems
