"""The three patch formats: JSON merge patch, JSON patch, strategic merge patch.

Pure: each takes an object and a patch and returns a new object, leaving both
as they were. A patch that can't be applied is a ``PatchError``. The strategic
merge knows the merge keys of the kinds that are served, by the names of their
lists; an unknown list is replaced whole, as kube-apiserver does with atomic ones.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class PatchError(ValueError):
    """``malformed`` tells a patch that can't be read (400) from one that does not fit (422)."""

    def __init__(self, message: str, *, malformed: bool = False) -> None:
        super().__init__(message)
        self.malformed = malformed


def apply(media_type: str, target: dict[str, Any], patch: Any) -> dict[str, Any]:
    """Apply a patch of one of the three media types."""
    if media_type == JSON_PATCH:
        return json_patch(target, patch)
    if not isinstance(patch, dict):
        raise PatchError("patch must be a JSON object", malformed=True)
    merged = merge_patch(target, patch) if media_type == MERGE else strategic_merge(target, patch)
    if not isinstance(merged, dict):
        raise PatchError("patched object must be a JSON object")
    return merged


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def json_patch(target: dict[str, Any], operations: Any) -> dict[str, Any]:
    """RFC 6902: add, remove, replace, move, copy and test, all or nothing."""
    if not isinstance(operations, list):
        raise PatchError("a JSON patch is a list of operations", malformed=True)
    document: Any = copy.deepcopy(target)
    for operation in operations:
        document = _operate(document, operation)
    if not isinstance(document, dict):
        raise PatchError("patched object must be a JSON object")
    return document


def _operate(document: Any, operation: Any) -> Any:
    try:
        verb, path = operation["op"], _pointer(operation["path"])
        handler = _OPERATIONS[verb]
    except (KeyError, TypeError) as wrong:
        raise PatchError(f"not a JSON patch operation: {operation!r}", malformed=True) from wrong
    return handler(document, path, operation)


def _pointer(text: str) -> list[str]:
    if text == "":
        return []
    if not isinstance(text, str) or not text.startswith("/"):
        raise PatchError(f"not a JSON pointer: {text!r}", malformed=True)
    return [step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/")]


def _at(document: Any, path: Sequence[str]) -> Any:
    for step in path:
        document = document[_index(document, step)] if isinstance(document, list) else _member(document, step)
    return document


def _member(document: Any, step: str) -> Any:
    if not isinstance(document, dict) or step not in document:
        raise PatchError(f"the path member {step!r} does not exist")
    return document[step]


def _index(items: list[Any], step: str, *, adding: bool = False) -> int:
    if adding and step == "-":
        return len(items)
    limit = len(items) + adding
    if not step.isdigit() or int(step) >= limit:
        raise PatchError(f"the list index {step!r} is out of range")
    return int(step)


def _add(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    parent = _at(document, path[:-1])
    if isinstance(parent, list):
        parent.insert(_index(parent, path[-1], adding=True), value)
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise PatchError(f"the path member {path[-1]!r} has no parent to be added to")
    return document


def _remove(document: Any, path: Sequence[str]) -> Any:
    if not path:
        raise PatchError("the whole object can't be removed")
    parent = _at(document, path[:-1])
    if isinstance(parent, list):
        del parent[_index(parent, path[-1])]
    else:
        _member(parent, path[-1])
        del parent[path[-1]]
    return document


def _value(operation: Mapping[str, Any]) -> Any:
    if "value" not in operation:
        raise PatchError(f"a JSON patch operation without a value: {operation!r}", malformed=True)
    return copy.deepcopy(operation["value"])


def _source(operation: Mapping[str, Any]) -> list[str]:
    if "from" not in operation:
        raise PatchError(f"a JSON patch operation without 'from': {operation!r}", malformed=True)
    return _pointer(operation["from"])


def _replace(document: Any, path: Sequence[str], operation: Mapping[str, Any]) -> Any:
    value = _value(operation)
    _at(document, path)
    return _add(_remove(document, path), path, value) if path else value


def _move(document: Any, path: Sequence[str], operation: Mapping[str, Any]) -> Any:
    source = _source(operation)
    value = _at(document, source)
    return _add(_remove(document, source), path, value)


def _test(document: Any, path: Sequence[str], operation: Mapping[str, Any]) -> Any:
    if _at(document, path) != _value(operation):
        raise PatchError(f"testing value {'/' + '/'.join(path)} failed")
    return document


_OPERATIONS: Mapping[str, Callable[[Any, Sequence[str], Mapping[str, Any]], Any]] = {
    "add": lambda document, path, operation: _add(document, path, _value(operation)),
    "remove": lambda document, path, _: _remove(document, path),
    "replace": _replace,
    "move": _move,
    "copy": lambda document, path, operation: _add(
        document, path, copy.deepcopy(_at(document, _source(operation)))
    ),
    "test": _test,
}

#: The merge key of each list of objects, by the list's name.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "secrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "schedulingGates": "name",
    "resourceClaims": "name",
    "readinessGates": "conditionType",
    "conditions": "type",
    "addresses": "type",
    "podIPs": "ip",
    "hostIPs": "ip",
    "ownerReferences": "uid",
}
#: Lists of plain values that are merged as sets.
_SETS = frozenset({"finalizers", "podCIDRs"})
_DIRECTIVE = "$patch"


def strategic_merge(target: Any, patch: Mapping[str, Any]) -> Any:
    """Merge objects, and lists by their key; obey the patch's directives (``$patch``, ``$retainKeys``, …)."""
    directive = patch.get(_DIRECTIVE)
    if directive == "delete":
        return {}
    if directive == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != _DIRECTIVE}
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if not key.startswith("$"):
            _merge_field(result, key, value)
    for key, value in patch.items():
        _obey(result, key, value)
    return result


