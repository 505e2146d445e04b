"""What is run: attempts, their submissions, and the route that was chosen.

An *attempt* is one QUEUED transition of a task instance, named by the UUID
that the scheduler commits as ``external_executor_id``. A *submission* is one
hand-over of an attempt to a backend, numbered from 1 and recorded in the
ledger before it is sent. These records are made by the shell and only read
below it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from hybrid_executor.model.reason import Reason


class BackendName(StrEnum):
    """Where a submission runs."""

    CELERY = "celery"
    KUBERNETES = "kubernetes"


class Destination(NamedTuple):
    """What may be away, full or slow by itself: a backend, or one of its clusters."""

    backend: BackendName
    #: Its name in routes; empty where the backend has but one, or for that of its own settings.
    cluster: str = ""

    def __str__(self) -> str:
        """As log lines have it."""
        return f"{self.backend} cluster={self.cluster}" if self.cluster else str(self.backend)


class WorkloadKind(StrEnum):
    """What Airflow handed over."""

    TASK = "task"
    CALLBACK = "callback"
    CONNECTION_TEST = "connection_test"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAddress:
    """The key of a task instance, as a person reads it in Airflow."""

    dag_id: str
    task_id: str
    run_id: str
    #: -1 for a task that is not mapped, as in Airflow.
    map_index: int = -1
    try_number: int = 1

    @property
    def task(self) -> str:
        """The task in its DAG, for people: ``dag.task``, or ``dag.task[index]`` for one that is mapped."""
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag_id}.{self.task_id}{index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Which backend an attempt goes to, and which rule said so."""

    backend: BackendName
    #: The rule in words that a user recognises, e.g. ``routes.yaml rule 2: queue gpu-*``.
    rule: str
    #: As the clusters file names it; empty is the one of ``[kubernetes_executor]``. Kubernetes only.
    cluster: str = ""
    #: The namespace of its pods in place of the cluster's own; Kubernetes only.
    namespace: str | None = None
    #: Where its pods reach the Execution API, in place of the cluster's; Kubernetes only.
    execution_api_server_url: str | None = None
    #: Path of a pod template that replaces the configured one; Kubernetes only.
    pod_template_file: str | None = None
    #: A partial pod manifest laid over the template; Kubernetes only.
    pod_defaults: Mapping[str, Any] | None = None
    #: Ends of a running task after which Airflow runs it again without using a retry.
    retry_on: frozenset[Reason] = frozenset()
    #: How many tries in a row may end so.
    retry_limit: int = 0
    #: For how long a pod may wait for something that may never come; None is the executor's own setting.
    fatal_wait_s: float | None = None

    @property
    def destination(self) -> Destination:
        return Destination(self.backend, self.cluster)

    @property
    def as_recorded(self) -> "Route":
        """What the ledger keeps of it: all that matters once the pod is there."""
        return replace(
            self, pod_defaults=None, fatal_wait_s=None, namespace=None, execution_api_server_url=None
        )

    @property
    def forgives(self) -> str:
        """The deaths that cost no retry, in words; empty if each does."""
        return f"{', '.join(sorted(self.retry_on))} ({self.retry_limit} in a row)" if self.retry_on else ""


class SubmissionId(NamedTuple):
    """Names one hand-over: the attempt's UUID and the number, from 1."""

    attempt_id: str
    number: int

    def __str__(self) -> str:
        return f"{self.attempt_id}/{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One workload on its way through the executor."""

    #: Canonical UUID text (36 characters, lower case).
    id: str
    kind: WorkloadKind
    #: Airflow's id of the thing that runs: ``task_instance.id``, the callback's or the test's id.
    workload_id: str
    #: None for callbacks and connection tests.
    address: TaskAddress | None
    queue: str
    #: Airflow's priority weight; the higher goes first.
    priority: int
    route: Route
    #: When the scheduler queued it, UTC.
    queued_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Everything that a backend needs to run an attempt once."""

    attempt: Attempt
    number: int
    #: The workload as Airflow's JSON, token included: never log it, never put it in a repr.
    payload: str
    #: The task's ``executor_config``; only the Kubernetes backend reads it.
    executor_config: Mapping[str, Any] | None = None

    @property
    def id(self) -> SubmissionId:
        return SubmissionId(self.attempt.id, self.number)

    def __repr__(self) -> str:
        return f"Submission({self.id}, queue={self.attempt.queue!r}, rule={self.attempt.route.rule!r})"
