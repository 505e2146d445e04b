"""``airflow hybrid explain --pod``: the pod of one task, and which layer set each of its fields.

Makes the pod with the scheduler's own maker and settings, of a submission
that is never sent: no token is minted, and what only a real attempt has (its
id, the run where none is given, the scheduler's job) is an example. Called by
``explain``, which has found the task and its route.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from hybrid_executor.backends.kubernetes.creation import prepared
from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.model.attempt import (
    Attempt,
    BackendName,
    Route,
    Submission,
    TaskAddress,
    WorkloadKind,
)
from hybrid_executor.model.errors import InvalidPod
from hybrid_executor.pods.build import SEALED
from hybrid_executor.pods.layers import Layer, Stage, annotated, layers_of
from hybrid_executor.pods.template import field_name
from hybrid_executor.settings import Settings
from hybrid_executor.settings.pods import pod_maker

#: Stands where a pod that is sent has the token of its task.
TOKEN = "<token>"  # noqa: S105 - it says that there is none
EXAMPLE_ATTEMPT = "00000000-0000-4000-8000-000000000000"
EXAMPLE_TASK_INSTANCE = "00000000-0000-7000-8000-000000000000"
EXAMPLE_JOB = "0"
EXAMPLE_RUN = "<run_id>"


@dataclass(frozen=True, slots=True)
class Explained:
    """A manifest and where it comes from."""

    manifest: dict[str, Any]
    #: By field, as Kubernetes writes it.
    layers: dict[str, str]
    #: In words, what the layers are that a file or a rule stands for.
    sources: dict[str, str]
    #: What to write in place of what the task does; empty if nothing.
    deprecation: str
    #: The manifest as YAML with a layer at the end of each line.
    text: str


def explain_pod(ti: Any, address: TaskAddress, route: Route, settings: Settings) -> Explained:
    """The pod of a task instance that need not exist; exits where there is none or none can be made."""
    name = f"{address.dag_id}.{address.task_id}"
    if route.backend is not BackendName.KUBERNETES:
        raise SystemExit(f"{name} has no pod: it runs on a Celery worker ({route.rule})")
    submission = _submission(ti, address, route)
    maker = pod_maker(settings, Templates(settings.pod_template_file), EXAMPLE_JOB)
    try:
        *stages, (seal, pod) = maker.trace(submission)
        pod = prepared(pod, submission.id, EXAMPLE_JOB, settings.every_cluster[route.cluster])
    except InvalidPod as error:
        raise SystemExit(f"{name} would fail as InvalidPod: {error}") from error
    sources = _sources(route, submission, settings)
    return _explained([*stages, (seal, pod)], sources, maker.deprecation(submission))


def _explained(stages: Sequence[Stage], sources: dict[str, str], deprecation: str) -> Explained:
    layers = layers_of(stages, SEALED)
    manifest = dict(stages[-1][1])
    used = {str(layer) for layer, _ in stages}
    return Explained(
        manifest,
        {field_name(path): str(layer) for path, layer in layers.items()},
        {layer: source for layer, source in sources.items() if layer in used},
        deprecation,
        annotated(manifest, layers),
    )


def _sources(route: Route, submission: Submission, settings: Settings) -> dict[str, str]:
    own = (submission.executor_config or {}).get("pod_template_file")
    return {
        Layer.TEMPLATE: route.pod_template_file or settings.pod_template_file or "the minimal pod",
        Layer.ROUTE: route.rule,
        Layer.OWN_TEMPLATE: str(own or "[sdk] queue_to_coordinator"),
    }


def _submission(ti: Any, address: TaskAddress, route: Route) -> Submission:
    attempt = Attempt(
        id=EXAMPLE_ATTEMPT,
        kind=WorkloadKind.TASK,
        workload_id=EXAMPLE_TASK_INSTANCE,
        address=address,
        queue=ti.queue,
        priority=0,
        route=route,
        queued_at=datetime.now(UTC),
    )
    task = {"id": attempt.workload_id, "dag_id": address.dag_id, "task_id": address.task_id}
    payload = json.dumps({"token": TOKEN, "ti": task, "type": "ExecuteTask"})
    return Submission(attempt=attempt, number=1, payload=payload, executor_config=ti.executor_config)


def show_pod(explained: Explained, title: str, notes: Sequence[str], output: str) -> None:
    """Print it: JSON for programs, the bare manifest as ``plain``, and else YAML with comments."""
    if output == "json":
        print(
            json.dumps(
                {
                    "manifest": explained.manifest,
                    "layers": explained.layers,
                    "sources": explained.sources,
                    "notes": list(notes),
                },
                indent=2,
            )
        )
        return
    if output == "plain":
        print(yaml.safe_dump(explained.manifest, sort_keys=False, width=float("inf")), end="")
        return
    sources = (f"{layer}: {source}" for layer, source in explained.sources.items())
    for line in (title, *notes, *sources):
        print(f"# {line}")
    print(explained.text, end="")
