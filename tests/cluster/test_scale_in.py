"""Scale-ins at random, under load: real Celery workers as pods, and the executor's own loop over them.

Each round has four workers, half of them busy, and takes one to four away. Tasks end while their worker
drains, or, a tenth of them, last longer than its grace. ``SCALE_INS`` rounds (10), from ``SCALE_IN_SEED`` on.
The node of processes runs no hooks, so each container does itself what its preStop hook would do.
"""

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from hybrid_executor.backends.celery.backend import CeleryBackend
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.roster import Roster
from hybrid_executor.controller import Controller
from hybrid_executor.deletioncost import ROUND_S
from hybrid_executor.executor import SystemClock
from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.ledger.memory import MemoryLedger
from hybrid_executor.lifecycle import Phase, Policy
from hybrid_executor.model.attempt import Attempt, BackendName, TaskAddress
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome
from hybrid_executor.model.worker import WorkerState, pod_of
from hybrid_executor.naming import LABEL_DEPLOYMENT, LABEL_POOL
from hybrid_executor.routing import Pool
from tests.cluster.backend import ClusterHarness, HarnessMaker
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.fixtures.airflow_double import FakeTasks, Heard, Row, make_attempt
from tests.fixtures.celery import celery_app

pytestmark = pytest.mark.timeout(3600)

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("SCALE_INS") or 10)
SEED = int(os.environ.get("SCALE_IN_SEED") or random.randrange(10**6))
#: The grace has room for a busy machine: a short task has ``OPENS_S`` of it, and the time that its end takes.
REPLICAS, GRACE_S, DRAIN_S, OPENS_S = 4, 24, 18, 5.0
#: Workers that begin all at once take minutes of a machine that is busy.
PATIENCE_S = 300.0
#: What the container is told to do at its end is what the chart's hook does.
SCRIPT = """
export TMPDIR=$(mktemp -d /tmp/hxXXXXXX)
"$PYTHON" -m tests.fixtures.celery & worker=$!
trap '"$PYTHON" -m hybrid_executor.worker.drain --timeout "$DRAIN_S"; kill -TERM $worker' TERM
while kill -0 $worker 2>/dev/null; do wait $worker; done
rm -rf "$TMPDIR"
"""


@dataclass
class Task:
    """One task of the load, whatever becomes of its tries."""

    folder: Path
    is_long: bool
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def order(self) -> dict[str, Any]:
        files = {name: str(self.folder / name) for name in ("runs", "gate", "done")}
        return {**files, "deaf": True}

    def living(self) -> int:
        """Processes that are in its body now."""
        if self.is_done or not (self.folder / "runs").exists():
            return 0
        pids = {int(line) for line in (self.folder / "runs").read_text().splitlines()}
        return sum(psutil.pid_exists(pid) for pid in pids)

    @property
    def is_done(self) -> bool:
        return (self.folder / "done").exists()

    @property
    def runs(self) -> int:
        path = self.folder / "runs"
        return len(path.read_text().splitlines()) if path.exists() else 0


class Metadata(FakeTasks):
    """Airflow's tables, as the tasks' own processes would have written them."""

    tasks: dict[TaskAddress, Task]

    def payload(self, parcel: Any, *, fresh_token: bool) -> str:
        return json.dumps({"token": "t", **parcel})

    def witnesses(self, attempts: Any) -> Any:
        for address, task in self.tasks.items():
            row = self.rows.get(address)
            if row and row.state == "queued" and task.runs >= len(task.attempts):
                row.state = "running"
            if row and row.state == "running" and task.is_done:
                row.state = "success"
        return super().witnesses(attempts)


