"""The settings of the Kubernetes backend, as plain values.

``settings`` fills them from Airflow's configuration; nothing here reads it.
Every option of ``[kubernetes_executor]`` keeps its meaning:

    namespace                                        namespace
    multi_namespace_mode, …_namespace_list           scopes (see there)
    worker_pod_pending_fatal_container_state_reasons fatal_waiting_reasons (a set)
    delete_worker_pods                               delete_worker_pods
    delete_worker_pods_on_failure                    delete_worker_pods_on_failure
    delete_option_kwargs                             delete_options (names as in the option)
    kube_client_request_args                         request_timeout_s (from ``_request_timeout``)
    pod_creation_max_concurrency                     creation_concurrency (0 means the default)
    in_cluster, cluster_context, config_file         the same names
    verify_ssl, ssl_ca_cert                          the same names
    enable_tcp_keepalive, tcp_keep_idle, tcp_keep_intvl, tcp_keep_cnt
                                                     tcp_keepalive, …_idle_s, …_interval_s, …_count
    running_pod_log_lines                            running_pod_log_lines

Some have nothing left to say here: ``worker_pods_creation_batch_size`` and
``async_pod_creation``, because creation is always concurrent and bounded;
``task_publish_max_retries``, because back-pressure is always waited for. The
options that make a pod go to ``podgenerator``: ``pod_template_file``,
``worker_container_repository``, ``worker_container_tag``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: As in the Kubernetes provider's own default of the option.
FATAL_WAITING_REASONS = frozenset(
    {
        "CreateContainerConfigError",
        "ErrImagePull",
        "CreateContainerError",
        "ImageInspectError",
        "InvalidImageName",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTiming:
    """How long watches live and how long silence is believed; tests shorten these."""

    #: A watch asks the server to end it after a random time between these two.
    server_timeout_min_s: int = 30
    server_timeout_max_s: int = 45
    #: Past its server timeout by so much, a watch counts as silent, and all is listed again.
    slack_s: float = 10.0
    backoff_first_s: float = 0.5
    backoff_max_s: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomTiming:
    """How often the cluster's nodes and pods are read while a pod waits for a node; tests shorten these."""

    nodes_every_s: float = 30.0
    #: Of all pods, and only where one that would fit has waited for ``patience_s``.
    pods_every_s: float = 60.0
    patience_s: float = 20.0
    #: After a refusal: somebody may grant the right.
    refused_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesConfig:
    """Where one cluster's API server is, where pods go, and what becomes of them."""

    #: Its name in routes; empty is the cluster of ``[kubernetes_executor]``.
    cluster: str = ""
    namespace: str = "default"
    #: Tells the pods of this Airflow from those of another in the same namespace; a label value.
    deployment: str = "airflow"
    #: Namespaces that are watched. Empty: ``namespace`` alone. ``(None,)``: all of
    #: them, in one watch (``multi_namespace_mode`` without a list).
    scopes: tuple[str | None, ...] = ()
    fatal_waiting_reasons: frozenset[str] = FATAL_WAITING_REASONS
    #: For how long such a wait is let be where the route says nothing (``[hybrid_executor] fatal_wait_s``).
    fatal_wait_s: float = 0.0
    delete_worker_pods: bool = True
    delete_worker_pods_on_failure: bool = False
    #: Fields of DeleteOptions, in snake or camel case, e.g. ``grace_period_seconds``.
    delete_options: Mapping[str, Any] = field(default_factory=dict)
    #: For one request: in total, or as (connect, read). A watch has its own.
    request_timeout_s: float | tuple[float, float] = 30.0
    creation_concurrency: int = 16
    #: Patches, deletions and look-ups under way at the same time.
    upkeep_concurrency: int = 8
    #: Objects per page of a list.
    page_size: int = 500
    in_cluster: bool = True
    cluster_context: str | None = None
    config_file: str | None = None
    verify_ssl: bool = True
    ssl_ca_cert: str | None = None
    #: Of watches: they alone are idle for long, and NATs forget idle connections.
    tcp_keepalive: bool = True
    tcp_keepalive_idle_s: int = 120
    tcp_keepalive_interval_s: int = 30
    tcp_keepalive_count: int = 6
    running_pod_log_lines: int = 100
    #: Where the pods of Celery workers are; None watches none.
    workers_namespace: str | None = None
    #: Whether nodes and pods of the whole cluster may be read, to say what a pod waits for.
    cluster_view: bool = False
    room: RoomTiming = RoomTiming()
    watch: WatchTiming = WatchTiming()

    @property
    def watched(self) -> tuple[str | None, ...]:
        """The namespaces to list and watch; None is all of them."""
        return self.scopes or (self.namespace,)

    @property
    def in_words(self) -> str:
        """The API server, in messages."""
        return f"the API server of cluster {self.cluster}" if self.cluster else "the Kubernetes API server"

    def watches(self, namespace: str) -> bool:
        """Whether a pod in ``namespace`` would be seen."""
        return None in self.watched or namespace in self.watched
