"""Reads a pod's status: how far it is, and what to tell the person on call.

Takes the pod as JSON from a list or a watch and decides nothing about what
follows. An attempt has ended when its main container has: a sidecar that goes
on running does not hold it open. Called by the Kubernetes backend.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hybrid_executor.cluster.quantity import in_binary_units, parse_quantity
from hybrid_executor.model import start
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Diagnosis
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.resources import Resources
from hybrid_executor.naming import LABEL_ATTEMPT, LABEL_OWNER, LABEL_SUBMISSION
from hybrid_executor.pods.resources import resources_of, said
from hybrid_executor.pods.template import BASE

_MESSAGE_MAX = 300
#: Exit codes of a process that was told to go: SIGKILL and SIGTERM.
_KILLED = frozenset({137, 143})

_WAITING = {
    **dict.fromkeys(
        (
            "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
            "RegistryUnavailable", "SignatureValidationFailed",
        ),
        Reason.IMAGE_PULL,
    ),
    **dict.fromkeys(
        (
            "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError",
            "PreStartHookError", "PostStartHookError",
        ),
        Reason.CONTAINER_CONFIG,
    ),
}  # fmt: skip
#: A container that the runtime could not start: the task's process never was.
_NEVER_STARTED = frozenset({"ContainerCannotRun", "StartError"})

#: ``status.reason`` of a pod that something else than its containers ended.
_POD_REASONS = {
    "Evicted": Reason.EVICTED,
    "Preempting": Reason.PREEMPTED,
    "Preempted": Reason.PREEMPTED,
    "DeadlineExceeded": Reason.DEADLINE_EXCEEDED,
    **dict.fromkeys(("NodeLost", "NodeShutdown", "Shutdown", "Terminated"), Reason.NODE_LOST),
    # The node's kubelet refused what the scheduler had bound to it.
    **dict.fromkeys(
        ("UnexpectedAdmissionError", "NodeAffinity", "TaintToleration", "NodePorts"), Reason.UNSCHEDULABLE
    ),
}
#: Reasons of the condition ``DisruptionTarget``.
_DISRUPTIONS = {
    "PreemptionByScheduler": (Reason.PREEMPTED, "preempted by a pod of higher priority"),
    "DeletionByTaintManager": (Reason.EVICTED, "evicted by a NoExecute taint of its node"),
    "EvictionByEvictionAPI": (Reason.EVICTED, "evicted through the API (a drain, or an autoscaler)"),
    "TerminationByKubelet": (Reason.EVICTED, "ended by its node's kubelet"),
    "DeletionByPodGC": (Reason.NODE_LOST, "its node is gone"),
}


class PodPhase(StrEnum):
    """How far the attempt in a pod is; not the same as ``status.phase``."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: Somebody deleted it and its main container has not ended yet.
    DELETING = "deleting"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """What one state of a pod says."""

    name: str
    namespace: str
    uid: str
    #: None for a pod that is not ours, or that somebody robbed of our labels.
    submission: SubmissionId | None
    #: The scheduler job that answers for it.
    owner: str | None
    phase: PodPhase
    node: str | None
    #: Whether the process that runs the task was ever started, as far as the pod tells.
    started: bool
    #: What the task's container asked for, and took as far as it has said; None where nothing is known.
    resources: Resources | None
    #: Where Airflow never answered its request to start: the host name in that request.
    asked_as: str | None = None
    #: Whether its node has it and could not make its sandbox yet, which comes after its volumes.
    has_no_sandbox: bool = False
    #: Whether the task has ended and another container, no native sidecar, goes on: nobody will end that one.
    is_outlived: bool = False
    #: Why it does not run yet, or may not run any more; None once it has ended or while all is well.
    waits: Diagnosis | None = None
    #: Why it failed, or is being deleted, or what went wrong in one that succeeded.
    diagnosis: Diagnosis | None = None

    @property
    def ended(self) -> bool:
        return self.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED)


