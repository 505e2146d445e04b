"""``[celery]`` and ``[kubernetes_executor]`` as the values that the two backends take.

Each option keeps the meaning that it has for the stock executors. Called by
``settings.load``; ``config.py`` of each backend says which option is which.
"""

import hashlib
import re
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.kubernetes.config import FATAL_WAITING_REASONS, KubernetesConfig
from hybrid_executor.options import SECTION, default
from hybrid_executor.settings.reader import Reader

KUBERNETES = "kubernetes_executor"
#: What Kubernetes takes for the value of a label.
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
#: Options that have no place here: what sets them would expect an effect.
_WITHOUT_EFFECT = {
    "client_factory": "the API client is made from in_cluster, config_file and cluster_context",
    "async_client_factory": "the API client is made from in_cluster, config_file and cluster_context",
}


def celery_config(read: Reader) -> CeleryConfig:
    """Return the Celery backend's configuration; the rest of ``[celery]`` is read by Celery's own app."""
    fallback = CeleryConfig().operation_timeout_s
    return CeleryConfig(operation_timeout_s=read.seconds("celery", "operation_timeout", fallback, least=0.05))


def kubernetes_config(read: Reader) -> KubernetesConfig:
    """Return the Kubernetes backend's configuration."""
    for option, instead in _WITHOUT_EFFECT.items():
        if read.text(KUBERNETES, option):
            read.problem(KUBERNETES, option, f"is not supported and has no effect: {instead}; remove it")
    return KubernetesConfig(
        namespace=read.text(KUBERNETES, "namespace", "default"),
        deployment=_deployment(read),
        scopes=_scopes(read),
        fatal_waiting_reasons=frozenset(
            read.listed(
                KUBERNETES,
                "worker_pod_pending_fatal_container_state_reasons",
                ",".join(FATAL_WAITING_REASONS),
            )
        ),
        fatal_wait_s=read.seconds(SECTION, "fatal_wait_s", float(default("fatal_wait_s"))),
        workers_namespace=_workers_namespace(read),
        cluster_view=read.boolean(SECTION, "cluster_view", False),
        delete_worker_pods=read.boolean(KUBERNETES, "delete_worker_pods", True),
        delete_worker_pods_on_failure=read.boolean(KUBERNETES, "delete_worker_pods_on_failure", False),
        delete_options=read.mapping(KUBERNETES, "delete_option_kwargs"),
        creation_concurrency=read.integer(KUBERNETES, "pod_creation_max_concurrency", 0)
        or KubernetesConfig().creation_concurrency,
        request_timeout_s=_request_timeout(read),
        in_cluster=read.boolean(KUBERNETES, "in_cluster", True),
        cluster_context=read.text(KUBERNETES, "cluster_context") or None,
        config_file=read.text(KUBERNETES, "config_file") or None,
        verify_ssl=read.boolean(KUBERNETES, "verify_ssl", True),
        ssl_ca_cert=read.text(KUBERNETES, "ssl_ca_cert") or None,
        tcp_keepalive=read.boolean(KUBERNETES, "enable_tcp_keepalive", True),
        tcp_keepalive_idle_s=read.integer(KUBERNETES, "tcp_keep_idle", 120, least=1),
        tcp_keepalive_interval_s=read.integer(KUBERNETES, "tcp_keep_intvl", 30, least=1),
        tcp_keepalive_count=read.integer(KUBERNETES, "tcp_keep_cnt", 6, least=1),
        running_pod_log_lines=read.integer(KUBERNETES, "running_pod_log_lines", 100, least=1),
    )


def _workers_namespace(read: Reader) -> str | None:
    """Only pools have workers whose pods are known."""
    if not read.text(SECTION, "pools_file"):
        return None
    return read.text(SECTION, "workers_namespace") or read.text(KUBERNETES, "namespace", "default")


def deployment(read: Reader) -> str:
    """A name that all schedulers of one Airflow share and no other has: as set, or that of its database.

    Scheduler job ids are counted per database, so in a namespace that two
    Airflows share they name two schedulers each. No secret goes into it.
    """
    chosen = read.text(SECTION, "deployment")
    if _LABEL_VALUE.fullmatch(chosen):
        return chosen
    try:
        url = make_url(read.text("database", "sql_alchemy_conn"))
    except ArgumentError:
        return KubernetesConfig().deployment
    place = f"{url.host}:{url.port}/{url.database}"
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def _deployment(read: Reader) -> str:
    chosen = read.text(SECTION, "deployment")
    if chosen and not _LABEL_VALUE.fullmatch(chosen):
        read.problem(
            SECTION,
            "deployment",
            "must be at most 63 letters, digits, dots, hyphens and underscores, a letter or digit first and "
            "last; a name made of the database's place is used",
        )
    return deployment(read)


def _scopes(read: Reader) -> tuple[str | None, ...]:
    if not read.boolean(KUBERNETES, "multi_namespace_mode", False):
        return ()
    return read.listed(KUBERNETES, "multi_namespace_mode_namespace_list") or (None,)


def _request_timeout(read: Reader) -> float | tuple[float, float]:
    """``_request_timeout``: one number, or a list of connect and read."""
    fallback = KubernetesConfig().request_timeout_s
    arguments = read.mapping(KUBERNETES, "kube_client_request_args")
    for other in sorted(set(arguments) - {"_request_timeout"}):
        read.problem(KUBERNETES, "kube_client_request_args", f"'{other}' is not supported; remove it")
    if "_request_timeout" not in arguments:
        return fallback
    value = arguments["_request_timeout"]
    if _is_duration(value):
        return float(value)
    if isinstance(value, list) and len(value) == 2 and all(_is_duration(part) for part in value):
        return float(value[0]), float(value[1])
    read.problem(
        KUBERNETES,
        "kube_client_request_args",
        f"'_request_timeout' must be seconds, or a list of two for connect and read; {fallback} is used",
    )
    return fallback


def _is_duration(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def pod_image(read: Reader) -> str | None:
    """Return ``repository:tag``, or None where one of the two is not set."""
    repository = read.text(KUBERNETES, "worker_container_repository")
    tag = read.text(KUBERNETES, "worker_container_tag")
    return f"{repository}:{tag}" if repository and tag else None
