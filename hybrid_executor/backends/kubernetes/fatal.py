"""Pods that wait for what may never come (an image, a secret), and for how long they may.

Which waits are fatal is the user's word (``worker_pod_pending_fatal_container_state_reasons``);
how long one is let be is that of the pod's route, which stands on the pod
itself, or of ``fatal_wait_s``. Zero, the stock meaning, gives a pod up at first
sight. Decides that alone, without I/O; ``book`` asks, and has the pod deleted.
A scheduler that takes a pod over begins to count anew.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Diagnosis
from hybrid_executor.naming import ANNOTATION_FATAL_WAIT


@dataclass(frozen=True, slots=True)
class Verdict:
    """A pod is given up."""

    diagnosis: Diagnosis
    #: It had all the time that the user wants to give, so another pod would fare the same.
    for_good: bool


@dataclass(frozen=True, slots=True)
class _Doubt:
    since_s: float
    limit_s: float
    waits: Diagnosis


class FatalWaits:
    """The pods of one backend that wait so."""

    def __init__(self, reasons: Collection[str], default_s: float, clock: Callable[[], float]) -> None:
        self._reasons = frozenset(reasons)
        self._default_s = default_s
        self._clock = clock
        self._doubts: dict[SubmissionId, _Doubt] = {}

    def see(self, submission: SubmissionId, waits: Diagnosis, pod: Mapping[str, Any]) -> Verdict | None:
        """What follows from a pod that waits."""
        doubt = self._doubts.get(submission)
        if doubt and doubt.waits.reason is not waits.reason:
            self.settle(submission)
            doubt = None
        # A kubelet's pause between two tries of the same (ImagePullBackOff) ends no such wait.
        if not waits_for_good(pod, self._reasons):
            return None
        limit_s = wait_limit_s(pod, self._default_s)
        if limit_s <= 0:
            return Verdict(waits, for_good=False)
        self._doubts[submission] = (
            replace(doubt, waits=waits) if doubt else _Doubt(self._clock(), limit_s, waits)
        )
        return None

    def settle(self, submission: SubmissionId) -> None:
        """It waits no more."""
        self._doubts.pop(submission, None)

    def overdue(self) -> dict[SubmissionId, Verdict]:
        """Those whose time is up, once; costs what waits so."""
        now_s = self._clock()
        late = {s: d for s, d in self._doubts.items() if now_s - d.since_s >= d.limit_s}
        for submission in late:
            del self._doubts[submission]
        return {s: Verdict(_with_limit(d), for_good=True) for s, d in late.items()}


def waits_for_good(pod: Mapping[str, Any], fatal_reasons: Collection[str]) -> bool:
    """Whether a container waits for one of the reasons that the user calls fatal.

    As the stock executor has it: init containers and the first container, and
    never the node's own limit on pulls, which passes.
    """
    status = pod.get("status") or {}
    containers = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())[:1])
    waits = [(container.get("state") or {}).get("waiting") or {} for container in containers]
    return status.get("phase") == "Pending" and any(
        wait.get("reason") in fatal_reasons and wait.get("message") != "pull QPS exceeded" for wait in waits
    )


def wait_limit_s(pod: Mapping[str, Any], default_s: float) -> float:
    """For how long a fatal wait of this pod is let be; what no number is says nothing."""
    try:
        given_s = float((pod["metadata"].get("annotations") or {}).get(ANNOTATION_FATAL_WAIT, ""))
    except ValueError:
        return default_s
    return given_s if isfinite(given_s) else default_s


def _with_limit(doubt: _Doubt) -> Diagnosis:
    text = f"{doubt.waits.message} (for {doubt.limit_s:g} s, its fatal_wait_s)"
    return Diagnosis(reason=doubt.waits.reason, message=text)
