"""The tail of a running pod's log, read the blocking way.

For the API server's process, which constructs the executor and never starts
it. Uses the synchronous client, opens a connection for each call, closes it,
and never raises.
"""
# ruff: noqa: PLC0415 - the clients are costly to import and most processes never use them

import logging
from typing import Any

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.naming import LABEL_ATTEMPT, LABEL_SUBMISSION
from hybrid_executor.pods.diagnosis import observe
from hybrid_executor.pods.inventory import main_container

log = logging.getLogger("hybrid_executor.kubernetes")

#: A user waits for this in front of the UI.
TIMEOUT_S = (5.0, 20.0)


def read_log(config: KubernetesConfig, attempt_id: str) -> list[str] | None:
    """The last lines of the attempt's newest pod; None where there is none, or none to be had."""
    import urllib3
    from kubernetes import client
    from kubernetes import config as loading

    try:
        with client.ApiClient(_settings(config)) as api:
            return _tail(client.CoreV1Api(api), config, attempt_id)
    except (client.ApiException, loading.ConfigException, urllib3.exceptions.HTTPError, OSError) as error:
        log.info("reading the log of attempt_id=%s failed: %s", attempt_id, _words(error))
        return None


def _tail(core: Any, config: KubernetesConfig, attempt_id: str) -> list[str] | None:
    pods = [pod for scope in config.watched for pod in _find(core, scope, attempt_id)]
    if not pods:
        return None
    newest = max(pods, key=lambda pod: int(pod["metadata"]["labels"].get(LABEL_SUBMISSION, "0")))
    view = observe(newest)
    if not view.started:
        return None
    text = core.read_namespaced_pod_log(
        view.name,
        view.namespace,
        container=main_container(newest),
        tail_lines=config.running_pod_log_lines,
        _preload_content=False,
        _request_timeout=TIMEOUT_S,
    ).data
    return str(text.decode("utf-8", "replace")).splitlines()


def _find(core: Any, scope: str | None, attempt_id: str) -> list[dict[str, Any]]:
    """As plain dictionaries, like everywhere in this package."""
    selector = f"{LABEL_ATTEMPT}={attempt_id}"
    wanted = {"label_selector": selector, "_request_timeout": TIMEOUT_S, "_preload_content": False}
    if scope is None:
        answer = core.list_pod_for_all_namespaces(**wanted)
    else:
        answer = core.list_namespaced_pod(scope, **wanted)
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def _settings(config: KubernetesConfig) -> Any:
    from kubernetes import client
    from kubernetes import config as loading

    settings = client.Configuration()
    if config.in_cluster:
        loading.load_incluster_config(client_configuration=settings)
    else:
        loading.load_kube_config(
            config_file=config.config_file, context=config.cluster_context, client_configuration=settings
        )
    if not config.verify_ssl:
        settings.verify_ssl = False
    if config.ssl_ca_cert:
        settings.ssl_ca_cert = config.ssl_ca_cert
    settings.retries = False
    return settings


def _words(error: BaseException) -> str:
    """The client's own text holds whole headers; its first line is what people need."""
    status, reason = getattr(error, "status", None), getattr(error, "reason", None)
    return f"{status} {reason}" if status else str(error)
