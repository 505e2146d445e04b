"""One scheduler after the other, each in a fork of a process that has Airflow loaded and has used it once.

Run as ``python -m tests.steps.driver`` under the environment of an Airflow;
reads orders from its standard input, a line of JSON each, and answers each with
a number. ``serve`` makes a fork that is the worker and the node. ``warm`` brings
the DAG into the database and lets a scheduler run it undisturbed, in this very
process, so that every fork has all imports and compiled statements; it counts
the lines of the product meanwhile. ``schedule`` is a scheduler in a fork: the
first of a case starts a run, and is killed at its point; the next adopts what
that left, as Airflow does it, and goes on until nothing is open.
"""

import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kubernetes

from tests.fixtures.airflow_side import SchedulerSide
from tests.steps.killer import Killer, Point

#: Of one scheduler's life; then it gives up, and the test shows how far things are.
DEADLINE_S = 120.0
DAG = "steps"
NAMESPACE = "airflow"
PR_SET_PDEATHSIG = 1


def main() -> None:
    from airflow import settings

    from hybrid_executor import contract

    home = Path(os.environ["AIRFLOW_HOME"])
    answers = os.fdopen(os.dup(1), "w")
    # Airflow logs to its standard output.
    os.dup2(2, 1)
    settings.dispose_orm()
    served: list[int] = []
    for line in sys.stdin:
        order = json.loads(line)
        answer = 0
        match order.pop("do"):
            case "serve":
                answer = fork(be_world, home, **order)
                served.append(answer)
            case "warm":
                settings.configure_orm()  # type: ignore[no-untyped-call]
                SchedulerSide(home).serialize(DAG, **order)
                schedule(home, first=True, point=None)
                contract.metadata_engine().dispose()
            case "schedule":
                _, status = os.waitpid(fork(schedule, home, **order), 0)
                answer = os.waitstatus_to_exitcode(status)
        answers.write(f"{answer}\n")
        answers.flush()
    for pid in served:
        os.kill(pid, signal.SIGKILL)


def fork(work: Callable[..., None], home: Path, **order: Any) -> int:
    """Do it in a fork, which ends with this process at the latest."""
    child = os.fork()
    if child:
        return child
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from airflow import settings

    if settings.engine is None:
        settings.configure_orm()  # type: ignore[no-untyped-call]
    else:
        # The parent's connections are its own; its compiled statements are of use here.
        settings.engine.dispose(close=False)
    try:
        work(home, **order)
    except Exception:  # noqa: BLE001 - whatever it is, a fork must never go on with its parent's loop
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def be_world(home: Path, broker: str, kubeconfig: str, namespace: str) -> None:
    from tests.steps.world import serve

    serve(home, broker, kubeconfig, namespace)


def schedule(home: Path, *, first: bool, point: dict[str, Any] | None = None) -> None:
    """A scheduler's life: from its start to the end of all that it answers for, or to its point."""
    side = SchedulerSide(home)
    killer = Killer(Point(**point) if point else None)
    if first:
        side.trigger(DAG)
        killer.install()
    else:
        make_silent()
    executor = make_executor()
    runner = side.runner(executor)
    if not first:
        runner.adopt_or_reset_orphaned_tasks()
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and not (is_over(executor) and not pods()):
        side.loop(runner)
        time.sleep(0.02)
    executor.end()
    sys.settrace(None)
    threading.settrace(None)
    lines = [[*place, count] for place, count in sorted(killer.lines.items())]
    (home / "lines.json").write_text(json.dumps(lines))


def make_silent() -> None:
    """The killed scheduler has not been heard of for long enough: Airflow itself draws the conclusion."""
    from airflow.jobs.job import Job, JobState
    from airflow.utils.session import create_session
    from sqlalchemy import update

    long_ago = datetime.now(UTC) - timedelta(hours=1)
    with create_session(scoped=False) as session:
        session.execute(
            update(Job)
            .where(Job.job_type == "SchedulerJob", Job.state == JobState.RUNNING)
            .values(latest_heartbeat=long_ago)
        )


def make_executor() -> Any:
    """With the settings that Airflow has, but impatient."""
    from hybrid_executor.backends.celery.config import CeleryConfig
    from hybrid_executor.executor import HybridExecutor
    from hybrid_executor.settings import load_settings
    from tests.fixtures.pod_backends import TIMING

    settings = load_settings()
    assert not settings.problems, settings.problems
    celery = CeleryConfig(poll_interval_s=0.05, look_again_s=0.1, absent_after_s=0.4, publish_retry_s=0.1)
    return HybridExecutor(
        settings=replace(settings, celery=celery, kubernetes=replace(settings.kubernetes, watch=TIMING))
    )


def is_over(executor: Any) -> bool:
    """Whether the run has ended and nothing is open; what is kept from being so, the test shows."""
    from airflow.utils.session import create_session
    from sqlalchemy import text

    unfinished = text(
        "SELECT (SELECT count(*) FROM dag_run WHERE state IN ('queued', 'running'))"
        " + (SELECT count(*) FROM hybrid_submission WHERE ended_at IS NULL)"
    )
    with create_session(scoped=False) as session:
        return session.scalar(unfinished) == 0 and not len(executor.controller.inflight)


def pods() -> list[Any]:
    """Those that are there, which a scheduler goes on removing after the end of its tasks."""
    config_file = os.environ["AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE"]
    with kubernetes.config.new_client_from_config(config_file) as client:
        listed = kubernetes.client.CoreV1Api(client).list_namespaced_pod(NAMESPACE)
    return list(listed.items)


if __name__ == "__main__":
    main()
