"""The settings as a maker of pods.

Called by the executor for the pods that it sends, and by ``airflow hybrid
explain --pod`` for the one that it shows.
"""

from hybrid_executor import contract
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.podgenerator import PodMaker, coordinator_extra
from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.pods.build import ENV_EXECUTION_API, PodSettings
from hybrid_executor.settings.values import Settings


def pod_maker(settings: Settings, templates: Templates, owner: str) -> PodMaker:
    """``owner`` is the id of the scheduler's job."""
    return PodMaker(
        _pod_settings(settings, settings.kubernetes, None, owner),
        templates,
        coordinator_extra,
        clusters={
            one.kubernetes.cluster: _pod_settings(
                settings, one.kubernetes, one.execution_api_server_url, owner
            )
            for one in settings.clusters
        },
    )


def _pod_settings(
    settings: Settings, config: KubernetesConfig, execution_api: str | None, owner: str
) -> PodSettings:
    return PodSettings(
        namespace=config.namespace,
        executor=settings.executor_string,
        scheduler_job=owner,
        airflow_version=contract.AIRFLOW_VERSION,
        image=settings.worker_image,
        env={ENV_EXECUTION_API: execution_api} if execution_api else {},
        watched=None if None in config.watched else frozenset(n for n in config.watched if n),
        workload_secret=settings.workload_secret,
        measure_pods=settings.measure_pods,
    )
