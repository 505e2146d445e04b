"""What each volume of a pod holds and where each container wants it. Pure.

Called by ``volumes``, which puts it on disk. A volume that this node can't
give raises ``VolumeUnavailable`` with the words of a kubelet's FailedMount.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid_executor.standalone.runner.environment import (
    Manifest,
    Surroundings,
    configmap_data,
    expand,
    field_ref,
    resource_ref,
    secret_data,
)

DEFAULT_MODE = 0o644


class VolumeUnavailable(Exception):
    """A volume can't be given now; the pod waits and says why."""


@dataclass(frozen=True)
class VolumeFile:
    content: bytes
    mode: int = DEFAULT_MODE


@dataclass(frozen=True)
class VolumePlan:
    """One volume: files to write into a folder of its own, or a path of the host."""

    name: str
    files: Mapping[str, VolumeFile] = field(default_factory=dict)
    host_path: str | None = None
    host_type: str = ""
    read_only: bool = False


@dataclass(frozen=True)
class MountPlan:
    """One ``volumeMount`` of a container."""

    volume: str
    target: str
    sub_path: str = ""
    read_only: bool = False


def volume_plans(around: Surroundings) -> list[VolumePlan]:
    return [volume_plan(volume, around) for volume in around.pod["spec"].get("volumes") or []]


