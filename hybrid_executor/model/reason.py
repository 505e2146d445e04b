"""The stable set of reasons: why an attempt waits, and why it ended; and for each what to do about it.

The values are a contract: they stand in the ledger, in metrics, in logs and
in the documentation, and a released one is never renamed. The hints are words
for the person on call and may be bettered at any time.
"""

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """Why an attempt waits or ended. The text is what users see and alert on."""

    # --- waits: nothing is wrong with the task ---------------------------------
    #: The backend is at its own limit (``celery_parallelism``, ``kubernetes_parallelism``).
    HELD = "Held"
    #: What is sent has reached ``[core] parallelism``.
    PARALLELISM = "Parallelism"
    #: An older process of the same task instance may still live.
    EARLIER_ATTEMPT = "EarlierAttempt"
    #: The routes file is invalid or unreadable, so no route can be trusted.
    ROUTES_INVALID = "RoutesInvalid"
    #: The ledger could not be written, and nothing is sent unrecorded.
    LEDGER_UNAVAILABLE = "LedgerUnavailable"
    #: The broker does not answer.
    BROKER_UNAVAILABLE = "BrokerUnavailable"
    #: The message lies in its queue; no worker has taken it yet.
    IN_QUEUE = "InQueue"
    #: The cluster of its route is not configured (any more), so nobody can be asked what became of it.
    UNKNOWN_CLUSTER = "UnknownCluster"
    #: The Kubernetes API server does not answer or answers 5xx.
    API_UNAVAILABLE = "ApiUnavailable"
    #: A ResourceQuota or LimitRange refused the pod (403).
    QUOTA = "QuotaExceeded"
    #: The API server answered 409 for something else than our own pod.
    CONFLICT = "Conflict"
    #: The API server answered 429.
    THROTTLED = "Throttled"
    #: Credentials or permissions are missing (401, or 403 that is no quota).
    FORBIDDEN = "Forbidden"
    #: The pod exists and has not started for no worse reason than time.
    POD_PENDING = "PodPending"
    #: No node that is there could hold the pod, however empty.
    NO_NODE = "NoNode"

    # --- waits that can also be ends --------------------------------------------
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL = "ImagePull"
    #: A container can't be made: a missing secret or config map, a bad name.
    CONTAINER_CONFIG = "ContainerConfig"
    #: A volume can't be mounted.
    VOLUME = "Volume"

    # --- ends -------------------------------------------------------------------
    #: The pod template, ``pod_override``, ``executor_config`` or mutation hook is wrong.
    INVALID_POD = "InvalidPod"
    #: The backend refused the submission for good.
    REFUSED = "Refused"
    #: The task process ended with an error of its own.
    ERROR = "Error"
    OOM_KILLED = "OOMKilled"
    EVICTED = "Evicted"
    PREEMPTED = "Preempted"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    #: An init or sidecar container failed, so the task never ran.
    INIT_FAILED = "InitFailed"
    #: Airflow's Execution API never answered the request to start, so no code of the user's ran.
    NOT_STARTED = "NotStarted"
    NODE_LOST = "NodeLost"
    #: The pod was deleted by somebody else while it ran.
    POD_DELETED = "PodDeleted"
    #: The Celery worker died or lost the task.
    WORKER_LOST = "WorkerLost"
    #: No trace of the submission is left in its backend.
    LOST = "Lost"
    #: Airflow or a user withdrew it.
    REVOKED = "Revoked"
    #: The scheduler's own record says that it is over; the backend's word never came.
    SETTLED = "Settled"

    @property
    def hint(self) -> str:
        """What to do about it; empty where there is nothing to do."""
        return _HINTS.get(self, "")


#: Ends of a task that was running and is none the worse for it: a route may have Airflow run it again.
RESTARTABLE_PODS = frozenset({Reason.EVICTED, Reason.PREEMPTED, Reason.NODE_LOST, Reason.OOM_KILLED})
RESTARTABLE_ON_WORKERS = frozenset({Reason.WORKER_LOST})
RESTARTABLE = RESTARTABLE_PODS | RESTARTABLE_ON_WORKERS

_HINTS: Mapping[Reason, str] = {
    Reason.HELD: "raise celery_parallelism or kubernetes_parallelism",
    Reason.PARALLELISM: "raise [core] parallelism",
    Reason.EARLIER_ATTEMPT: "wait until it has ended",
    Reason.ROUTES_INVALID: "`airflow hybrid routes` shows what is wrong",
    Reason.LEDGER_UNAVAILABLE: "`airflow hybrid doctor` says what is missing",
    Reason.BROKER_UNAVAILABLE: "`airflow hybrid doctor` says what is missing",
    Reason.IN_QUEUE: "start workers for that queue",
    Reason.API_UNAVAILABLE: "`airflow hybrid doctor` says what is missing",
    Reason.UNKNOWN_CLUSTER: "name the cluster in [hybrid_executor] clusters_file again, or clear the task",
    Reason.QUOTA: (
        "raise the quota that the message names, set kubernetes_parallelism below it, "
        "or give the pod the requests that it wants"
    ),
    Reason.CONFLICT: "wait; the namespace may be terminating",
    Reason.THROTTLED: "wait",
    Reason.FORBIDDEN: "`airflow hybrid doctor` names missing verbs; the message names the rest",
    Reason.POD_PENDING: "`kubectl describe pod` says what it waits for",
    Reason.NO_NODE: "lower its requests, or add a node of that size; an autoscaler may do so by itself",
    Reason.UNSCHEDULABLE: "look at its requests, selectors and tolerations, and at the cluster's autoscaler",
    Reason.IMAGE_PULL: "correct the image's name or the pull secret, or see whether the registry answers",
    Reason.CONTAINER_CONFIG: "create what the message names, or correct the pod template or override",
    Reason.VOLUME: "`kubectl describe pod` names the volume; look at its claim or secret, and at the nodes",
    Reason.INVALID_POD: "correct the layer and the field that the message names",
    Reason.REFUSED: "the message is the policy's own: change the pod or the policy",
    Reason.ERROR: "read the task's log",
    Reason.OOM_KILLED: "raise the memory limit, or have the task use less",
    Reason.EVICTED: "set requests nearer to the use, or let the route retry_on it",
    Reason.PREEMPTED: "give the route a priority class, or let it retry_on it",
    Reason.DEADLINE_EXCEEDED: "raise activeDeadlineSeconds",
    Reason.NOT_STARTED: (
        "see whether Airflow's API server is overloaded; [workers] execution_api_timeout is how long it is "
        "waited for"
    ),
    Reason.INIT_FAILED: "read the log of the container that the message names",
    Reason.NODE_LOST: "look at the node, or let the route retry_on it",
    Reason.POD_DELETED: "the audit log of the cluster says who deleted it",
    Reason.WORKER_LOST: "look at the worker's log and memory, or let the route retry_on it",
    Reason.LOST: "the message says more; look at the broker's persistence, or at who deletes pods",
}
