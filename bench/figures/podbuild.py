"""The processor time of making a pod's manifest, to the text that is sent."""

import json
from collections.abc import Callable
from typing import Any

from bench import airflow_side as side
from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.meter import Watch

PLAIN, OVERRIDE, HOOK = "no override", "pod_override", "mutation hook"

FIGURE = Figure(
    name="podbuild",
    title="make a pod's manifest",
    stocks={"stock": "KubernetesExecutor"},
    cases=(
        Case(PLAIN, {"count": 50}, frozenset(Size)),
        Case(OVERRIDE, {"count": 50, "override": True}),
        Case(HOOK, {"count": 50, "hook": True}),
    ),
    readings=(
        Reading(name="cpu", unit="ms of processor each", target=Target(at_most=0.15), cases=(PLAIN,)),
        Reading(name="cpu", unit="ms of processor each", target=Target(times=2), cases=(OVERRIDE, HOOK)),
    ),
    stock_does="reads the template's file for each pod, and copies the client's settings often",
    ours_does=(
        "takes the template parsed once; makes the Secret of the workload too; the provider's own merge only"
        " where an override or a hook needs its objects"
    ),
)


def _config(override: bool) -> dict[str, Any] | None:
    """What a task says."""
    from kubernetes.client import models as k8s

    if not override:
        return None
    resources = k8s.V1ResourceRequirements(limits={"memory": "1Gi"})
    container = k8s.V1Container(name="base", resources=resources, env=[k8s.V1EnvVar(name="A", value="1")])
    return {"pod_override": k8s.V1Pod(spec=k8s.V1PodSpec(containers=[container]))}


def _prepare(count: int, override: bool, hook: bool) -> list[Any]:
    if hook:
        from airflow import settings

        settings.pod_mutation_hook = _hook
    workloads = side.add_tasks(count, queue="kubernetes")
    for workload in workloads:
        workload.ti.executor_config = _config(override)
    return workloads


def _hook(pod: Any) -> None:
    pod.metadata.labels["seen-by-the-hook"] = "true"


def _turns(workloads: list[Any], make: Callable[[Any], str]) -> Turn:
    def turn() -> dict[str, float]:
        watch = Watch()
        for workload in workloads:
            make(workload)
        return {"cpu": watch.cpu_ms() / len(workloads)}

    turn()
    return turn


def stock(count: int, override: bool = False, hook: bool = False) -> Turn:
    """``_build_pod_request`` and ``run_pod_async``, up to the request."""
    from airflow.providers.cncf.kubernetes.executors.kubernetes_executor_types import KubernetesJob
    from airflow.providers.cncf.kubernetes.executors.kubernetes_executor_utils import (
        AirflowKubernetesScheduler,
    )
    from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    from kubernetes.client import ApiClient

    # Its constructor would start its processes.
    scheduler = AirflowKubernetesScheduler.__new__(AirflowKubernetesScheduler)
    scheduler.kube_config = KubeConfig()
    scheduler.namespace = scheduler.kube_config.kube_namespace
    scheduler.scheduler_job_id = str(side.JOB)
    scheduler.supports_task_instance_uuid = False
    client = ApiClient()

    def make(workload: Any) -> str:
        config = PodGenerator.from_obj(workload.ti.executor_config)
        job = KubernetesJob(workload.ti.key, [workload], config, None, None)
        pod = scheduler._build_pod_request(job)
        return json.dumps(client.sanitize_for_serialization(pod))

    return _turns(_prepare(count, override, hook), make)


def ours(count: int, override: bool = False, hook: bool = False) -> Turn:
    from types import SimpleNamespace

    from hybrid_executor import contract
    from hybrid_executor.backends.kubernetes.creation import prepared
    from hybrid_executor.backends.kubernetes.templates import Templates
    from hybrid_executor.model.attempt import Submission
    from hybrid_executor.pods.workload import workload_secret
    from hybrid_executor.settings import load_routing, load_settings
    from hybrid_executor.settings.pods import pod_maker

    settings = load_settings()
    table = load_routing(settings)
    templates = Templates(settings.pod_template_file)
    templates.load(rule.route for rule in table.rows())
    maker = pod_maker(settings, templates, str(side.JOB))
    tasks = contract.AirflowTasks(tokens=None, scheduler_grace_s=30.0)  # type: ignore[arg-type]

    def submission(workload: Any) -> Submission:
        attempt = contract.attempt_of(
            workload, route=table.route, callback_route=table.route, default_queue="default"
        )
        payload = tasks.payload(workload, fresh_token=False)
        config = tasks.executor_config(workload)
        return Submission(attempt=attempt, number=1, payload=payload, executor_config=config)

    def make(workload: Any) -> str:
        one = submission(workload)
        pod = prepared(maker.make(one), one.id, str(side.JOB), settings.kubernetes)
        meta = pod["metadata"]
        made = SimpleNamespace(name=meta["name"], namespace=meta["namespace"], uid="0")
        return json.dumps(pod) + json.dumps(workload_secret(made, meta["labels"], one.payload))

    return _turns(_prepare(count, override, hook), make)
