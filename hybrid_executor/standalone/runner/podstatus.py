"""The status that the API shows for a pod, assembled from the states of its containers. Pure.

Called by ``podworker`` whenever something changed. Words, phases and conditions
are the kubelet's, since executors and people read them as such.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from hybrid_executor.standalone.runner import quantity

Manifest = Mapping[str, Any]

#: Where the runner writes a container's peak memory, in bytes: ``<prefix><container>``.
ANNOTATION_PEAK_MEMORY = "peak-memory.hybrid-executor/"


@dataclass(frozen=True)
class Waiting:
    reason: str
    message: str = ""


@dataclass(frozen=True)
class Running:
    started_at: datetime


@dataclass(frozen=True)
class Terminated:
    exit_code: int
    reason: str
    started_at: datetime | None
    finished_at: datetime
    message: str = ""
    container_id: str = ""


State = Waiting | Running | Terminated


@dataclass(frozen=True)
class ContainerState:
    """One container's present, its last end, and how often it was started again."""

    state: State = Waiting("ContainerCreating")
    last: Terminated | None = None
    restarts: int = 0
    container_id: str = ""
    #: It will not be started again.
    finished: bool = False


@dataclass(frozen=True)
class Verdict:
    """An end that the node decided itself, whatever the containers did."""

    reason: str
    message: str
    #: The node, not the workload, is the cause: shown as condition DisruptionTarget.
    disruption: bool = False


@dataclass(frozen=True)
class PodState:
    """All that the runner knows about one pod."""

    host_ip: str
    start_time: datetime | None = None
    containers: Mapping[str, ContainerState] = field(default_factory=dict)
    #: Nothing will run any more, so the phase is an end.
    over: bool = False
    verdict: Verdict | None = None

    def with_container(self, name: str, state: ContainerState) -> "PodState":
        return replace(self, containers={**self.containers, name: state})


Phase = Literal["Pending", "Running", "Succeeded", "Failed"]


