"""Builds the pod of a submission from plain values.

What comes out equals what the stock KubernetesExecutor builds for the same
workload, template and settings, apart from ``STOCK_DIFFERENCES``; a contract
test fails for any other difference. Knows no client library (a pod costs a
fraction of the models' copies), does no I/O, and never sees ``executor_config``
or the mutation hook: those are ``backends/kubernetes/podgenerator.py``, which
starts from what is built here and seals the result again.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from hybrid_executor.model.attempt import Route, Submission, TaskAddress
from hybrid_executor.model.errors import InvalidPod
from hybrid_executor.naming import (
    ANNOTATION_FATAL_WAIT,
    LABEL_ATTEMPT,
    LABEL_CLUSTER,
    LABEL_DEPLOYMENT,
    LABEL_EXECUTOR,
    LABEL_OWNER,
    LABEL_SUBMISSION,
    pod_name,
)
from hybrid_executor.pods.template import BASE, PodTemplate
from hybrid_executor.pods.workload import FOLDER, VOLUME, arguments, mount

ENV_EXECUTOR = "AIRFLOW__CORE__EXECUTOR"
ENV_IN_POD = "AIRFLOW_IS_K8S_EXECUTOR_POD"
#: Where a task finds the Execution API, if its own configuration is not to say it.
ENV_EXECUTION_API = "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"
LABEL_MAX = 63
#: What runs a workload in a pod; both take the same arguments.
ENTRY_STOCK = "airflow.sdk.execution_time.execute_workload"
ENTRY_OWN = "hybrid_executor.worker.task"

#: Every path at which our pod differs from the stock one, and why. Lists are addressed by name.
STOCK_DIFFERENCES: Mapping[tuple[str, ...], str] = {
    ("apiVersion",): "v1 where the template leaves it out",
    ("kind",): "Pod where the template leaves it out",
    ("metadata", "name"): "made from the submission, so that a repeated POST makes no second pod",
    ("metadata", "labels", LABEL_ATTEMPT): "finds the attempt of a pod, and the pod of an attempt",
    ("metadata", "labels", LABEL_SUBMISSION): "tells a repeat of a POST from a later submission",
    ("spec", "restartPolicy"): (
        "always Never: a container restarted in place keeps its hostname, slips through Airflow's own "
        "guard against a second run, and never ends"
    ),
    ("spec", "containers", BASE, "env", ENV_EXECUTOR): (
        "the scheduler's string: with another one a DAG that names an executor does not parse in the pod "
        "(AF#56271); stock templates say LocalExecutor"
    ),
}
#: What differs besides where the workload is in a Secret, which a setting turns off.
SECRET_DIFFERENCES: Mapping[tuple[str, ...], str] = {
    ("spec", "containers", BASE, "args"): "--json-path: an argument is read by whoever may read pods",
    ("spec", "containers", BASE, "volumeMounts", VOLUME): "where that path is",
    ("spec", "volumes", VOLUME): "the Secret of the pod's name",
}


#: What differs besides where pods are measured.
MEASURE_DIFFERENCES: Mapping[tuple[str, ...], str] = {
    ("spec", "containers", BASE, "args"): "the entry point that tells what its container took",
}

#: What ``seal`` and the sending set, whatever an override or a hook says. Lists are addressed by name.
SEALED = frozenset(
    {
        ("metadata", "name"),
        *(
            ("metadata", "labels", label)
            for label in (
                LABEL_EXECUTOR,
                LABEL_OWNER,
                LABEL_DEPLOYMENT,
                LABEL_CLUSTER,
                LABEL_ATTEMPT,
                LABEL_SUBMISSION,
            )
        ),
        ("metadata", "annotations", ANNOTATION_FATAL_WAIT),
        ("spec", "restartPolicy"),
        ("spec", "volumes", VOLUME),
        ("spec", "containers", BASE, "volumeMounts", FOLDER),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSettings:
    """What the pods of one scheduler have in common, in one cluster."""

    #: Where no route says another.
    namespace: str
    #: The scheduler's ``[core] executor``, as it stands.
    executor: str
    #: The id of the scheduler job that answers for the pods.
    scheduler_job: str
    airflow_version: str
    #: ``worker_container_repository:worker_container_tag``; None leaves the template's image.
    image: str | None = None
    #: Environment of the base container, put over the template's; empty unless the operator asks.
    env: Mapping[str, str] = field(default_factory=dict)
    #: Namespaces that are watched; None for all. A pod elsewhere would never be seen to end.
    watched: frozenset[str] | None = None
    #: Whether the workload comes as a file from a Secret; else it is an argument, as in stock.
    workload_secret: bool = True
    #: Whether every pod's entry point is ours, which tells what its container took.
    measure_pods: bool = False


def settings_of_route(settings: PodSettings, route: Route) -> PodSettings:
    """Those of its cluster, with what the route itself says of them."""
    url = route.execution_api_server_url
    return replace(
        settings,
        namespace=route.namespace or settings.namespace,
        env={**settings.env, ENV_EXECUTION_API: url} if url else settings.env,
    )


def stock_differences(settings: PodSettings) -> dict[tuple[str, ...], str]:
    """All that these settings make differ."""
    env = ("spec", "containers", BASE, "env")
    found = dict(STOCK_DIFFERENCES) | {(*env, name): "set by the operator" for name in settings.env}
    if settings.measure_pods:
        found |= MEASURE_DIFFERENCES
    return found | dict(SECRET_DIFFERENCES) if settings.workload_secret else found


def build_pod(submission: Submission, template: PodTemplate, settings: PodSettings) -> dict[str, Any]:
    """The manifest to POST; raises ``InvalidPod`` for what is no task.

    ``template`` is the one that this submission gets, with its route's defaults where these count.
    """
    address = submission.attempt.address
    if address is None:
        raise InvalidPod(f"a {submission.attempt.kind} can't run in a pod: only tasks can")
    pod = template.document()
    metadata = pod.setdefault("metadata", {})
    metadata["namespace"] = settings.namespace
    metadata["labels"] = {**(metadata.get("labels") or {}), **stock_labels(address, settings)}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **stock_annotations(address)}
    _fill_base(pod["spec"]["containers"][0], submission, settings)
    return seal(pod, submission, settings)


def seal(pod: dict[str, Any], submission: Submission, settings: PodSettings) -> dict[str, Any]:
    """Put last what makes the pod ours; an override or a hook may have changed it. Changes ``pod``.

    The name is always the executor's own, for a repeated POST must meet the
    same pod. A namespace that was chosen on purpose stays, if it is watched.
    """
    metadata, spec = pod.setdefault("metadata", {}), pod.setdefault("spec", {})
    metadata["name"] = pod_name(submission.attempt.address, submission.id)
    metadata.pop("generateName", None)
    metadata["namespace"] = namespace = metadata.get("namespace") or settings.namespace
    if settings.watched is not None and namespace not in settings.watched | {settings.namespace}:
        raise InvalidPod(
            f"metadata.namespace: {namespace!r} is not watched by this executor; "
            "see [kubernetes_executor] multi_namespace_mode"
        )
    metadata["labels"] = {
        **(metadata.get("labels") or {}),
        LABEL_EXECUTOR: "True",
        LABEL_OWNER: safe_label(settings.scheduler_job),
        LABEL_ATTEMPT: submission.attempt.id,
        LABEL_SUBMISSION: str(submission.number),
    }
    if (limit_s := submission.attempt.route.fatal_wait_s) is not None:
        annotations = metadata.get("annotations") or {}
        metadata["annotations"] = {**annotations, ANNOTATION_FATAL_WAIT: f"{limit_s:g}"}
    spec["restartPolicy"] = "Never"
    if settings.workload_secret:
        mount(pod)
    return pod


def stock_labels(address: TaskAddress, settings: PodSettings) -> dict[str, str]:
    """The labels that the stock executor puts on a pod, its owner among them."""
    labels = {
        "dag_id": safe_label(address.dag_id),
        "task_id": safe_label(address.task_id),
        "try_number": str(address.try_number),
        LABEL_EXECUTOR: "True",
        "airflow_version": settings.airflow_version.replace("+", "-"),
        LABEL_OWNER: safe_label(settings.scheduler_job),
    }
    if address.map_index >= 0:
        labels["map_index"] = str(address.map_index)
    if address.run_id:
        labels["run_id"] = safe_label(address.run_id)
    return labels


def stock_annotations(address: TaskAddress) -> dict[str, str]:
    """The annotations from which stock commands read a task instance's whole key."""
    annotations = {
        "dag_id": address.dag_id,
        "task_id": address.task_id,
        "try_number": str(address.try_number),
    }
    if address.map_index >= 0:
        annotations["map_index"] = str(address.map_index)
    if address.run_id:
        annotations["run_id"] = address.run_id
    return annotations


