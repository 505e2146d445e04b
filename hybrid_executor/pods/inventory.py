"""Pods for people: whose task each runs, how far it is, since when, why, and which are leftovers.

Pure, and total for every pod that an API server can return. Says nothing about
attempts: what becomes of those is ``lifecycle``'s. Called by ``airflow hybrid pods``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hybrid_executor.model.attempt import SubmissionId, TaskAddress
from hybrid_executor.naming import LABEL_CLUSTER, LABEL_DONE
from hybrid_executor.pods.diagnosis import PodPhase, observe
from hybrid_executor.pods.template import BASE

Pod = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSummary:
    """One line about a pod. Times are UTC."""

    #: Its name, as routes have it; empty is that of ``[kubernetes_executor]``.
    cluster: str
    namespace: str
    name: str
    uid: str
    #: None for a pod that lost our labels.
    submission: SubmissionId | None
    #: None where neither annotations nor labels name a task.
    address: TaskAddress | None
    #: The scheduler job that answers for it.
    owner: str | None
    phase: PodPhase
    #: Whether the process that runs the task was ever started.
    started: bool
    #: Why it waits, is going or has failed: ``Reason: message``; empty while all is well.
    reason: str
    node: str | None
    #: The container that runs the task.
    container: str
    created_at: datetime | None
    #: When it ended; None while it lives.
    ended_at: datetime | None
    #: Its end is recorded and it is kept for people to look at.
    done: bool
    #: Its deletion has been asked for.
    deleting: bool

    @property
    def external_name(self) -> str:
        return f"{self.namespace}/{self.name}"


def summarise(pod: Pod) -> PodSummary:
    """Read one pod."""
    view = observe(pod)
    metadata = pod.get("metadata") or {}
    why = view.diagnosis or view.waits
    return PodSummary(
        cluster=(metadata.get("labels") or {}).get(LABEL_CLUSTER, ""),
        namespace=view.namespace,
        name=view.name,
        uid=view.uid,
        submission=view.submission,
        address=_address(metadata),
        owner=view.owner,
        phase=view.phase,
        started=view.started,
        reason=f"{why.reason}: {why.message}" if why and why.message else str(why.reason) if why else "",
        node=view.node,
        container=main_container(pod),
        created_at=_instant(metadata.get("creationTimestamp")),
        ended_at=_ended_at(pod) if view.ended else None,
        done=LABEL_DONE in (metadata.get("labels") or {}),
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def main_container(pod: Pod) -> str:
    """The name of the container that runs the task: an override may have renamed it, but it stays first."""
    names = [str(c.get("name")) for c in (pod.get("spec") or {}).get("containers") or ()]
    return BASE if BASE in names or not names else names[0]


def is_old(summary: PodSummary, now: datetime, older_than: timedelta) -> bool:
    """Whether it ended at least so long ago."""
    return summary.ended_at is not None and now - summary.ended_at >= older_than


def _address(metadata: Mapping[str, Any]) -> TaskAddress | None:
    """From the annotations, which hold ids as they are; labels may hold them shortened."""
    names = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    if not names.get("dag_id") or not names.get("task_id"):
        return None
    return TaskAddress(
        dag_id=names["dag_id"],
        task_id=names["task_id"],
        run_id=names.get("run_id") or "",
        map_index=_number(names.get("map_index"), -1),
        try_number=_number(names.get("try_number"), 1),
    )


def _number(text: Any, otherwise: int) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        return otherwise


def _ended_at(pod: Pod) -> datetime | None:
    """When the container that runs the task ended; else the next best thing that the pod tells."""
    status, metadata = pod.get("status") or {}, pod.get("metadata") or {}
    containers = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    own = [container for container in containers if container.get("name") == main_container(pod)]
    conditions = (_instant(c.get("lastTransitionTime")) for c in status.get("conditions") or ())
    return (
        max(_finishes(own), default=None)
        or max(_finishes(containers), default=None)
        or max(filter(None, conditions), default=None)
        or _instant(metadata.get("creationTimestamp"))
    )


def _finishes(containers: list[Mapping[str, Any]]) -> Iterator[datetime]:
    for container in containers:
        ended = (container.get("state") or {}).get("terminated") or {}
        if finished := _instant(ended.get("finishedAt")):
            yield finished


def _instant(text: Any) -> datetime | None:
    try:
        instant = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