def observe(pod: Mapping[str, Any]) -> PodView:
    """Read one pod; total for every pod that an API server can return."""
    reading = _Reading(pod)
    phase = reading.phase()
    open_ = phase in (PodPhase.PENDING, PodPhase.RUNNING)
    return PodView(
        name=reading.metadata.get("name") or "",
        namespace=reading.metadata.get("namespace") or "",
        uid=reading.metadata.get("uid") or "",
        submission=_submission(reading.labels),
        owner=reading.labels.get(LABEL_OWNER),
        phase=phase,
        node=reading.spec.get("nodeName"),
        started=reading.started(),
        has_no_sandbox=reading.condition("PodReadyToStartContainers").get("status") == "False",
        asked_as=reading.asked_as(),
        is_outlived=reading.is_outlived(),
        resources=resources_of(pod, reading.main_name, reading.state("terminated") or {}),
        waits=reading.waits() if open_ else None,
        diagnosis=_diagnosis_in(phase, reading),
    )


def _diagnosis_in(phase: PodPhase, reading: "_Reading") -> Diagnosis | None:
    if phase in (PodPhase.FAILED, PodPhase.DELETING):
        return reading.failure()
    return reading.blemish() if phase is PodPhase.SUCCEEDED else None


def _submission(labels: Mapping[str, str]) -> SubmissionId | None:
    attempt, number = labels.get(LABEL_ATTEMPT), labels.get(LABEL_SUBMISSION, "")
    return SubmissionId(attempt, int(number)) if attempt and number.isdecimal() else None


