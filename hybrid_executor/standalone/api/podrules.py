"""What is wrong with a pod's spec, and what of it may change later. Pure; asked by the other rules."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hybrid_executor.standalone.api.names import dns_label_problems
from hybrid_executor.standalone.api.problems import (
    Cause,
    duplicate,
    forbidden_field,
    invalid,
    required,
    unsupported,
)
from hybrid_executor.standalone.api.shapes import objects_in

Body = Mapping[str, Any]

_ENV_NAME = re.compile(r"[ -<>-~]+")
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?")
_QUANTITY_RULE = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_RESTART_POLICIES = frozenset({"Always", "OnFailure", "Never"})
_PULL_POLICIES = frozenset({"Always", "IfNotPresent", "Never"})


def pod_problems(spec: Body) -> Iterable[Cause]:
    """What is wrong with a pod's spec."""
    volumes = objects_in(spec.get("volumes"))
    yield from _named("spec.volumes", volumes)
    known = {volume.get("name") for volume in volumes}
    containers = objects_in(spec.get("containers"))
    if not containers:
        yield required("spec.containers")
    taken: set[str] = set()
    for path, group in (
        ("spec.initContainers", objects_in(spec.get("initContainers"))),
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
    yield from _env_problems(f"{path}.env", objects_in(container.get("env")))
    yield from _mount_problems(f"{path}.volumeMounts", objects_in(container.get("volumeMounts")), volumes)
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
            "to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it "
            "was previously negative)",
        )
    ]


def _without_mutable(spec: Body) -> dict[str, Any]:
    bare = {key: value for key, value in spec.items() if key not in {"activeDeadlineSeconds", "tolerations"}}
    for name in ("containers", "initContainers"):
        if name in bare:
            bare[name] = [
                {key: value for key, value in item.items() if key != "image"}
                for item in objects_in(bare[name])
            ]
    return bare