def _merge_field(result: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        result.pop(key, None)
    elif isinstance(value, Mapping):
        result[key] = strategic_merge(result.get(key), value)
    elif isinstance(value, list):
        result[key] = _merge_list(key, result.get(key), value)
    else:
        result[key] = value


def _obey(result: dict[str, Any], key: str, value: Any) -> None:
    if key.startswith("$deleteFromPrimitiveList/"):
        name = key.partition("/")[2]
        result[name] = [item for item in result.get(name) or [] if item not in value]
    elif key == "$retainKeys":
        for name in [name for name in result if name not in value]:
            del result[name]
    elif key.startswith("$setElementOrder/"):
        name = key.partition("/")[2]
        if name in result:
            result[name] = _ordered(result[name], value, _MERGE_KEYS.get(name))


def _ordered(items: list[Any], order: list[Any], merge_key: str | None) -> list[Any]:
    def identity(item: Any) -> Any:
        return item.get(merge_key) if merge_key and isinstance(item, Mapping) else item

    places = {identity(item): place for place, item in enumerate(order)}
    return sorted(items, key=lambda item: places.get(identity(item), len(places)))


def _merge_list(name: str, current: Any, patch: list[Any]) -> list[Any]:
    current = current if isinstance(current, list) else []
    if name in _SETS:
        return [*current, *(item for item in patch if item not in current)]
    merge_key = _MERGE_KEYS.get(name)
    if merge_key is None or not all(isinstance(item, Mapping) for item in patch):
        return copy.deepcopy(patch)
    if any(item.get(_DIRECTIVE) == "replace" for item in patch):
        return [copy.deepcopy(dict(item)) for item in patch if _DIRECTIVE not in item]
    return _merge_by_key(merge_key, current, patch)


def _merge_by_key(merge_key: str, current: list[Any], patch: list[Any]) -> list[Any]:
    merged = list(current)
    for item in patch:
        if merge_key not in item:
            raise PatchError(f"map: {dict(item)} does not contain declared merge key: {merge_key}")
        place = next((at for at, known in enumerate(merged) if known.get(merge_key) == item[merge_key]), None)
        if item.get(_DIRECTIVE) == "delete":
            if place is not None:
                del merged[place]
        elif place is None:
            merged.append(strategic_merge({}, item))
        else:
            merged[place] = strategic_merge(merged[place], item)
    return merged
