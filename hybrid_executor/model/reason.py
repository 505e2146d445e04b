"""The stable set of reasons: why an attempt waits, and why it ended.

The values are a contract: they stand in the ledger, in metrics, in logs and
in the documentation, and a released one is never renamed.
"""

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
