"""Lays a route's ``pod_defaults`` over a template.

The rules are those of a strategic merge, as ``kubectl patch`` has them:
mappings merge, null removes, lists of named things merge by name, other lists
are replaced. Two differ because it helps: tolerations and ``envFrom`` are
appended (a queue adds to what the template tolerates), and an item of ``env``
or ``volumes`` replaces its namesake whole (it has one source, not two merged).
Called by ``build``; ``defaults_problems`` by whoever reads the routes file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_executor.pods.fields import as_client_reads
from hybrid_executor.pods.template import field_name

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
_KEYED = {**_MERGED_BY, **_REPLACED_BY}
_TOP_LEVEL = frozenset({"metadata", "spec"})


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
        if key in _KEYED:
            return _merged_by(_KEYED[key], base, value, whole=key in _REPLACED_BY)
    return value


def _merged_by(name: str, base: list[Any], value: list[Any], *, whole: bool) -> list[Any]:
    merged = {item.get(name, index): item for index, item in enumerate(base)}
    for item in value:
        old = {} if whole else merged.get(item[name], {})
        merged[item[name]] = lay_over(old, item)
    return list(merged.values())


def defaults_problems(defaults: Mapping[str, Any]) -> list[str]:
    """What is wrong with ``pod_defaults``, one line each, named by field; empty if nothing is."""
    problems: list[str] = []
    as_client_reads(dict(defaults), lambda path, message: problems.append(f"{field_name(path)}: {message}"))
    problems.extend(
        f"{key}: pod_defaults takes {' and '.join(sorted(_TOP_LEVEL))} only"
        for key in sorted(defaults.keys() - _TOP_LEVEL)
    )
    for key in sorted(_TOP_LEVEL & defaults.keys()):
        if isinstance(defaults[key], Mapping):
            problems.extend(_shape_problems(defaults[key], (key,)))
        else:
            problems.append(f"{key}: must be a mapping")
    return problems


def _shape_problems(value: Mapping[str, Any], path: Sequence[str | int]) -> list[str]:
    problems = []
    for key, item in value.items():
        here = (*path, key)
        if key in _KEYED or key in _APPENDED:
            problems.extend(_list_problems(key, item, here))
        elif isinstance(item, Mapping):
            problems.extend(_shape_problems(item, here))
    return problems


def _list_problems(key: str, items: Any, path: tuple[str | int, ...]) -> list[str]:
    if items is None:
        return []
    if not isinstance(items, list):
        return [f"{field_name(path)}: must be a list"]
    problems = []
    for index, item in enumerate(items):
        wanted = _KEYED.get(key)
        if not isinstance(item, Mapping) or (wanted and item.get(wanted) is None):
            needs = f" with {wanted}, by which it is merged" if wanted else ""
            problems.append(f"{field_name((*path, index))}: must be a mapping{needs}")
        else:
            problems.extend(_shape_problems(item, (*path, index)))
    return problems
