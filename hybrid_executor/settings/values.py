"""The settings as one frozen value; its defaults are those of ``hybrid_executor.options``."""

from collections.abc import Mapping
from dataclasses import dataclass

from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.options import default
from hybrid_executor.routing import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that routes name."""

    kubernetes: KubernetesConfig
    #: Where its pods reach the Execution API; None where their own configuration says it.
    execution_api_server_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the executor is told, read once."""

    # --- [core], [scheduler], [operators] ---
    #: The scheduler's ``[core] executor``, letter by letter; pods and workers need the same.
    executor_string: str = "hybrid_executor.HybridExecutor"
    #: What ``executor_string`` names beside this executor.
    other_executors: tuple[str, ...] = ()
    #: The names by which a task may ask for this executor: alias, path.
    executor_names: tuple[str, ...] = ("hybrid_executor.HybridExecutor",)
    #: Who runs a task that names none: the first of ``executor_string``, by alias or path.
    default_executor: str = "hybrid_executor.HybridExecutor"
    multi_team: bool = False
    #: Whether ``[api_auth]`` holds the key that signs the tasks' tokens.
    signing_key_is_set: bool = False
    parallelism: int = 32
    default_queue: str = "default"
    task_queued_timeout_s: float = 600.0
    task_instance_heartbeat_timeout_s: float = 300.0
    #: Whether what collects Airflow's metrics knows tags; plain StatsD does not.
    metrics_are_tagged: bool = True
    metrics_are_on: bool = False
    #: ``[traces] otel_on``.
    traces_are_on: bool = False
    scheduler_health_check_threshold_s: float = 30.0

    #: ``[logging] base_log_folder``.
    log_folder: str = ""
    #: Absolute, ``stdout``, or empty for none.
    transitions_log: str = ""

    # --- [hybrid_executor] ---
    kubernetes_queues: tuple[str, ...] = (default("kubernetes_queues"),)
    #: ``[celery_kubernetes_executor] kubernetes_queue`` of Airflow 2, where the user has set it.
    airflow2_kubernetes_queue: str | None = None
    #: Absolute, or None where there is no routes file.
    routes_file: str | None = None
    #: Absolute, or None where there is no clusters file.
    clusters_file: str | None = None
    #: Absolute, or None where there is no pools file.
    pools_file: str | None = None
    #: The Celery workers that the pools file names.
    pools: tuple[Pool, ...] = ()
    #: 0 is no own limit.
    celery_parallelism: int = int(default("celery_parallelism"))
    kubernetes_parallelism: int = int(default("kubernetes_parallelism"))
    #: Per backend.
    held_limit: int = int(default("held_limit"))
    submission_limit: int = int(default("submission_limit"))
    token_life_s: int = 86400
    workload_secret: bool = default("workload_secret") == "True"
    measure_pods: bool = default("measure_pods") == "True"
    reconcile_interval_s: float = float(default("reconcile_interval_s"))
    backoff_first_s: float = float(default("backoff_first_s"))
    backoff_max_s: float = float(default("backoff_max_s"))

    #: Whether pods are told of as Celery events.
    flower_events: bool = default("flower_events") == "True"
    #: None where the ledger has no live half.
    live: LiveConfig | None = None

    # --- the backends ---
    celery: CeleryConfig
    #: The cluster that has no name.
    kubernetes: KubernetesConfig
    #: Those of the clusters file.
    clusters: tuple[Cluster, ...] = ()
    #: ``[kubernetes_executor] pod_template_file``; empty is the minimal pod.
    pod_template_file: str = ""
    #: ``worker_container_repository:worker_container_tag``; None leaves the template's image.
    worker_image: str | None = None

    #: What is wrong and what to do, one line each; each has been replaced by its default.
    problems: tuple[str, ...] = ()
    #: What works today and should be changed, one line each.
    notes: tuple[str, ...] = ()

    @property
    def every_cluster(self) -> Mapping[str, KubernetesConfig]:
        """By the names that routes give them; "" is that of ``[kubernetes_executor]``."""
        named = {one.kubernetes.cluster: one.kubernetes for one in self.clusters}
        return {self.kubernetes.cluster: self.kubernetes} | named

    def is_ours(self, executor: str) -> bool:
        """Whether ``executor``, as a task or a row names it, is this executor."""
        return executor in self.executor_names
