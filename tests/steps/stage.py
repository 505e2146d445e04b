"""A database, a broker and an API server for schedulers that are killed, and what they left to look at."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import redis
import sqlalchemy as sa

from hybrid_executor.airflowtables import IS_PRESENT, MAP_INDEX
from tests.fixtures.kube import InProcessKube
from tests.fixtures.stack import wait_until
from tests.steps.driver import NAMESPACE
from tests.steps.killer import Point
from tests.steps.world import READY

ROOT = Path(__file__).parents[2]
T = TypeVar("T")
CELERY, KUBERNETES = 2, 1


@dataclass
class Stage:
    """What a case needs, for one case after the other."""

    home: Path
    dsn: str
    broker: str
    kube: InProcessKube
    engine: sa.Engine
    process: "subprocess.Popen[str]"
    #: The process that is the worker and the node.
    world: int = 0
    #: Lines of the golden path, and how often each is executed.
    path: dict[tuple[str, int], int] = field(default_factory=dict)

    def order(self, **order: Any) -> int:
        """Have it carried out in a fork; its exit status, negative for the signal that ended it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the driver has ended: {self.log()}"
        return int(answer)

    def run_case(self, point: Point | None) -> bool:
        """A run whose scheduler is killed at the point, and ended by the next; whether it was reached."""
        reached = self.begin_case(point)
        if reached:
            self.end_case()
        return reached

    def begin_case(self, point: Point | None) -> bool:
        """A run whose scheduler is killed at the point; False if it ended undisturbed."""
        for name in ("received", "executed", "succeeded"):
            (self.home / name).unlink(missing_ok=True)
        status = self.order(do="schedule", first=True, point=asdict(point) if point else None)
        assert status in (0, -signal.SIGKILL), self.log()
        return status != 0

    def end_case(self) -> None:
        """The next scheduler adopts what was left and goes on."""
        assert self.order(do="schedule", first=False) == 0, self.log()

    def adopt(self) -> "Future[None]":
        """The next scheduler adopts what was left, and goes on; the end of the case is to be waited for.

        Returns a moment after the adoption: what a scheduler sends in vain, it sends in its first heartbeats.
        """
        ended = in_thread(self.end_case)
        wait_until(lambda: self._is_adopted() or ended.done(), 60, self.log)
        time.sleep(0.5)
        return ended

    def begin(self) -> "Future[bool]":
        """A run that nobody kills; its end is to be waited for, and is False."""
        return in_thread(lambda: self.begin_case(None))

    def _is_adopted(self) -> bool:
        left = sa.text(
            "SELECT count(*) FROM hybrid_submission WHERE ended_at IS NULL AND scheduler_job <>"
            " (SELECT max(id)::text FROM job WHERE job_type = 'SchedulerJob')"
        )
        with self.engine.connect() as connection:
            return connection.scalar(left) == 0

    # --- the cluster -----------------------------------------------------------------------

    def wait_pod(self, submission: int) -> str:
        """Wait until the one pod that is there is of this submission and has its Secret; its name."""
        found: list[str] = []

        def is_there() -> bool:
            pods, secrets = self._names("pods"), self._names("secrets")
            found[:] = [pod for pod in pods if pod.endswith(f"-{submission}") and pod in secrets]
            return bool(found)

        wait_until(is_there, 60, lambda: f"{self._names('pods')}, {self._names('secrets')}: {self.log()}")
        return found[0]

    def delete_pod(self, name: str) -> None:
        """What a user does, and no node is asked."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}"
        code, said = self.kube.request("DELETE", path, {"gracePeriodSeconds": 0})
        assert code == 200, said

    def _names(self, plural: str) -> list[str]:
        code, listed = self.kube.request("GET", f"/api/v1/namespaces/{NAMESPACE}/{plural}")
        assert code == 200
        return [item["metadata"]["name"] for item in listed["items"]]

    # --- the broker ------------------------------------------------------------------------

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nobody takes a message or runs a pod."""
        os.kill(self.world, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.world, signal.SIGCONT)

    def snapshot(self) -> tuple[dict[bytes, bytes], int]:
        """What the broker holds now, as its dump file would have it, and how many messages are among it.

        One more may be on its way to a worker that had asked for it before it was paused.
        """
        with redis.Redis.from_url(self.broker) as client:
            kept = {key: value for key in client.scan_iter() if (value := client.dump(key))}
            return kept, int(client.llen("default"))

    def restore(self, snapshot: dict[bytes, bytes]) -> None:
        """The broker comes back with an old dump file."""
        with redis.Redis.from_url(self.broker) as client:
            client.flushdb()
            for key, value in snapshot.items():
                client.restore(key, 0, value)

    @contextmanager
    def put(self, name: str) -> Iterator[None]:
        """A file of this name (``GATE``, ``SAME``) is there for a while."""
        (self.home / name).touch()
        try:
            yield
        finally:
            (self.home / name).unlink()

    def wait_lines(self, name: str, count: int, words: str) -> None:
        """Wait until the world has written so many lines with these words."""

        def found() -> int:
            return sum(words in line for line in self.lines(name))

        wait_until(lambda: found() >= count, 60, lambda: f"not {count} in {name}: {self.log()}")

    def warm_up(self) -> None:
        """A run that nobody disturbs; finds out which lines there are."""
        assert self.order(do="warm", celery=CELERY, kubernetes=KUBERNETES) == 0, self.log()
        counted = json.loads((self.home / "lines.json").read_text())
        self.path = {(module, line): count for module, line, count in counted}

    def log(self) -> str:
        """The end of what all forks have written."""
        return self.whole_log()[-6000:]

    def whole_log(self) -> str:
        """All of it."""
        path = self.home / "driver.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- what must hold ------------------------------------------------------------------

    def check(self, *, redelivered: bool = False) -> None:
        """Nothing lost, nothing sent under a live id twice, all executed once, both tables agree."""
        run_id, tasks = self._tasks()
        assert {task.state for task in tasks} == {"success"}, f"{tasks}\n{self.log()}"
        assert len(tasks) == CELERY + KUBERNETES
        assert {task.try_number for task in tasks} == {1}, tasks
        executed = Counter(line for line in self.lines("executed") if line.startswith(f"{run_id} "))
        assert executed == Counter(f"{run_id} {t.task_id} {t.map_index} 1" for t in tasks), executed
        twice = {name: n for name, n in Counter(self.lines("received")).items() if n > 1}
        assert redelivered or not twice, f"received twice under one name: {twice}"
        self._check_ledger(run_id, tasks)
        assert self._names("pods") == []

    def _check_ledger(self, run_id: str, tasks: list[Any]) -> None:
        query = sa.text(
            "SELECT task_id, map_index, attempt_id, submission, outcome, ended_at FROM hybrid_submission"
            " WHERE run_id = :run ORDER BY attempt_id, submission"
        )
        with self.engine.connect() as connection:
            rows = list(connection.execute(query, {"run": run_id}))
        assert all(row.ended_at for row in rows), rows
        last = {row.attempt_id: row for row in rows}
        for task in tasks:
            row = last[task.external_executor_id]
            assert (row.task_id, row.map_index) == (task.task_id, task.map_index)
            assert row.outcome == "succeeded", rows
        assert {row.outcome for row in rows if row is not last[row.attempt_id]} <= {"replaced"}, rows

    def _tasks(self) -> tuple[str, list[Any]]:
        """Of the last run; the tasks over which another is mapped have no code of their own."""
        with self.engine.connect() as connection:
            run_id = connection.scalar(sa.text("SELECT run_id FROM dag_run ORDER BY id DESC LIMIT 1"))
            query = sa.text(
                f"SELECT task_id, {MAP_INDEX} AS map_index, try_number, state, external_executor_id"  # noqa: S608
                f" FROM task_instance ti WHERE run_id = :run AND {IS_PRESENT}"
            )
            return str(run_id), list(connection.execute(query, {"run": run_id}))

    def lines(self, name: str) -> list[str]:
        path = self.home / name
        return path.read_text().splitlines() if path.exists() else []


