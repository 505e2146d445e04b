"""Names made from an attempt: total, deterministic, and different for different submissions.

Requirements, before the code: every pod name is a DNS label of at most 63
characters for any dag and task id whatsoever; the same submission always gets
the same name, so that repeating a lost request is harmless; two submissions
never share a name, because Airflow's Execution API takes a process with the
same (hostname, user, pid) for the one that it already knows.
"""

import base64
import re
from uuid import UUID, uuid5

from hybrid_executor.model.attempt import SubmissionId, TaskAddress

#: Longest DNS label (RFC 1123), which is also a pod's hostname.
POD_NAME_MAX = 63

#: What the name of a pod of ours ends in: a short id and a number.
_TAIL = re.compile(r"-[a-z2-7]{13}-[1-9][0-9]*$")

#: Labels that the Kubernetes backend puts on its pods, besides the stock ones.
LABEL_ATTEMPT = "hybrid-executor/attempt"
LABEL_SUBMISSION = "hybrid-executor/submission"
#: Whose it is where several Airflows share a namespace: their scheduler jobs have the same numbers.
LABEL_DEPLOYMENT = "hybrid-executor/deployment"
#: Which of an Airflow's clusters a pod is for, where that has a name: two of them may be one API server.
LABEL_CLUSTER = "hybrid-executor/cluster"
#: Which pool of Celery workers a pod belongs to.
LABEL_POOL = "hybrid-executor/pool"
#: Seconds for which a wait may stay fatal, where the pod's route says so.
ANNOTATION_FATAL_WAIT = "hybrid-executor/fatal-wait-s"
#: Where the node of processes writes what a container took: ``<prefix><container>``.
ANNOTATION_USED = "used.hybrid-executor/"
#: The stock label that names the scheduler job which answers for a pod.
LABEL_OWNER = "airflow-worker"
#: The stock label that marks every pod of an executor.
LABEL_EXECUTOR = "kubernetes_executor"
#: The stock label of a pod that is kept after its executor is done with it.
LABEL_DONE = "airflow_executor_done"

#: What people and metrics call the cluster of ``[kubernetes_executor]``, whose name is empty.
DEFAULT_CLUSTER = "default"


def celery_task_id(submission: SubmissionId) -> str:
    """The Celery task id: the attempt's UUID, or one derived from it for later submissions.

    A revoked id is discarded by workers for hours, and an old id still carries
    its old result, so a later submission never uses an earlier one's.
    """
    if submission.number == 1:
        return submission.attempt_id
    return str(uuid5(UUID(submission.attempt_id), str(submission.number)))


def short_id(attempt_id: str) -> str:
    """65 bits of the attempt's UUID as 13 characters of a-z and 2-7."""
    return base64.b32encode(UUID(attempt_id).bytes).decode("ascii").lower()[:13]


def pod_name(address: TaskAddress | None, submission: SubmissionId) -> str:
    """``<dag>-<task>-<short id>-<number>``; the readable part is cut to fit."""
    return _with_tail(address, f"-{short_id(submission.attempt_id)}-{submission.number}")


def is_pod_of(host: str, address: TaskAddress | None, submission: SubmissionId) -> bool:
    """Whether a process on this host, as it calls it itself, is in the pod of this submission."""
    return _first_label(host) == pod_name(address, submission)


def is_pod_of_another(host: str, address: TaskAddress | None, submission: SubmissionId) -> bool:
    """Whether a host is the pod of another submission of a task with this address.

    False for every name that is none of ours: where a template gives pods other
    host names, or ``hostname_callable`` says their addresses, nobody can tell.
    """
    name = _first_label(host)
    tail = _TAIL.search(name)
    return (
        tail is not None
        and name == _with_tail(address, tail.group())
        and not is_pod_of(host, address, submission)
    )


def _first_label(host: str) -> str:
    # In a pod with a subdomain the name is followed by that of its service.
    return host.partition(".")[0]


def _with_tail(address: TaskAddress | None, tail: str) -> str:
    readable = slug(f"{address.dag_id}-{address.task_id}" if address else "workload")
    return readable[: POD_NAME_MAX - len(tail)].strip("-") + tail


def shown_cluster(cluster: str) -> str:
    """A cluster's name for people and metrics."""
    return cluster or DEFAULT_CLUSTER


def slug(text: str) -> str:
    """Lower case letters, digits and single dashes; never empty."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
