"""The stack of the chaos tests, killed and healed over and over as a real one is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.chaos.scene import PARALLELISM, QUEUED_TIMEOUT_S, Scene
from tests.fixtures.stack import running_stack

HERE = Path(__file__).parent
SETTINGS = {
    "AIRFLOW__CORE__PARALLELISM": str(PARALLELISM),
    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "300",
    "AIRFLOW__HYBRID_EXECUTOR__KUBERNETES_PARALLELISM": "4",
    "AIRFLOW__HYBRID_EXECUTOR__ROUTES_FILE": str(HERE / "routes.yaml"),
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": str(QUEUED_TIMEOUT_S),
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "64",
    # The worker is a stock one: what is promised holds without our package in it.
    "AIRFLOW__CELERY__CELERY_CONFIG_OPTIONS": (
        "airflow.providers.celery.executors.default_celery.DEFAULT_CELERY_CONFIG"
    ),
    "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": (
        '{"worker_send_task_events": true, "task_send_sent_event": true, "result_backend_always_retry": true}'
    ),
}


@contextmanager
def opened(folder: Path, settings: Mapping[str, str] | None = None, **options: Any) -> Iterator[Scene]:
    """Start it; ``settings`` go into every environment, ``options`` are those of ``running_stack``."""
    order = folder / "order"
    dags = HERE / "dags"
    # The package, too: what is tested is what stands beside the tests, not what is installed.
    path = (HERE / "hook", dags / "policy", HERE.parents[1])
    paths = {"PYTHONPATH": ":".join(map(str, path)), "CHAOS_ORDER": str(order)}
    extra = SETTINGS | paths | dict(settings or {})
    with running_stack(folder / "state", dags, extra=extra, **options) as running:
        scene = Scene(running, order)
        scene.make_pool("blocked", 300)
        scene.make_pool("free", 50)
        yield scene


@contextmanager
def cleared(scene: Scene) -> Iterator[Scene]:
    """Whole and empty for one test; what each must leave behind is checked after it."""
    scene.heal()
    scene.clear_stage()
    scene.begin()
    yield scene
    scene.heal()
    scene.check_scheduler_log()