class _Reading:
    """The parts of a pod that the questions below are asked of."""

    def __init__(self, pod: Mapping[str, Any]) -> None:
        self.metadata: Mapping[str, Any] = pod.get("metadata") or {}
        self.labels: Mapping[str, str] = self.metadata.get("labels") or {}
        self.spec: Mapping[str, Any] = pod.get("spec") or {}
        self.status: Mapping[str, Any] = pod.get("status") or {}
        self.inits: Sequence[Mapping[str, Any]] = self.status.get("initContainerStatuses") or ()
        self.containers: Sequence[Mapping[str, Any]] = self.status.get("containerStatuses") or ()
        self.main_name = self._main_name()
        named = (c for c in self.containers if c.get("name") == self.main_name)
        self.main: Mapping[str, Any] = next(named, {})

    def _main_name(self) -> str:
        # An override may have renamed the first container, which is the one that runs the task.
        names = [c.get("name") for c in self.spec.get("containers") or ()]
        return BASE if BASE in names or not names else str(names[0])

    def state(self, kind: str, of: Mapping[str, Any] | None = None) -> Mapping[str, Any] | None:
        """The running, waiting or terminated state of a container; None if it is in another."""
        state = ((self.main if of is None else of).get("state") or {}).get(kind)
        return state if isinstance(state, Mapping) else None

    def condition(self, kind: str) -> Mapping[str, Any]:
        found = (c for c in self.status.get("conditions") or () if c.get("type") == kind)
        return next(found, {})

    # --- how far ------------------------------------------------------------------

    def phase(self) -> PodPhase:
        ended = self.state("terminated")
        if ended is not None:
            return PodPhase.FAILED if ended.get("exitCode") else PodPhase.SUCCEEDED
        given = self.status.get("phase")
        if given in ("Succeeded", "Failed"):
            return PodPhase(str(given).lower())
        if self.metadata.get("deletionTimestamp"):
            return PodPhase.DELETING
        if self.state("running") is not None:
            return PodPhase.RUNNING
        # Runs by the pod's word alone, where the container's is missing (virtual nodes).
        return PodPhase.RUNNING if given == "Running" and not self.main else PodPhase.PENDING

    def is_outlived(self) -> bool:
        others = (c for c in self.containers if c.get("name") != self.main_name)
        return self.state("terminated") is not None and any(
            self.state("running", c) is not None for c in others
        )

    def asked_as(self) -> str | None:
        """By what host name its process asked in vain for leave to start; None of any other end."""
        ended = self.state("terminated") or {}
        if ended.get("exitCode") != start.EXIT_CODE:
            return None
        # The last one is the entry point's own, as with measurements.
        lines = reversed(str(ended.get("message") or "").splitlines())
        return next((host for line in lines if (host := start.from_line(line))), None)

    def started(self) -> bool:
        if self.state("running") is not None:
            return True
        ended = self.state("terminated") or {}
        if ended.get("reason") == "ContainerStatusUnknown":
            # So a node ends, too, what is deleted before it has a container.
            return bool(self.main.get("containerID"))
        if ended:
            return ended.get("reason") not in _NEVER_STARTED
        return bool((self.main.get("lastState") or {}).get("terminated")) or (
            not self.main and self.status.get("phase") in ("Running", "Succeeded", "Unknown")
        )

    # --- why not yet --------------------------------------------------------------

    def waits(self) -> Diagnosis | None:
        if self.status.get("phase") == "Unknown":
            node = self.spec.get("nodeName") or "its node"
            return _diagnosis(Reason.NODE_LOST, f"{node} has stopped reporting; the task may still run")
        if self.phase() is PodPhase.RUNNING:
            return None
        return self._unscheduled() or self._container_waits()

    def _unscheduled(self) -> Diagnosis | None:
        scheduled = self.condition("PodScheduled")
        if scheduled.get("status") == "False":
            hard = scheduled.get("reason") == "Unschedulable"
            return _diagnosis(
                Reason.UNSCHEDULABLE if hard else Reason.POD_PENDING,
                scheduled.get("message") or scheduled.get("reason") or "not scheduled",
            )
        if not self.spec.get("nodeName") and not self.containers:
            return _diagnosis(Reason.POD_PENDING, "not bound to a node yet")
        return None

    def _container_waits(self) -> Diagnosis:
        for container in (*self.inits, self.main, *self.containers):
            waiting = self.state("waiting", container)
            why = (waiting or {}).get("reason") or ""
            if waiting is None or not (why in _WAITING or why == "CrashLoopBackOff"):
                continue
            # Only an init container can crash in a loop and hold the main one back.
            text = f"container {container.get('name')}: {why}"
            return _diagnosis(_WAITING.get(why, Reason.INIT_FAILED), text, waiting.get("message"))
        why = (self.state("waiting") or {}).get("reason") or "waiting for its node"
        return _diagnosis(Reason.POD_PENDING, why, (self.state("waiting") or {}).get("message"))

    # --- why not any more ---------------------------------------------------------

    def failure(self) -> Diagnosis:
        return next(cause for cause in self._causes() if cause is not None)

    def blemish(self) -> Diagnosis | None:
        """The kernel killed a process inside for memory; the container's own lived on and ended well."""
        ended = self.state("terminated") or {}
        if ended.get("reason") != "OOMKilled":
            return None
        text = f"a process inside was killed: container {self.main_name} {self._memory(self.main_name)}"
        return _diagnosis(Reason.OOM_KILLED, text, said(ended), self._exit_code())

    def _causes(self) -> Iterator[Diagnosis | None]:
        """What can explain the end, the most telling first."""
        yield self._pod_cause()
        yield self._silent_node()
        yield self._disruption()
        yield self._main_cause()
        yield self._init_cause()
        if self.metadata.get("deletionTimestamp"):
            yield _diagnosis(Reason.POD_DELETED, "deleted before it ended", exit_code=self._exit_code())
        yield self._other_cause()
        yield _diagnosis(Reason.ERROR, "the pod failed without a reason", self.status.get("message"))

    def _exit_code(self) -> int | None:
        code = (self.state("terminated") or {}).get("exitCode")
        return code if isinstance(code, int) else None

    def _pod_cause(self) -> Diagnosis | None:
        given = self.status.get("reason") or ""
        reason = Reason.UNSCHEDULABLE if given.startswith("OutOf") else _POD_REASONS.get(given)
        if reason is None:
            return None
        head = "refused by its node: " if reason is Reason.UNSCHEDULABLE else ""
        return _diagnosis(reason, f"{head}{given}", self.status.get("message"), self._exit_code())

    def _silent_node(self) -> Diagnosis | None:
        """Controllers took Ready from a pod of a node that fell silent; the node itself would give a reason.

        What follows (a NoExecute taint, the pod's collection) then says no more than that.
        """
        ready, containers = self.condition("Ready"), self.condition("ContainersReady")
        taken = ready.get("status") == "False" and not ready.get("reason")
        if not taken or containers.get("status") != "True" or self.state("terminated") is not None:
            return None
        text = f"{self.spec.get('nodeName') or 'its node'} fell silent while the pod ran on it"
        return _diagnosis(Reason.NODE_LOST, text, self.condition("DisruptionTarget").get("message"))

    def _disruption(self) -> Diagnosis | None:
        condition, code = self.condition("DisruptionTarget"), self._exit_code()
        # A process that ended by itself in that moment has a reason of its own.
        if condition.get("status") != "True" or (code is not None and code not in _KILLED):
            return None
        given = condition.get("reason") or ""
        reason, text = _DISRUPTIONS.get(given, (Reason.EVICTED, given or "disrupted"))
        return _diagnosis(reason, text, condition.get("message"), code)

    def _main_cause(self) -> Diagnosis | None:
        ended = self.state("terminated")
        if ended is None or not ended.get("exitCode"):
            return None
        return self._terminated(self.main_name, ended)

    def _terminated(self, name: str, ended: Mapping[str, Any]) -> Diagnosis | None:
        why, code, detail = ended.get("reason") or "Error", ended.get("exitCode"), said(ended)
        if why == "OOMKilled":
            return _diagnosis(Reason.OOM_KILLED, f"container {name} {self._memory(name)}", detail, code)
        if why in _NEVER_STARTED:
            return _diagnosis(Reason.CONTAINER_CONFIG, f"container {name} could not be started", detail, code)
        if why == "ContainerStatusUnknown" and self.metadata.get("deletionTimestamp") and not self.started():
            return None
        if why == "ContainerStatusUnknown":
            return _diagnosis(Reason.NODE_LOST, f"its node lost track of container {name}", detail, code)
        if why == "DeadlineExceeded":
            return _diagnosis(Reason.DEADLINE_EXCEEDED, "activeDeadlineSeconds is over", detail, code)
        if code in _KILLED and self.metadata.get("deletionTimestamp"):
            return None
        if name == self.main_name and self.asked_as():
            return _diagnosis(Reason.NOT_STARTED, "the task was not started", detail, code)
        return _diagnosis(Reason.ERROR, f"container {name} ended with exit code {code}", detail, code)

    def _memory(self, name: str) -> str:
        specs = [c for c in self.spec.get("containers") or () if c.get("name") == name]
        limits = (specs[0].get("resources") or {}).get("limits") or {} if specs else {}
        if "memory" not in limits:
            return "was killed for memory; it has no limit of its own, so its node ran out"
        return f"went over its memory limit of {_size(limits['memory'])}"

    def _init_cause(self) -> Diagnosis | None:
        for container in self.inits:
            ended = self.state("terminated", container)
            if ended is not None and ended.get("exitCode"):
                text = f"init container {container.get('name')}: {ended.get('reason') or 'Error'}"
                code = ended["exitCode"]
                return _diagnosis(Reason.INIT_FAILED, f"{text}, exit code {code}", ended.get("message"), code)
        return None

    def _other_cause(self) -> Diagnosis | None:
        """A pod that failed before its main container was: something else must have."""
        for container in self.containers:
            ended = self.state("terminated", container)
            if container is not self.main and ended is not None and ended.get("exitCode"):
                text = f"container {container.get('name')} ended with exit code {ended['exitCode']}"
                return _diagnosis(Reason.INIT_FAILED, text, ended.get("message"))
        waits = self._container_waits()
        return waits if waits.reason is not Reason.POD_PENDING else None


def _diagnosis(
    reason: Reason, text: str, detail: str | None = None, exit_code: int | None = None
) -> Diagnosis:
    detail = " ".join((detail or "").split())
    message = f"{text}: {detail}" if detail and detail not in text else text
    if len(message) > _MESSAGE_MAX:
        message = message[: _MESSAGE_MAX - 1] + "…"
    return Diagnosis(reason=reason, message=message, exit_code=exit_code)


def _size(quantity: Any) -> str:
    try:
        return in_binary_units(parse_quantity(quantity))
    except ValueError:
        return str(quantity)
