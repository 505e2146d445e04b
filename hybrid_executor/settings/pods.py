"""The settings as a maker of pods.

Called by the executor for the pods that it sends, and by ``airflow hybrid
explain --pod`` for the one that it shows.
"""

from hybrid_executor import contract
from hybrid_executor.backends.kubernetes.podgenerator import PodMaker, coordinator_extra
from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.pods.build import PodSettings
from hybrid_executor.settings.values import Settings


def pod_maker(settings: Settings, templates: Templates, owner: str) -> PodMaker:
    """``owner`` is the id of the scheduler's job."""
    watched = settings.kubernetes.watched
    return PodMaker(
        PodSettings(
            namespace=settings.kubernetes.namespace,
            executor=settings.executor_string,
            scheduler_job=owner,
            airflow_version=contract.AIRFLOW_VERSION,
            image=settings.worker_image,
            watched=None if None in watched else frozenset(n for n in watched if n),
            workload_secret=settings.workload_secret,
            measure_pods=settings.measure_pods,
        ),
        templates,
        coordinator_extra,
    )