class Scene:
    """The executor's loop over real workers in real pods."""

    def __init__(self, harness: ClusterHarness, url: str, folder: Path) -> None:
        self.harness, self.folder = harness, folder
        app = celery_app(url, url)
        self.celery = CeleryBackend(CeleryConfig(poll_interval_s=0.2), lambda: app)
        self.celery.start()
        self.roster = Roster(app, CeleryConfig())
        workers = harness.backend.workers
        assert workers is not None
        self.workers = workers
        self.tasks, self.heard, self.ledger = Metadata(), Heard(), MemoryLedger()
        self.tasks.tasks = {}
        self.controller = Controller(
            backends={BackendName.CELERY: self.celery, BackendName.KUBERNETES: harness.backend},
            ledger=self.ledger,
            tasks=self.tasks,
            listener=self.heard,
            inflight=Inflight(parallelism=32, limits={}, held_limit=100),
            policy=Policy(),
            clock=SystemClock(),
            owner="1",
            token_life_s=3600.0,
            reconcile_interval_s=5.0,
            refresh_s=60.0,
            workers=workers,
            pools=[Pool(name="light", queues=("default",), concurrency=4)],
        )
        self._restarts = 0
        self._deploy(url)

    def _deploy(self, url: str) -> None:
        labels = {LABEL_POOL: "light", LABEL_DEPLOYMENT: self.harness.config.deployment}
        values = {
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "PATH": "/usr/bin:/bin",
            "DRAIN_S": str(DRAIN_S),
            "TEST_BROKER": url,
            "TEST_RESULTS": url,
            "TEST_QUEUES": "default",
            "TEST_SETTINGS": json.dumps({"imports": ["hybrid_executor.worker.draining"]}),
            "TEST_DEAF": "/nonexistent",
            "TEST_NAME": "celery@$(POD_NAME)",
        }
        name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        env = [name, *({"name": key, "value": value} for key, value in values.items())]
        worker = {"name": "worker", "image": "none", "command": ["sh", "-c", SCRIPT], "env": env}
        template = {
            "metadata": {"labels": labels},
            "spec": {"containers": [worker], "terminationGracePeriodSeconds": GRACE_S},
        }
        self.harness.plane.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "light", "namespace": self.harness.namespace},
                "spec": {"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": template},
            }
        )

    # --- the loop ---------------------------------------------------------------------------

    def step(self) -> None:
        """A heartbeat, and what Airflow makes of it."""
        self.controller.step()
        restarted = [key for key, event in self.heard.events if event == "restarted"]
        for address in restarted[self._restarts :]:
            self._queue(self.tasks.tasks[address], address)
        self._restarts = len(restarted)
        assert all(task.living() <= 1 for task in self.tasks.tasks.values()), "a task runs twice at once"

    def until(self, condition: Any, message: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"seed {SEED}: {message}"
            self.step()
            time.sleep(0.2)

    def submit(self, *, is_long: bool) -> Task:
        folder = self.folder / f"task-{len(self.tasks.tasks)}"
        folder.mkdir()
        task, address = Task(folder, is_long), TaskAddress(dag_id="d", task_id=folder.name, run_id="r")
        self.tasks.tasks[address] = task
        self._queue(task, address)
        return task

    def _queue(self, task: Task, address: TaskAddress) -> None:
        attempt = make_attempt(task_id=address.task_id)
        route = replace(attempt.route, retry_on=frozenset({Reason.WORKER_LOST}), retry_limit=5)
        attempt = replace(attempt, address=address, route=route)
        task.attempts.append(attempt)
        self.tasks.rows[address] = Row(address, "queued", attempt.id, "1")
        self.controller.release(Flight(attempt=attempt, key=address, parcel=task.order))

    # --- workers ------------------------------------------------------------------------------

    def live(self) -> set[str]:
        pods = (self.workers.pods or {}).values()
        return {pod.name for pod in pods if pod.state is WorkerState.LIVE}

    def busy(self) -> set[str]:
        flights = self.controller.inflight
        return {pod_of(f.where) for f in flights if f.where and f.phase is Phase.STARTED} & self.live()

    def has_started(self, task: Task) -> bool:
        flight = self.controller.inflight.get(task.attempts[-1].id)
        return flight is not None and flight.phase is Phase.STARTED

    def scale(self, replicas: int) -> None:
        self.harness.api.kubectl("scale", "deployment", "light", f"--replicas={replicas}")

    def is_complete(self) -> bool:
        return len(self.live()) == REPLICAS and {f"celery@{name}" for name in self.live()} <= set(
            self.roster.look()
        )

    def costs_are_known(self) -> bool:
        """A worker is dear while it is busy, and no longer."""
        pods, busy = self.workers.pods or {}, self.busy()
        return all((pods[name].deletion_cost > 0) == (name in busy) for name in self.live() & pods.keys())


@pytest.fixture
def scene(  # noqa: PLR0917
    plane: ControlPlane,
    namespace: str,
    runner: RunnerNode,
    start_harness: HarnessMaker,
    valkey_url: str,
    tmp_path: Path,
) -> Iterator[Scene]:
    made = Scene(start_harness(plane, namespace, workers_namespace=namespace), valkey_url, tmp_path)
    yield made
    made.harness.api.kubectl("delete", "deployment", "light", "--cascade=foreground")
    made.celery.stop(3.0)
    made.roster.close()


def play(scene: Scene, chance: random.Random) -> tuple[set[str], set[str], int]:
    """One scale-in; who was idle, who was chosen, and how many were."""
    scene.until(scene.is_complete, "the workers are not complete")
    tasks: list[Task] = []
    while len(scene.busy()) < REPLICAS // 2:
        tasks.append(scene.submit(is_long=len(scene.tasks.tasks) % 10 == 4))
        scene.until(lambda task=tasks[-1]: scene.has_started(task), "a task does not start")
    scene.until(scene.costs_are_known, "a busy worker stays cheap, or an idle one dear")
    # An autoscaler looks every 15 s, at a number that is some seconds old.
    settled = time.monotonic() + ROUND_S + 1.0
    scene.until(lambda: time.monotonic() >= settled, "time stands still")
    before, idle = scene.live(), scene.live() - scene.busy()
    # With a long one all go, as on a node that is drained.
    away = REPLICAS if any(task.is_long for task in tasks) else chance.choice((1, 2, 3))
    scene.scale(REPLICAS - away)
    scene.until(lambda: len(scene.live()) == REPLICAS - away, "nobody leaves")
    chosen = before - scene.live()
    began = time.monotonic()
    due = [(began + chance.uniform(0.0, OPENS_S), task) for task in tasks if not task.is_long]

    def are_open() -> bool:
        now = time.monotonic()
        for at, task in due:
            if at <= now:
                (task.folder / "gate").touch()
        return all(at <= now for at, _ in due)

    scene.until(are_open, "time stands still")
    scene.until(lambda: not chosen & (scene.workers.pods or {}).keys(), "who leaves does not go")
    for task in tasks:
        (task.folder / "gate").touch()
    scene.scale(REPLICAS)
    scene.until(
        lambda: all(task.is_done for task in tasks) and not len(scene.controller.inflight), "a task is lost"
    )
    return idle, chosen, away


def test_no_task_is_lost_failed_or_run_twice_and_idle_workers_go_first_af26587_af32180_af13591(
    scene: Scene,
) -> None:
    print(f"seed {SEED}")
    chance, fair, good = random.Random(SEED), 0, 0
    for number in range(ROUNDS):
        idle, chosen, away = play(scene, chance)
        print(
            f"scale-in {number}: {len(idle)} idle, {away} taken, {len(chosen - idle)} of them busy",
            flush=True,
        )
        fair += len(idle) >= away
        good += len(idle) >= away and chosen <= idle
    assert "failed" not in {event for _, event in scene.heard.events}, f"seed {SEED}"
    lost = [record for record in scene.ledger.records if record.outcome is not Outcome.SUCCEEDED]
    long_ones = {task.folder.name for task in scene.tasks.tasks.values() if task.is_long}
    assert {record.reason for record in lost} == ({Reason.WORKER_LOST} if long_ones else set())
    assert {record.address.task_id for record in lost if record.address} <= long_ones
    assert all(task.runs == len(task.attempts) for task in scene.tasks.tasks.values())
    assert good >= 0.95 * fair, f"seed {SEED}: an idle one in {good} of {fair}"
