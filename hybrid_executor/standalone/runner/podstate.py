"""What a runner knows of one pod: the states of its containers, and the phase that follows. Pure.

Kept by ``podboard``; told to the API as ``podstatus`` and ``podconditions`` word it. Phases
are derived as a kubelet derives them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

Manifest = Mapping[str, Any]


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
    #: Its volumes are there.
    prepared: bool = False
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


def names(pod: Manifest, kind: str) -> list[str]:
    """The names of its ``containers``, or of its ``initContainers``."""
    return [container["name"] for container in pod["spec"].get(kind) or []]


def initial(pod: Manifest, host_ip: str) -> PodState:
    """Every container waits; mains behind init containers say ``PodInitializing``."""
    inits = pod["spec"].get("initContainers") or []
    first = Waiting("PodInitializing" if inits else "ContainerCreating")
    every = [*names(pod, "initContainers"), *names(pod, "containers")]
    return PodState(host_ip, containers={name: ContainerState(first) for name in every})


def phase(pod: Manifest, state: PodState) -> Phase:
    """The pod's phase, as the kubelet derives it."""
    if state.verdict:
        return "Failed" if state.over else _living_phase(pod, state)
    if state.over:
        ends = [exit_code(state.containers[name]) for name in _deciding(pod)]
        return "Succeeded" if all(code == 0 for code in ends) else "Failed"
    return _living_phase(pod, state)


def _deciding(pod: Manifest) -> list[str]:
    """The containers whose ends make the pod's: all that must succeed, sidecars not."""
    inits = [c["name"] for c in pod["spec"].get("initContainers") or [] if not is_sidecar(c)]
    return [*inits, *names(pod, "containers")]


def exit_code(container: ContainerState) -> int | None:
    """The code of a container that has ended."""
    return container.state.exit_code if isinstance(container.state, Terminated) else None


def _living_phase(pod: Manifest, state: PodState) -> Phase:
    mains = [state.containers[name] for name in names(pod, "containers")]
    if all(isinstance(m.state, Running | Terminated) or m.last for m in mains):
        return "Running"
    return "Pending"
