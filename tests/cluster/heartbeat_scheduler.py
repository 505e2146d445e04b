"""A scheduler process that hands over many tasks and then beats: the code under ``measure_heartbeat``.

    python -m tests.cluster.heartbeat_scheduler FOLDER ours|stock TASKS

Airflow's own scheduling code on the database that the environment names, with
one executor. It says ``handed over`` once every task has been taken, goes on
beating, and measures so many heartbeats as it reads on its standard input;
then prints what it found as one line of JSON and ends.
"""

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

#: Airflow maps at most 1,024 tasks.
TASKS_IN_ONE = 500
#: Between two heartbeats: that of a scheduler that has nothing else to do.
IDLE_S = 0.25


def executor_of(kind: str) -> Any:
    """The executor that is measured."""
    if kind == "ours":
        from hybrid_executor.executor import HybridExecutor

        return HybridExecutor()
    from airflow.providers.cncf.kubernetes.executors.kubernetes_executor import KubernetesExecutor

    return KubernetesExecutor()


def memory_mib() -> tuple[float, int]:
    """Proportional set size of this process and all below it, and how many these are."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_full_info().pss for process in family) / 2**20, len(family)


def cpu_s() -> float:
    """Of this process and all below it, ended or not."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    living = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(
        (own.ru_utime, own.ru_stime, ended.ru_utime, ended.ru_stime, *(t.user + t.system for t in living))
    )


def main(folder: Path, kind: str, tasks: int) -> None:
    """Hand over, beat, measure."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # Airflow logs to standard output: what nobody reads there would stop the process once the pipe is full.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from airflow import settings
    from sqlalchemy import text

    from tests.fixtures.airflow_side import SchedulerSide

    settings.configure_vars()
    settings.configure_orm()
    with settings.engine.begin() as connection:
        connection.execute(text("update slot_pool set slots = 100000"))
    side = SchedulerSide(folder)
    before_mib, _ = memory_mib()
    runner = side.runner(executor_of(kind))
    for number in range(-(-tasks // TASKS_IN_ONE)):
        name = f"many{number}"
        side.serialize(name, celery=0, kubernetes=min(TASKS_IN_ONE, tasks - number * TASKS_IN_ONE))
        side.trigger(name)
    [executor] = runner.executors
    # Not by ``side.states()``, which knows tasks of one DAG apart.
    while sum(ti.state == "queued" for ti in side.rows()) < tasks:
        side.loop(runner)
    print("handed over", file=told, flush=True)
    wanted: list[int] = []
    threading.Thread(target=lambda: wanted.append(int(sys.stdin.readline())), daemon=True).start()
    while not wanted:
        executor.heartbeat()
        time.sleep(IDLE_S)
    took_ms, began_cpu_s, began_s = [], cpu_s(), time.monotonic()
    for _ in range(wanted[0]):
        began_ns = time.perf_counter_ns()
        executor.heartbeat()
        took_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
        time.sleep(IDLE_S)
    used_cpu_s, lasted_s = cpu_s() - began_cpu_s, time.monotonic() - began_s
    mib, processes = memory_mib()
    found = {
        "heartbeats_ms": took_ms,
        "cpu": used_cpu_s / lasted_s,
        "lasted_s": lasted_s,
        "pss_mib": mib,
        "executor_mib": mib - before_mib,
        "processes": processes,
    }
    print(json.dumps(found), file=told, flush=True)
    # What is in flight is not waited for.
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