def in_thread(work: Callable[[], T]) -> "Future[T]":
    """Begin it, and go on."""
    pool = ThreadPoolExecutor(1)
    ended = pool.submit(work)
    pool.shutdown(wait=False)
    return ended


@contextmanager
def set_up(home: Path, dsn: str, broker: str) -> Iterator[Stage]:
    """Start everything, bring the DAG in, count the lines of its path."""
    (home / "dags").mkdir(parents=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    kube = InProcessKube(home / "kube")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    kube.request("POST", "/api/v1/namespaces", namespace)
    engine = sa.create_engine(dsn)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.steps.driver"],
        env=clean | settings(home, dsn, broker, kube.kubeconfig),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(home / "driver.log").open("w"),
        text=True,
    )
    stage = Stage(home, dsn, broker, kube, engine, process)
    try:
        world = {"broker": broker, "kubeconfig": str(kube.kubeconfig), "namespace": NAMESPACE}
        stage.world = stage.order(do="serve", **world)
        wait_until((home / READY).exists, 180, stage.log)
        stage.warm_up()
        yield stage
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait()
        engine.dispose()
        kube.close()


def settings(home: Path, dsn: str, broker: str, kubeconfig: Any) -> dict[str, str]:
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "hybrid_executor.HybridExecutor",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": dsn,
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of this test, " * 4,
        "AIRFLOW__CELERY__BROKER_URL": broker,
        "AIRFLOW__CELERY__RESULT_BACKEND": broker,
        "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(kubeconfig),
        "AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE": NAMESPACE,
        "AIRFLOW__KUBERNETES_EXECUTOR__WORKER_CONTAINER_REPOSITORY": "none",
        "AIRFLOW__KUBERNETES_EXECUTOR__WORKER_CONTAINER_TAG": "none",
        "AIRFLOW__KUBERNETES_EXECUTOR__DELETE_WORKER_PODS_ON_FAILURE": "True",
        "AIRFLOW__HYBRID_EXECUTOR__BACKOFF_FIRST_S": "0.05",
        "AIRFLOW__HYBRID_EXECUTOR__RECONCILE_INTERVAL_S": "1",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
    }