def instant(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_instant(text: str) -> datetime:
    """RFC 3339, with or without a fraction of up to nine digits."""
    head, dot, rest = text.replace("Z", "+00:00").partition(".")
    if dot:
        digits = "".join(c for c in rest.split("+")[0].split("-")[0] if c.isdigit())
        rest = "." + digits[:6].ljust(6, "0") + rest[len(digits) :]
    return datetime.fromisoformat(head + rest)


def is_sidecar(container: Manifest) -> bool:
    """An init container that stays: it starts before the main ones and ends after them."""
    return container.get("restartPolicy") == "Always"


def _names(pod: Manifest, kind: str) -> list[str]:
    return [container["name"] for container in pod["spec"].get(kind) or []]


def initial(pod: Manifest, host_ip: str) -> PodState:
    """Every container waits; mains behind init containers say ``PodInitializing``."""
    inits = pod["spec"].get("initContainers") or []
    first = Waiting("PodInitializing" if inits else "ContainerCreating")
    names = [*_names(pod, "initContainers"), *_names(pod, "containers")]
    return PodState(host_ip, containers={name: ContainerState(first) for name in names})


def phase(pod: Manifest, state: PodState) -> Phase:
    """The pod's phase, as the kubelet derives it."""
    if state.verdict:
        return "Failed" if state.over else _living_phase(pod, state)
    if state.over:
        ends = [_exit(state.containers[name]) for name in _deciding(pod)]
        return "Succeeded" if all(code == 0 for code in ends) else "Failed"
    return _living_phase(pod, state)


def _deciding(pod: Manifest) -> list[str]:
    """The containers whose ends make the pod's: all that must succeed, sidecars not."""
    inits = [c["name"] for c in pod["spec"].get("initContainers") or [] if not is_sidecar(c)]
    return [*inits, *_names(pod, "containers")]


def _exit(container: ContainerState) -> int | None:
    return container.state.exit_code if isinstance(container.state, Terminated) else None


def _living_phase(pod: Manifest, state: PodState) -> Phase:
    mains = [state.containers[name] for name in _names(pod, "containers")]
    if all(isinstance(m.state, Running | Terminated) or m.last for m in mains):
        return "Running"
    return "Pending"


def status(pod: Manifest, state: PodState, now: datetime) -> dict[str, Any]:
    """The whole ``status`` of the pod, to be patched as it is."""
    before = pod.get("status") or {}
    result: dict[str, Any] = {
        "phase": phase(pod, state),
        "conditions": _conditions(pod, state, before.get("conditions") or [], now),
        "hostIP": state.host_ip,
        "hostIPs": [{"ip": state.host_ip}],
        "podIP": state.host_ip,
        "podIPs": [{"ip": state.host_ip}],
        "qosClass": qos_class(pod),
        "containerStatuses": _container_statuses(pod, "containers", state),
    }
    if state.start_time:
        result["startTime"] = instant(state.start_time)
    if pod["spec"].get("initContainers"):
        result["initContainerStatuses"] = _container_statuses(pod, "initContainers", state)
    if state.verdict and state.over:
        result |= {"reason": state.verdict.reason, "message": state.verdict.message}
    return result


def _container_statuses(pod: Manifest, kind: str, state: PodState) -> list[dict[str, Any]]:
    return [
        _container_status(container, state.containers[container["name"]], init=kind == "initContainers")
        for container in pod["spec"].get(kind) or []
    ]


def _container_status(manifest: Manifest, container: ContainerState, *, init: bool) -> dict[str, Any]:
    running = isinstance(container.state, Running)
    done = isinstance(container.state, Terminated) and container.state.exit_code == 0
    image = manifest.get("image") or ""
    result = {
        "name": manifest["name"],
        "state": _state(container.state),
        "lastState": _state(container.last) if container.last else {},
        "ready": done if init and not is_sidecar(manifest) else running,
        "started": running,
        "restartCount": container.restarts,
        "image": image,
        "imageID": "",
    }
    if container.container_id:
        result["containerID"] = container.container_id
    return result


def _state(state: State) -> dict[str, Any]:
    if isinstance(state, Waiting):
        waiting = {"reason": state.reason}
        return {"waiting": waiting | ({"message": state.message} if state.message else {})}
    if isinstance(state, Running):
        return {"running": {"startedAt": instant(state.started_at)}}
    ended: dict[str, Any] = {
        "exitCode": state.exit_code,
        "reason": state.reason,
        "startedAt": instant(state.started_at) if state.started_at else None,
        "finishedAt": instant(state.finished_at),
    }
    if state.message:
        ended["message"] = state.message
    if state.container_id:
        ended["containerID"] = state.container_id
    return {"terminated": ended}


# --- conditions ----------------------------------------------------------------------


def _conditions(
    pod: Manifest, state: PodState, before: Sequence[Manifest], now: datetime
) -> list[dict[str, Any]]:
    """Ours, each keeping its time of change, after those that others own."""
    ours = _own_conditions(pod, state)
    kept = [dict(condition) for condition in before if condition["type"] not in ours]
    if not any(condition["type"] == "PodScheduled" for condition in kept):
        kept.append(_condition("PodScheduled", {"status": "True"}, (), now))
    return [*kept, *(_condition(kind, body, before, now) for kind, body in ours.items())]


def _condition(
    kind: str, body: Mapping[str, str], before: Iterable[Manifest], now: datetime
) -> dict[str, Any]:
    old = next((condition for condition in before if condition["type"] == kind), None)
    unchanged = old is not None and old.get("status") == body["status"]
    since = old.get("lastTransitionTime") if old is not None and unchanged else None
    return {"type": kind, **body, "lastTransitionTime": since or instant(now), "lastProbeTime": None}


def _own_conditions(pod: Manifest, state: PodState) -> dict[str, dict[str, str]]:
    ended = phase(pod, state) in {"Succeeded", "Failed"}
    conditions = {
        "PodReadyToStartContainers": {"status": _truth(state.start_time is not None and not ended)},
        "Initialized": _initialized(pod, state),
        "Ready": _ready(pod, state),
        "ContainersReady": _ready(pod, state),
    }
    if state.verdict and state.verdict.disruption:
        conditions["DisruptionTarget"] = {
            "status": "True",
            "reason": "TerminationByKubelet",
            "message": state.verdict.message,
        }
    return conditions


def _truth(value: bool) -> str:
    return "True" if value else "False"


def _initialized(pod: Manifest, state: PodState) -> dict[str, str]:
    missing = [
        c["name"]
        for c in pod["spec"].get("initContainers") or []
        if not _is_initialized(c, state.containers[c["name"]])
    ]
    if not missing:
        done = {"reason": "PodCompleted"} if phase(pod, state) == "Succeeded" else {}
        return {"status": "True", **done}
    message = f"containers with incomplete status: [{' '.join(missing)}]"
    return {"status": "False", "reason": "ContainersNotInitialized", "message": message}


def _is_initialized(manifest: Manifest, container: ContainerState) -> bool:
    if is_sidecar(manifest):
        return not isinstance(container.state, Waiting) or container.last is not None
    return _exit(container) == 0


def _ready(pod: Manifest, state: PodState) -> dict[str, str]:
    match phase(pod, state):
        case "Succeeded":
            return {"status": "False", "reason": "PodCompleted"}
        case "Failed":
            return {"status": "False", "reason": "PodFailed"}
    unready = [n for n in _names(pod, "containers") if not isinstance(state.containers[n].state, Running)]
    if not unready:
        return {"status": "True"}
    message = f"containers with unready status: [{' '.join(unready)}]"
    return {"status": "False", "reason": "ContainersNotReady", "message": message}


# --- quality of service -----------------------------------------------------------------


def qos_class(pod: Manifest) -> str:
    """Guaranteed, Burstable or BestEffort, as the API server derives it."""
    spec = pod["spec"]
    containers = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    resources = [container.get("resources") or {} for container in containers]
    if not any(_amounts(r, kind) for r in resources for kind in ("requests", "limits")):
        return "BestEffort"
    return "Guaranteed" if all(_is_guaranteed(r) for r in resources) else "Burstable"


def _amounts(resources: Manifest, kind: str) -> dict[str, Any]:
    """The cpu and memory amounts that are not zero, exactly."""
    found = {name: quantity.parse(v) for name, v in (resources.get(kind) or {}).items()}
    return {name: value for name, value in found.items() if name in {"cpu", "memory"} and value}


def _is_guaranteed(resources: Manifest) -> bool:
    limits = _amounts(resources, "limits")
    wanted = limits | _amounts(resources, "requests")
    return set(limits) == {"cpu", "memory"} and wanted == limits
