"""Values of a JSON type that a kind can't hold, found as kube-apiserver's decoder finds them (400).

Pure. It knows the fields that people get wrong, and no schemas, so unknown
fields pass. What is well-formed and still wrong is ``validation``'s.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hybrid_executor.standalone.api.kinds import Kind

Body = Mapping[str, Any]


def shape(kind: Kind, body: Body) -> str | None:
    """The first value of a JSON type that the kind can't hold, as the Go decoder would say it."""
    wrong = next(_misshapen(kind, body), None)
    if wrong is None:
        return None
    path, found, wanted = wrong
    return (
        f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: json: cannot unmarshal '
        f"{found} into Go struct field {kind.kind}.{path} of type {wanted}"
    )


def _misshapen(kind: Kind, body: Body) -> Iterator[tuple[str, str, str]]:
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        yield "metadata", _json_type(metadata), "v1.ObjectMeta"
        return
    for name in ("name", "namespace", "generateName", "uid", "resourceVersion"):
        yield from _expect(f"metadata.{name}", metadata.get(name), str, "string")
    for name in ("labels", "annotations"):
        yield from _string_map(f"metadata.{name}", metadata.get(name))
    yield from _expect("metadata.finalizers", metadata.get("finalizers"), list, "[]string")
    yield from _expect(
        "metadata.ownerReferences", metadata.get("ownerReferences"), list, "[]v1.OwnerReference"
    )
    for name in ("spec", "status"):
        yield from _expect(name, body.get(name), Mapping, f"v1.{kind.kind}{name.title()}")
    if kind.plural == "pods":
        yield from _misshapen_pod(body.get("spec") or {})
    if kind.plural in {"configmaps", "secrets"}:
        yield from _string_map("data", body.get("data"))


def _misshapen_pod(spec: Body) -> Iterator[tuple[str, str, str]]:
    yield from _string_map("spec.nodeSelector", spec.get("nodeSelector"))
    for name in ("terminationGracePeriodSeconds", "activeDeadlineSeconds"):
        yield from _expect(f"spec.{name}", spec.get(name), int, "int64")
    for name in ("volumes", "tolerations", "imagePullSecrets"):
        yield from _objects(f"spec.{name}", spec.get(name))
    for name in ("containers", "initContainers"):
        yield from _objects(f"spec.{name}", spec.get(name))
        for container in objects_in(spec.get(name)):
            yield from _misshapen_container(f"spec.{name}", container)


def _misshapen_container(path: str, container: Body) -> Iterator[tuple[str, str, str]]:
    for name in ("name", "image", "workingDir"):
        yield from _expect(f"{path}.{name}", container.get(name), str, "string")
    for name in ("command", "args"):
        yield from _expect(f"{path}.{name}", container.get(name), list, "[]string")
        for word in container.get(name) or []:
            yield from _expect(f"{path}.{name}", word, str, "string")
    for name in ("env", "envFrom", "ports", "volumeMounts"):
        yield from _objects(f"{path}.{name}", container.get(name))
    for variable in objects_in(container.get("env")):
        for name in ("name", "value"):
            yield from _expect(f"{path}.env.{name}", variable.get(name), str, "string")
    yield from _expect(f"{path}.resources", container.get("resources"), Mapping, "v1.ResourceRequirements")


def _expect(path: str, value: object, wanted: type, go: str) -> Iterator[tuple[str, str, str]]:
    if value is not None and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
        yield path, _json_type(value), go


def _objects(path: str, value: object) -> Iterator[tuple[str, str, str]]:
    yield from _expect(path, value, list, "[]object")
    for item in value if isinstance(value, list) else ():
        yield from _expect(path, item, Mapping, "object")


def _string_map(path: str, value: object) -> Iterator[tuple[str, str, str]]:
    yield from _expect(path, value, Mapping, "map[string]string")
    for item in value.values() if isinstance(value, Mapping) else ():
        yield from _expect(path, item, str, "string")


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    names: dict[type, str] = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def objects_in(value: object) -> list[Body]:
    """The objects of a list that may be anything."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