def volume_plan(volume: Manifest, around: Surroundings) -> VolumePlan:
    """What ``volume`` holds, given the objects that it refers to."""
    name = volume["name"]
    try:
        return _plan(name, volume, around)
    except (VolumeUnavailable, ValueError) as error:
        raise VolumeUnavailable(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error


def _plan(name: str, volume: Manifest, around: Surroundings) -> VolumePlan:
    if "hostPath" in volume:
        source = volume["hostPath"]
        return VolumePlan(name, host_path=source["path"], host_type=source.get("type") or "")
    if "emptyDir" in volume:
        return VolumePlan(name)
    if "projected" in volume:
        return VolumePlan(name, _projected(name, volume["projected"], around), read_only=True)
    for kind in ("secret", "configMap", "downwardAPI"):
        if kind in volume:
            source = dict(volume[kind] or {})
            mode = source.get("defaultMode") or DEFAULT_MODE
            if kind == "secret":
                source["name"] = source.get("secretName", "")
            return VolumePlan(name, _source_files(name, kind, source, mode, around), read_only=True)
    kinds = sorted(set(volume) - {"name"})
    raise VolumeUnavailable(f"volume type {', '.join(kinds) or 'none'} is not supported by this node")


def _projected(name: str, projected: Manifest, around: Surroundings) -> dict[str, VolumeFile]:
    mode = projected.get("defaultMode") or DEFAULT_MODE
    files: dict[str, VolumeFile] = {}
    for source in projected.get("sources") or []:
        for kind, body in source.items():
            files |= _source_files(name, kind, body or {}, mode, around)
    return files


def _source_files(
    name: str, kind: str, source: Manifest, mode: int, around: Surroundings
) -> dict[str, VolumeFile]:
    if kind == "downwardAPI":
        return _downward(source, mode, around)
    if kind == "serviceAccountToken":
        path = source["path"]
        token = around.objects.tokens.get((name, path))
        if token is None:
            raise VolumeUnavailable(f"no token for service account at path {path}")
        return {path: VolumeFile(token.encode(), 0o600)}
    if kind == "secret":
        found = around.objects.secrets.get(source.get("name", ""))
        data = secret_data(found) if found else None
    elif kind == "configMap":
        found = around.objects.configmaps.get(source.get("name", ""))
        data = configmap_data(found) if found else None
    else:
        raise VolumeUnavailable(f"projected source {kind} is not supported by this node")
    return _chosen(kind, source, data, mode)


def _chosen(kind: str, source: Manifest, data: dict[str, bytes] | None, mode: int) -> dict[str, VolumeFile]:
    """The keys that ``items`` asks for, or all."""
    if data is None:
        if source.get("optional"):
            return {}
        raise VolumeUnavailable(f'{kind.lower()} "{source.get("name", "")}" not found')
    if not source.get("items"):
        return {key: VolumeFile(value, mode) for key, value in data.items()}
    files = {}
    for item in source["items"]:
        if item["key"] in data:
            files[_inside(item["path"])] = VolumeFile(data[item["key"]], item.get("mode") or mode)
        elif not source.get("optional"):
            raise VolumeUnavailable(f"references non-existent {kind.lower()} key: {item['key']}")
    return files


def _downward(source: Manifest, mode: int, around: Surroundings) -> dict[str, VolumeFile]:
    files = {}
    for item in source.get("items") or []:
        if reference := item.get("fieldRef"):
            value = field_ref(reference["fieldPath"], around.pod, around.node)
        else:
            value = resource_ref(item["resourceFieldRef"], around.containers, "", around.node)
        files[_inside(item["path"])] = VolumeFile(value.encode(), item.get("mode") or mode)
    return files


def _inside(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"path {path!r} must be relative and must not contain '..'")
    return path


def mount_plans(
    container: Manifest, volumes: Iterable[VolumePlan], values: Mapping[str, str]
) -> list[MountPlan]:
    """Where ``container`` wants which volume; ``values`` expand ``subPathExpr``."""
    known = {volume.name: volume for volume in volumes}
    mounts = []
    for mount in container.get("volumeMounts") or []:
        if mount["name"] not in known:
            raise VolumeUnavailable(f'no volume named "{mount["name"]}"')
        sub_path = mount.get("subPath") or expand(mount.get("subPathExpr") or "", values)
        mounts.append(
            MountPlan(
                volume=mount["name"],
                target=mount["mountPath"],
                sub_path=_inside(sub_path),
                read_only=bool(mount.get("readOnly")) or known[mount["name"]].read_only,
            )
        )
    return mounts


def changes_while_it_runs(pod: Manifest) -> bool:
    """Whether a volume holds what may change in the API, or grow old, while the pod runs."""
    kinds = {kind for volume in pod["spec"].get("volumes") or [] for kind in volume}
    return bool(kinds & {"secret", "configMap", "downwardAPI", "projected"})


def references(pod: Manifest) -> "References":
    """The names of all objects that the pod's variables and volumes refer to."""
    secrets: set[str] = set()
    configmaps: set[str] = set()
    tokens: dict[tuple[str, str], Manifest] = {}
    spec = pod["spec"]
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        _env_references(container, secrets, configmaps)
    for volume in spec.get("volumes") or []:
        sources = [
            {"secret": {"name": (volume.get("secret") or {}).get("secretName", "")}},
            {"configMap": volume.get("configMap") or {}},
            *((volume.get("projected") or {}).get("sources") or []),
        ]
        for source in sources:
            secrets.add((source.get("secret") or {}).get("name", ""))
            configmaps.add((source.get("configMap") or {}).get("name", ""))
            if token := source.get("serviceAccountToken"):
                tokens[volume["name"], token["path"]] = token
    return References(frozenset(secrets - {""}), frozenset(configmaps - {""}), tokens)


def _env_references(container: Manifest, secrets: set[str], configmaps: set[str]) -> None:
    pairs: list[tuple[Any, Any]] = [
        (entry.get("secretRef"), entry.get("configMapRef")) for entry in container.get("envFrom") or []
    ]
    for entry in container.get("env") or []:
        source = entry.get("valueFrom") or {}
        pairs.append((source.get("secretKeyRef"), source.get("configMapKeyRef")))
    for secret, configmap in pairs:
        secrets.add((secret or {}).get("name", ""))
        configmaps.add((configmap or {}).get("name", ""))


@dataclass(frozen=True)
class References:
    secrets: frozenset[str]
    configmaps: frozenset[str]
    tokens: Mapping[tuple[str, str], Manifest]
