"""Whether a pod fits on this node, in the words of kube-scheduler. Pure.

Called by ``binder``, in embedded mode only; on a real control plane the real
scheduler decides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hybrid_executor.cluster import fit
from hybrid_executor.standalone.runner import quantity

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Capacity:
    """What the node offers, or what pods take of it."""

    pods: int = 0
    cpu: Fraction = Fraction(0)
    memory: Fraction = Fraction(0)

    def __add__(self, other: "Capacity") -> "Capacity":
        return Capacity(self.pods + other.pods, self.cpu + other.cpu, self.memory + other.memory)


def capacity(allocatable: Mapping[str, str]) -> Capacity:
    return Capacity(
        pods=int(quantity.parse(allocatable["pods"])),
        cpu=quantity.parse(allocatable["cpu"]),
        memory=quantity.parse(allocatable["memory"]),
    )


def requests(pod: Manifest) -> Capacity:
    """What the pod takes."""
    counted = fit.requests(pod)
    return Capacity(1, counted.get("cpu", Fraction(0)), counted.get("memory", Fraction(0)))


def obstacles(pod: Manifest, offered: Capacity, used: Capacity, labels: Mapping[str, str]) -> list[str]:
    """Why the pod can't be bound here now, as kube-scheduler words it; empty if it can."""
    selector = pod["spec"].get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in selector.items()):
        return ["node(s) didn't match Pod's node affinity/selector"]
    wanted = requests(pod)
    total = used + wanted
    found = []
    if total.pods > offered.pods:
        found.append("Too many pods")
    if wanted.cpu and total.cpu > offered.cpu:
        found.append("Insufficient cpu")
    if wanted.memory and total.memory > offered.memory:
        found.append("Insufficient memory")
    return found


def unschedulable_message(found: Iterable[str]) -> str:
    return f"0/1 nodes are available: {', '.join(f'1 {why}' for why in sorted(found))}."


def wants_binding(pod: Manifest) -> bool:
    """Whether the pod waits for the default scheduler, whose place ``--bind`` takes."""
    spec, meta = pod["spec"], pod["metadata"]
    return (
        not spec.get("nodeName")
        and not meta.get("deletionTimestamp")
        and not spec.get("schedulingGates")
        and (spec.get("schedulerName") or "default-scheduler") == "default-scheduler"
        and not is_terminal(pod)
    )


def is_terminal(pod: Manifest) -> bool:
    return (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def order(pods: Iterable[Manifest]) -> list[Manifest]:
    """Highest priority first, then the oldest."""
    return sorted(
        pods,
        key=lambda pod: (
            -(pod["spec"].get("priority") or 0),
            pod["metadata"].get("creationTimestamp") or "",
            pod["metadata"]["name"],
        ),
    )
