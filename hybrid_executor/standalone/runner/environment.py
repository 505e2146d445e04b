"""The environment, command and arguments of a container, from its manifest and resolved objects.

Pure. Missing objects raise ``ConfigMissing`` with the kubelet's own words,
which ``podworker`` shows as ``CreateContainerConfigError``.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid_executor.standalone.runner import quantity

Manifest = Mapping[str, Any]

_REFERENCE = re.compile(r"\$(\$|\([^()]*\))")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")
_ENV_NAME = re.compile(r"[-._a-zA-Z0-9]+")


class ConfigMissing(Exception):
    """Something that the manifest refers to does not exist (yet)."""


class ConfigRefused(ConfigMissing):
    """The API server does not let the node have it; one that has just started may, in a moment."""


@dataclass(frozen=True)
class Objects:
    """What a pod refers to, by name; an absent name is an object that does not exist.

    ``tokens`` holds service-account tokens by volume name and path.
    """

    secrets: Mapping[str, Manifest] = field(default_factory=dict)
    configmaps: Mapping[str, Manifest] = field(default_factory=dict)
    tokens: Mapping[tuple[str, str], str] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeFacts:
    """What a pod may ask about the node it runs on."""

    name: str
    address: str
    allocatable: Mapping[str, str] = field(default_factory=dict)


def secret_data(secret: Manifest) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}


def configmap_data(configmap: Manifest) -> dict[str, bytes]:
    binary = {k: base64.b64decode(v) for k, v in (configmap.get("binaryData") or {}).items()}
    return binary | {k: str(v).encode() for k, v in (configmap.get("data") or {}).items()}


def expand(text: str, values: Mapping[str, str]) -> str:
    """``$(NAME)`` from ``values``; an unknown name stays as it is, and ``$$`` is one dollar."""

    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return values.get(match[1][1:-1], match[0])

    return _REFERENCE.sub(replace, text)


def field_ref(path: str, pod: Manifest, node: NodeFacts) -> str:
    """The value of a downward API field; ValueError for a field that pods can't ask for."""
    meta, spec = pod["metadata"], pod["spec"]
    if match := _SUBSCRIPT.fullmatch(path):
        return str((meta.get(match[1]) or {}).get(match[2], ""))
    if path in {"metadata.labels", "metadata.annotations"}:
        pairs = (meta.get(path.partition(".")[2]) or {}).items()
        return "\n".join(f'{key}="{_escaped(str(value))}"' for key, value in sorted(pairs))
    known = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta.get("uid", ""),
        "spec.nodeName": node.name,
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": node.address,
        "status.hostIPs": node.address,
        "status.podIP": node.address,
        "status.podIPs": node.address,
    }
    if path not in known:
        raise ValueError(f"unsupported fieldPath: {path}")
    return str(known[path])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource_ref(reference: Manifest, containers: Iterable[Manifest], own: str, node: NodeFacts) -> str:
    """A container's own limit or request; without a limit the node's allocatable, as the kubelet says."""
    name = reference.get("containerName") or own
    container = next((c for c in containers if c["name"] == name), None)
    if container is None:
        raise ValueError(f"container {name} not found")
    kind, _, resource = str(reference["resource"]).partition(".")
    resources = container.get("resources") or {}
    value = (resources.get(kind) or {}).get(resource)
    if value is None and kind == "limits":
        value = node.allocatable.get(resource)
    return str(quantity.whole(value or "0", reference.get("divisor") or "1"))


@dataclass(frozen=True)
class Surroundings:
    """Everything that a container's variables can refer to."""

    pod: Manifest
    objects: Objects
    node: NodeFacts

    @property
    def containers(self) -> list[Manifest]:
        spec = self.pod["spec"]
        return [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]


def variables(container: Manifest, around: Surroundings, base: Mapping[str, str]) -> dict[str, str]:
    """``base``, then ``envFrom``, then ``env``; later ones win and may refer to earlier ones."""
    values = dict(base)
    for source in container.get("envFrom") or []:
        values |= _env_from(source, around)
    for entry in container.get("env") or []:
        value = _value(entry, values, container, around)
        if value is not None:
            values[entry["name"]] = value
    return values


def _value(
    entry: Manifest, values: Mapping[str, str], container: Manifest, around: Surroundings
) -> str | None:
    source = entry.get("valueFrom")
    if not source:
        return expand(str(entry.get("value") or ""), values)
    if reference := source.get("fieldRef"):
        return field_ref(reference["fieldPath"], around.pod, around.node)
    if reference := source.get("resourceFieldRef"):
        return resource_ref(reference, around.containers, container["name"], around.node)
    return _key(source, around)


def _key(source: Manifest, around: Surroundings) -> str | None:
    namespace = around.pod["metadata"]["namespace"]
    if reference := source.get("secretKeyRef"):
        kind, found = "secret", around.objects.secrets.get(reference.get("name", ""))
        data = secret_data(found) if found else {}
    elif reference := source.get("configMapKeyRef"):
        kind, found = "configmap", around.objects.configmaps.get(reference.get("name", ""))
        data = configmap_data(found) if found else {}
    else:
        raise ConfigMissing(f"valueFrom {sorted(source)} is not supported by this node")
    if reference["key"] in data:
        return data[reference["key"]].decode("utf-8", "surrogateescape")
    if reference.get("optional"):
        return None
    name = reference.get("name", "")
    if found is None:
        raise ConfigMissing(f'{kind} "{name}" not found')
    title = {"secret": "Secret", "configmap": "ConfigMap"}[kind]
    raise ConfigMissing(f"couldn't find key {reference['key']} in {title} {namespace}/{name}")


def _env_from(source: Manifest, around: Surroundings) -> dict[str, str]:
    prefix = source.get("prefix") or ""
    if reference := source.get("secretRef"):
        kind, found = "secret", around.objects.secrets.get(reference.get("name", ""))
        data = secret_data(found) if found else {}
    else:
        reference = source.get("configMapRef") or {}
        kind, found = "configmap", around.objects.configmaps.get(reference.get("name", ""))
        data = configmap_data(found) if found else {}
    if found is None and not reference.get("optional"):
        raise ConfigMissing(f'{kind} "{reference.get("name", "")}" not found')
    decoded = {prefix + key: value.decode("utf-8", "surrogateescape") for key, value in data.items()}
    return {key: value for key, value in decoded.items() if _ENV_NAME.fullmatch(key)}


def argv(container: Manifest, values: Mapping[str, str]) -> list[str]:
    """Command and arguments with references expanded; without a command the arguments alone.

    No image says what its entry point is, so arguments alone are run as an
    entry point that executes what it is given, as Airflow's does.
    """
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    return [expand(str(word), values) for word in words]
