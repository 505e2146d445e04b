"""The status that the API shows for a pod, assembled from the states of its containers. Pure.

Called by ``statuswriter`` whenever something changed. The words are a kubelet's,
since executors and people read them as such.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from hybrid_executor.standalone.runner import quantity
from hybrid_executor.standalone.runner.podconditions import conditions
from hybrid_executor.standalone.runner.podstate import (
    ContainerState,
    Manifest,
    PodState,
    Running,
    State,
    Terminated,
    Waiting,
    instant,
    is_sidecar,
    phase,
)


def status(pod: Manifest, state: PodState, now: datetime) -> dict[str, Any]:
    """The node's part of the pod's ``status``, to be sent as a strategic merge patch."""
    result: dict[str, Any] = {
        "phase": phase(pod, state),
        "conditions": conditions(pod, state, now),
        "hostIP": state.host_ip,
        "hostIPs": [{"ip": state.host_ip}],
        "podIP": state.host_ip,
        "podIPs": [{"ip": state.host_ip}],
        # An API server derives it at the creation, and lets nobody change it.
        "qosClass": (pod.get("status") or {}).get("qosClass") or qos_class(pod),
        "containerStatuses": _container_statuses(pod, "containers", state),
    }
    if generation := pod["metadata"].get("generation"):
        result["observedGeneration"] = generation
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
        return {"waiting": _filled(reason=state.reason, message=state.message)}
    if isinstance(state, Running):
        return {"running": {"startedAt": instant(state.started_at)}}
    ended = _filled(
        reason=state.reason,
        startedAt=instant(state.started_at) if state.started_at else "",
        finishedAt=instant(state.finished_at),
        message=state.message,
        containerID=state.container_id,
    )
    return {"terminated": {"exitCode": state.exit_code, **ended}}


def _filled(**fields: str) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}


# --- quality of service -----------------------------------------------------------------


def qos_class(pod: Manifest) -> str:
    """Guaranteed, Burstable or BestEffort, as the API server derives it."""
    spec = pod["spec"]
    containers = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    resources = [container.get("resources") or {} for container in containers]
    if not any(_amounts(r, kind) for r in resources for kind in ("requests", "limits")):
        return "BestEffort"
    return "Guaranteed" if all(_is_guaranteed(r) for r in resources) else "Burstable"


def _amounts(resources: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The cpu and memory amounts that are not zero, exactly."""
    found = {name: quantity.parse(v) for name, v in (resources.get(kind) or {}).items()}
    return {name: value for name, value in found.items() if name in {"cpu", "memory"} and value}


def _is_guaranteed(resources: Mapping[str, Any]) -> bool:
    limits = _amounts(resources, "limits")
    wanted = limits | _amounts(resources, "requests")
    return set(limits) == {"cpu", "memory"} and wanted == limits
