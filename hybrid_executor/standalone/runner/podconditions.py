"""The conditions that a node sets on a pod, in a kubelet's words. Pure.

Only the node's own: what a scheduler, a controller or a person has set stays
theirs, so these are written as a strategic merge patch. Called by ``podstatus``.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from hybrid_executor.standalone.runner.podstate import (
    ContainerState,
    Manifest,
    PodState,
    Running,
    Waiting,
    exit_code,
    instant,
    is_sidecar,
    names,
    phase,
)


def conditions(pod: Manifest, state: PodState, now: datetime) -> list[dict[str, Any]]:
    """Ours, each keeping the time of its last change; null takes away what a change leaves behind."""
    before: Sequence[Manifest] = (pod.get("status") or {}).get("conditions") or []
    ours = _own(pod, state, before)
    if not any(condition["type"] == "PodScheduled" for condition in before):
        ours = {"PodScheduled": {"status": "True"}, **ours}
    common: dict[str, Any] = {"reason": None, "message": None, "lastProbeTime": None}
    if generation := pod["metadata"].get("generation"):
        common["observedGeneration"] = generation
    return [
        {"type": kind, **common, **body, "lastTransitionTime": _since(kind, body["status"], before, now)}
        for kind, body in ours.items()
    ]


def _since(kind: str, status: str, before: Iterable[Manifest], now: datetime) -> str:
    old = next((condition for condition in before if condition["type"] == kind), None)
    unchanged = old is not None and old.get("status") == status
    return str((old.get("lastTransitionTime") if old is not None and unchanged else None) or instant(now))


def _own(pod: Manifest, state: PodState, before: Sequence[Manifest]) -> dict[str, dict[str, str]]:
    ended = phase(pod, state) in {"Succeeded", "Failed"}
    containers = _containers_ready(pod, state)
    found = {
        "PodReadyToStartContainers": {"status": _truth(state.prepared and not ended)},
        "Initialized": _initialized(pod, state),
        "Ready": _gated(pod, before) if containers == {"status": "True"} else containers,
        "ContainersReady": containers,
    }
    if state.verdict and state.verdict.disruption:
        found["DisruptionTarget"] = {
            "status": "True",
            "reason": "TerminationByKubelet",
            "message": state.verdict.message,
        }
    return found


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
    return exit_code(container) == 0


def _containers_ready(pod: Manifest, state: PodState) -> dict[str, str]:
    match phase(pod, state):
        case "Succeeded":
            return {"status": "False", "reason": "PodCompleted"}
        case "Failed":
            return {"status": "False", "reason": "PodFailed"}
    unready = [n for n in names(pod, "containers") if not isinstance(state.containers[n].state, Running)]
    if not unready:
        return {"status": "True"}
    message = f"containers with unready status: [{' '.join(unready)}]"
    return {"status": "False", "reason": "ContainersNotReady", "message": message}


def _gated(pod: Manifest, before: Iterable[Manifest]) -> dict[str, str]:
    """Ready, unless a condition of ``readinessGates``, which others set, is missing or not true."""
    true = {condition["type"] for condition in before if condition.get("status") == "True"}
    gates: list[Mapping[str, Any]] = pod["spec"].get("readinessGates") or []
    missing = [gate["conditionType"] for gate in gates if gate["conditionType"] not in true]
    if not missing:
        return {"status": "True"}
    message = "; ".join(f'the status of pod readiness gate "{name}" is not "True"' for name in missing)
    return {"status": "False", "reason": "ReadinessGatesNotReady", "message": message}
