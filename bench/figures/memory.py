"""What an executor adds to a scheduler that has imported what a scheduler imports."""

import gc
import time
from collections.abc import Callable
from typing import Any

from bench import airflow_side as side
from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.meter import memory

SETTLED_S = 3.0

FIGURE = Figure(
    name="memory",
    title="added to a scheduler: both kinds of tasks, nothing to do",
    stocks={"stock": "CeleryExecutor,KubernetesExecutor"},
    cases=(Case("idle", {}, frozenset(Size)),),
    readings=(
        Reading(name="mib", unit="MiB (PSS of the whole tree)", target=Target(less_by=200)),
        Reading(name="processes", unit="processes", counted=True, target=Target(at_most=0)),
        Reading(name="threads", unit="threads of its own"),
    ),
    stock_does="runs two managers' processes and one for its watch, each with all of Airflow imported",
    ours_does="runs threads in the scheduler's process",
    fresh=True,
    rounds=3,
    needs=frozenset({"kubernetes"}),
)


def _measured(start: Callable[[], list[Any]]) -> Turn:
    import threading

    import airflow.jobs.scheduler_job_runner  # noqa: F401

    def turn() -> dict[str, float]:
        side.engine().connect().close()
        gc.collect()
        before, threads = memory(), threading.active_count()
        executors = start()
        for _ in range(5):
            for executor in executors:
                executor.heartbeat()
        time.sleep(SETTLED_S)
        gc.collect()
        after = memory()
        added = {name: value - before[name] for name, value in after.items()}
        return {**added, "threads": float(threading.active_count() - threads)}

    return turn


def stock() -> Turn:
    return _measured(lambda: [side.stock_celery(), side.stock_kubernetes()])


def ours() -> Turn:
    return _measured(lambda: [side.ours()])
