"""From a pod's manifest and what it refers to, to what is started. Pure but for the folder it is given.

Called by ``podworker``. Restart rules, delays and words are the kubelet's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid_executor.standalone.runner import quantity
from hybrid_executor.standalone.runner.container import ContainerSpec, Mount
from hybrid_executor.standalone.runner.environment import NodeFacts, Surroundings, argv, variables
from hybrid_executor.standalone.runner.volumeplan import MountPlan, VolumePlan, mount_plans, volume_plans
from hybrid_executor.standalone.runner.volumes import HOSTS, PodFolder, mounts

Manifest = Mapping[str, Any]

DEFAULT_GRACE_S = 30
#: A container that keeps ending is started again after at most this.
RESTART_DELAY_MAX_S = 300.0
HOSTNAME_MAX = 63


class NothingToRun(Exception):
    """Neither command nor arguments, and there is no image that would say."""


@dataclass(frozen=True)
class NodeSettings:
    """What the command line says about every container of this node."""

    facts: NodeFacts
    base_env: Mapping[str, str] = field(repr=False, default_factory=dict)
    #: Whether this machine allows mount namespaces.
    can_mount: bool = True
    restart_backoff_s: float = 10.0
    #: ``--no-processes``: nothing is resolved, mounted or started.
    pretend: bool = False


def restart_policy(pod: Manifest) -> str:
    return str(pod["spec"].get("restartPolicy") or "Always")


def policy(pod: Manifest, container: Manifest) -> str:
    """The restart policy of a main container: its own, else the pod's."""
    return str(container.get("restartPolicy") or restart_policy(pod))


def init_policy(pod: Manifest, container: Manifest) -> str:
    """An init container that succeeded is never started again."""
    return "Never" if policy(pod, container) == "Never" else "OnFailure"


def restarts(policy: str, exit_code: int) -> bool:
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def restart_delay_s(restarts: int, first_s: float) -> float:
    """The first restart is immediate; then ``first_s``, doubling."""
    if restarts < 2:
        return 0.0
    return float(min(first_s * 2 ** (min(restarts, 40) - 2), RESTART_DELAY_MAX_S))


def grace_s(pod: Manifest) -> float:
    seconds = pod["spec"].get("terminationGracePeriodSeconds")
    return float(DEFAULT_GRACE_S if seconds is None else seconds)


def unheard(pod: Manifest, *, can_mount: bool) -> list[tuple[str, str]]:
    """What containers ask for and do not get, though they run: container and words."""
    found = []
    for container in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]:
        name = container["name"]
        found += [(name, words) for field, words in _UNHEARD.items() if container.get(field)]
        if not can_mount and any(_is_injected(m["name"]) for m in container.get("volumeMounts") or []):
            found.append((name, "no service-account token: this machine allows no mounts"))
    return found


_NO_PROBES = "no probes: a container counts as ready for as long as it runs"
_UNHEARD = {
    "lifecycle": "no lifecycle hooks",
    "livenessProbe": _NO_PROBES,
    "readinessProbe": _NO_PROBES,
    "startupProbe": _NO_PROBES,
    "restartPolicyRules": "no restart rules",
}


def _is_injected(volume: str) -> bool:
    """Whether an API server has added it to a pod that did not ask: its service-account token."""
    return volume.startswith("kube-api-access-")


def hostname(pod: Manifest) -> str:
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:HOSTNAME_MAX].rstrip("-.")


def start_error(words: str) -> str:
    """As containerd and runc word a command that can't be started."""
    return (
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: "
        f"runc create failed: unable to start container process: {words}: unknown"
    )


def check(around: Surroundings, folder: PodFolder, settings: NodeSettings) -> None:
    """Write the volumes and see that every container can get them; VolumeUnavailable if not."""
    volumes = volume_plans(around)
    places = folder.fill(volumes)
    for container in around.containers:
        mounts(_wanted(container, volumes, settings, {}), places, possible=settings.can_mount)


def container_spec(
    container: Manifest, around: Surroundings, folder: PodFolder, settings: NodeSettings, restart: int
) -> ContainerSpec:
    """What to start; raises what ``environment`` and ``volumeplan`` raise, and NothingToRun."""
    host = hostname(around.pod)
    base = {"HOME": str(folder.home), **settings.base_env, "HOSTNAME": host}
    env = variables(container, around, base)
    command = argv(container, env)
    if not command:
        raise NothingToRun("failed to generate container spec: no command specified")
    limit = ((container.get("resources") or {}).get("limits") or {}).get("memory")
    return ContainerSpec(
        pod_uid=around.pod["metadata"]["uid"],
        name=container["name"],
        restart=restart,
        argv=command,
        env=env,
        cwd=container.get("workingDir") or str(folder.home),
        hostname=host,
        scratch=folder.scratch,
        mounts=_mounts(container, around, folder, settings, env),
        memory_limit=quantity.whole(limit) if limit else None,
    )


def _mounts(
    container: Manifest,
    around: Surroundings,
    folder: PodFolder,
    settings: NodeSettings,
    env: Mapping[str, str],
) -> list[Mount]:
    volumes = volume_plans(around)
    places = folder.fill(volumes)
    found = mounts(_wanted(container, volumes, settings, env), places, possible=settings.can_mount)
    if settings.can_mount and Path(HOSTS).exists() and all(m.target != HOSTS for m in found):
        found.append(Mount(str(folder.hosts), HOSTS, read_only=False))
    return found


def _wanted(
    container: Manifest, volumes: Sequence[VolumePlan], settings: NodeSettings, env: Mapping[str, str]
) -> list[MountPlan]:
    """Its mounts; where none are possible, without those that it never asked for."""
    wanted = mount_plans(container, volumes, env)
    return [mount for mount in wanted if settings.can_mount or not _is_injected(mount.volume)]


def pretend_spec(container: Manifest, pod: Manifest, folder: PodFolder, restart: int) -> ContainerSpec:
    """What ``PretendRuntime`` needs: who it is, and the annotations that say how to end."""
    return ContainerSpec(
        pod_uid=pod["metadata"]["uid"],
        name=container["name"],
        restart=restart,
        argv=(),
        env={},
        cwd="/",
        hostname=hostname(pod),
        scratch=folder.scratch,
        annotations=pod["metadata"].get("annotations") or {},
    )