@lru_cache(maxsize=4096)
def safe_label(text: str) -> str:
    """``text`` as a label value, equal to the provider's: what had to be changed ends in a hash.

    Differs only where the provider's value is none that Kubernetes accepts: an
    id without one ASCII letter or digit becomes the hash alone, without a dash
    before it.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]", "", text).strip("_.-")
    if safe == text and len(safe) <= LABEL_MAX:
        return safe
    tail = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()[:9]
    return f"{safe[: LABEL_MAX - len(tail) - 1]}-{tail}" if safe else tail


def _fill_base(container: dict[str, Any], submission: Submission, settings: PodSettings) -> None:
    payload = None if settings.workload_secret else submission.payload
    container["args"] = ["python", "-m", entry_point(submission, settings), *arguments(payload)]
    if settings.image:
        container["image"] = settings.image
    own = {**settings.env, ENV_EXECUTOR: settings.executor}
    container["env"] = [
        *_with_values(container.get("env") or [], own),
        {"name": ENV_IN_POD, "value": "True"},
    ]


def entry_point(submission: Submission, settings: PodSettings) -> str:
    """The module that runs the workload: the stock one, unless ours is to forgive a death or to measure."""
    wants_ours = submission.attempt.route.retry_on or settings.measure_pods
    return ENTRY_OWN if wants_ours else ENTRY_STOCK


def _with_values(env: list[dict[str, Any]], own: Mapping[str, str]) -> list[dict[str, Any]]:
    """``env`` with our values, each at its old place (others may refer to it) or else at the end."""
    there = {item["name"] for item in env}
    return [
        *(_env(item["name"], own) if item["name"] in own else item for item in env),
        *(_env(name, own) for name in own if name not in there),
    ]


def _env(name: str, values: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "value": values[name]}
