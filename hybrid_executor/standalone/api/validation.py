"""What is wrong with an object that somebody wants to keep: names, labels, and what pods need.

Pure. It checks what people get wrong and what this API relies on, with
kube-apiserver's words; it has no schemas, so unknown fields pass. ``shape``
finds values of the wrong JSON type (400 there), ``problems`` everything else (422).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hybrid_executor.standalone.api.kinds import Kind
from hybrid_executor.standalone.api.problems import (
    Cause,
    duplicate,
    forbidden_field,
    invalid,
    required,
    unsupported,
)

Body = Mapping[str, Any]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_ENV_NAME = re.compile(r"[ -<>-~]+")
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?")

LABEL_MAX = 63
SUBDOMAIN_MAX = 253
ANNOTATIONS_MAX = 256 * 1024
DATA_MAX = 1024 * 1024
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start "
    "and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
    "for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_QUALIFIED_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_QUANTITY_RULE = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_RESTART_POLICIES = frozenset({"Always", "OnFailure", "Never"})
_PULL_POLICIES = frozenset({"Always", "IfNotPresent", "Never"})


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
        for container in _items(spec.get(name)):
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
    for variable in _items(container.get("env")):
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


def _items(value: object) -> list[Body]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def problems(kind: Kind, body: Body) -> list[Cause]:
    """Everything wrong with the object; empty if it may be kept."""
    causes = [*_metadata_problems(kind, body["metadata"])]
    if kind.plural == "pods":
        causes += _pod_problems(body.get("spec") or {})
    elif kind.plural in {"configmaps", "secrets"}:
        causes += _data_problems(body)
    return causes


def _metadata_problems(kind: Kind, metadata: Body) -> Iterable[Cause]:
    yield from name_problems(kind, metadata.get("name") or "")
    for key, value in (metadata.get("labels") or {}).items():
        yield from _label_problems("metadata.labels", key, value)
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        yield from _key_problems("metadata.annotations", key)
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > ANNOTATIONS_MAX:
        yield Cause(
            "metadata.annotations",
            f"Too long: may not be more than {ANNOTATIONS_MAX} bytes",
            "FieldValueTooLong",
        )
    for place, owner in enumerate(_items(metadata.get("ownerReferences"))):
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                yield required(f"metadata.ownerReferences[{place}].{name}", "must not be empty")


def name_problems(kind: Kind, name: str) -> Iterable[Cause]:
    """What is wrong with a name."""
    if not name:
        yield required("metadata.name", "name or generateName is required")
    elif kind.label_names:
        yield from dns_label_problems("metadata.name", name)
    elif len(name) > SUBDOMAIN_MAX:
        yield invalid("metadata.name", name, f"must be no more than {SUBDOMAIN_MAX} bytes")
    elif not _SUBDOMAIN.fullmatch(name):
        yield invalid("metadata.name", name, _SUBDOMAIN_RULE)


def dns_label_problems(field: str, value: str) -> Iterable[Cause]:
    """What is wrong with a DNS label."""
    if len(value) > LABEL_MAX:
        yield invalid(field, value, f"must be no more than {LABEL_MAX} bytes")
    elif not _LABEL.fullmatch(value):
        yield invalid(field, value, _LABEL_RULE)


def _key_problems(field: str, key: str) -> Iterable[Cause]:
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > SUBDOMAIN_MAX or not _SUBDOMAIN.fullmatch(prefix)):
        yield invalid(field, key, f"prefix part {_SUBDOMAIN_RULE}")
    if not name:
        yield invalid(field, key, "name part must be non-empty")
    elif len(name) > LABEL_MAX:
        yield invalid(field, key, f"name part must be no more than {LABEL_MAX} bytes")
    elif not _QUALIFIED.fullmatch(name):
        yield invalid(field, key, _QUALIFIED_RULE)


def _label_problems(field: str, key: str, value: str) -> Iterable[Cause]:
    yield from _key_problems(field, key)
    if len(value) > LABEL_MAX:
        yield invalid(field, value, f"must be no more than {LABEL_MAX} bytes")
    elif not _LABEL_VALUE.fullmatch(value):
        yield invalid(field, value, _VALUE_RULE)


def _data_problems(body: Body) -> Iterable[Cause]:
    data = body.get("data") or {}
    for key in data:
        if not _CONFIG_KEY.fullmatch(key):
            yield invalid(f"data[{key}]", key, "a valid config key must consist of alphanumeric characters")
    if sum(len(value) for value in data.values()) > DATA_MAX:
        yield Cause("data", f"Too long: may not be more than {DATA_MAX} bytes", "FieldValueTooLong")


def _pod_problems(spec: Body) -> Iterable[Cause]:
    volumes = _items(spec.get("volumes"))
    yield from _named("spec.volumes", volumes)
    known = {volume.get("name") for volume in volumes}
    containers = _items(spec.get("containers"))
    if not containers:
        yield required("spec.containers")
    taken: set[str] = set()
    for path, group in (
        ("spec.initContainers", _items(spec.get("initContainers"))),
        ("spec.containers", containers),
    ):
        yield from _named(path, group, taken)
        for place, container in enumerate(group):
            yield from _container_problems(f"{path}[{place}]", container, known)
    if spec.get("restartPolicy", "Always") not in _RESTART_POLICIES:
        yield unsupported("spec.restartPolicy", spec.get("restartPolicy"), _RESTART_POLICIES)
    grace = spec.get("terminationGracePeriodSeconds", 0)
    if isinstance(grace, int) and grace < 0:
        yield invalid("spec.terminationGracePeriodSeconds", grace, "must be greater than or equal to 0")
    deadline = spec.get("activeDeadlineSeconds")
    if isinstance(deadline, int) and deadline < 1:
        yield invalid("spec.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")


def _named(path: str, items: list[Body], taken: set[str] | None = None) -> Iterable[Cause]:
    seen = set() if taken is None else taken
    for place, item in enumerate(items):
        name = item.get("name") or ""
        if not name:
            yield required(f"{path}[{place}].name")
        elif name in seen:
            yield duplicate(f"{path}[{place}].name", name)
        else:
            yield from dns_label_problems(f"{path}[{place}].name", name)
        seen.add(name)


def _container_problems(path: str, container: Body, volumes: set[Any]) -> Iterable[Cause]:
    image = container.get("image") or ""
    if not image:
        yield required(f"{path}.image")
    elif image != image.strip():
        yield invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    if container.get("imagePullPolicy", "Always") not in _PULL_POLICIES:
        yield unsupported(f"{path}.imagePullPolicy", container["imagePullPolicy"], _PULL_POLICIES)
    yield from _env_problems(f"{path}.env", _items(container.get("env")))
    yield from _mount_problems(f"{path}.volumeMounts", _items(container.get("volumeMounts")), volumes)
    yield from _resource_problems(f"{path}.resources", container.get("resources") or {})


def _env_problems(path: str, variables: list[Body]) -> Iterable[Cause]:
    for place, variable in enumerate(variables):
        name = variable.get("name") or ""
        if not name:
            yield required(f"{path}[{place}].name")
        elif not _ENV_NAME.fullmatch(name):
            yield invalid(f"{path}[{place}].name", name, "a valid environment variable name has no '='")
        if variable.get("value") and variable.get("valueFrom"):
            yield invalid(f"{path}[{place}].valueFrom", "", "may not be specified when `value` is not empty")


def _mount_problems(path: str, mounts: list[Body], volumes: set[Any]) -> Iterable[Cause]:
    points: set[str] = set()
    for place, mount in enumerate(mounts):
        name, point = mount.get("name") or "", mount.get("mountPath") or ""
        if not name:
            yield required(f"{path}[{place}].name")
        elif name not in volumes:
            yield Cause(f"{path}[{place}].name", f'Not found: "{name}"', "FieldValueNotFound")
        if not point:
            yield required(f"{path}[{place}].mountPath")
        elif point in points:
            yield invalid(f"{path}[{place}].mountPath", point, "must be unique")
        points.add(point)


def _resource_problems(path: str, resources: Body) -> Iterable[Cause]:
    for part in ("limits", "requests"):
        for name, quantity in (resources.get(part) or {}).items():
            text = str(quantity)
            if not _QUANTITY.fullmatch(text):
                yield invalid(f"{path}.{part}[{name}]", text, _QUANTITY_RULE)
            elif text.startswith("-"):
                yield invalid(f"{path}.{part}[{name}]", text, "must be greater than or equal to 0")
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name in limits.keys() & requests.keys():
        most, least = quantity_value(limits[name]), quantity_value(requests[name])
        if most is not None and least is not None and least > most:
            yield invalid(
                f"{path}.requests",
                requests[name],
                f"must be less than or equal to {name} limit of {limits[name]}",
            )


_SCALE = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "K": 1e3} | {
    letter: 1000.0 ** (power + 2) for power, letter in enumerate("MGTPE")
}


def quantity_value(quantity: object) -> float | None:
    """A resource quantity as a number, None if it is malformed."""
    text = str(quantity)
    if not _QUANTITY.fullmatch(text):
        return None
    if text.endswith("i"):
        return float(text[:-2]) * 1024.0 ** ("KMGTPE".index(text[-2]) + 1)
    if text[-1] in _SCALE:
        return float(text[:-1]) * _SCALE[text[-1]]
    return float(text)


def immutable_problems(before: Body, after: Body) -> list[Cause]:
    """Fields of a pod's spec that an update changes although it may not."""
    if _without_mutable(before) == _without_mutable(after):
        return []
    return [
        forbidden_field(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions "
            "to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
            "previously negative)",
        )
    ]


def _without_mutable(spec: Body) -> dict[str, Any]:
    bare = {key: value for key, value in spec.items() if key not in {"activeDeadlineSeconds", "tolerations"}}
    for name in ("containers", "initContainers"):
        if name in bare:
            bare[name] = [
                {key: value for key, value in item.items() if key != "image"} for item in _items(bare[name])
            ]
    return bare
