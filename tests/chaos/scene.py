"""What chaos tests look at: lines that tasks wrote, pods, ledger rows, slots, and the scheduler's log."""

import http.client
import json
import os
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import kubernetes
import sqlalchemy as sa

import hybrid_executor
from hybrid_executor.airflowtables import PAST_TRIES
from hybrid_executor.standalone.stack.client import ApiRefused
from tests.fixtures.stack import RunningStack, wait_until

#: ``[core] parallelism`` of the stack.
PARALLELISM = 16
#: After so long a task that is queued is taken for stuck, unless the executor knows why it waits.
QUEUED_TIMEOUT_S = 10
#: How a frame of ours is shown in a traceback.
PACKAGE = f'File "{Path(hybrid_executor.__file__).parent}/'
#: A block of a log from "Traceback" to the line that names the exception.
TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ |+].*\n|\n)+.*")


@dataclass(frozen=True)
class Line:
    """What a task wrote: it has started, or it is about to end."""

    run_id: str
    task_id: str
    kind: str
    at: float


@dataclass
class Scene:
    """The stack and its traces."""

    stack: RunningStack
    #: Where the scheduler is told at which point to die.
    order: Path
    _log_begins: int = field(default=0, init=False)

    # --- doing -------------------------------------------------------------------------

    def begin(self) -> None:
        """Count the scheduler's log from here on."""
        self._log_begins = len(self.stack.log("scheduler"))

    def heal(self) -> None:
        """Bring back whatever is down."""
        self.stack.restart_all()
        self.stack.wait_healthy(120)

    def clear_stage(self) -> None:
        """End whatever an earlier test that failed has left running."""
        query = sa.text("SELECT dag_id, run_id FROM dag_run WHERE state IN ('queued', 'running')")
        with self.stack.db.connect() as connection:
            left = connection.execute(query).all()
        for dag_id, run_id in left:
            self.fail_run(dag_id, run_id)
        self.order.unlink(missing_ok=True)
        # Nobody else does where its operator was not there to see its task end.
        for name in self._started_pods("kubernetes_pod_operator=True"):
            with suppress(kubernetes.client.ApiException):  # it may have gone by itself
                self.delete_at_once(name)
        self.check_nothing_is_left(90)

    def make_pool(self, name: str, slots: int) -> None:
        self.stack.client.call("POST", "/pools", {"name": name, "slots": slots})

    def die_at(self, point: str, times: int = 1) -> None:
        """Order the scheduler to kill itself when it gets to a point for the n-th time."""
        written = self.order.with_suffix(".new")
        written.write_text(f"{point} {times}")
        written.rename(self.order)

    def wait_death(self, deadline_s: float = 40) -> None:
        """Wait until the order was carried out."""
        wait_until(lambda: not self.order.exists(), deadline_s, lambda: "the scheduler never got there")

    def fail_run(self, dag_id: str, run_id: str) -> None:
        """What a user does: mark a whole run failed."""
        self.stack.client.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})

    def fail_task(self, dag_id: str, run_id: str, task_id: str) -> None:
        """What a user does: mark one task failed."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.stack.client.call("PATCH", path, {"new_state": "failed"})

    def clear_task(self, dag_id: str, run_id: str, task_id: str) -> None:
        """What a user does: clear a task that runs."""
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run_id, "task_ids": [task_id]}
        self.stack.client.call("POST", f"/dags/{dag_id}/clearTaskInstances", body)

    def pass_task(self, dag_id: str, run_id: str, task_id: str) -> None:
        """What a user does: mark one task a success."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.stack.client.call("PATCH", path, {"new_state": "success"})

    def pause(self, dag_id: str, *, paused: bool = True) -> None:
        """What a user does: let nothing of a DAG be scheduled, or let it again."""
        self.stack.client.call("PATCH", f"/dags/{dag_id}", {"is_paused": paused})

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """What a user does: delete a whole run, which Airflow allows once it does not run any more."""
        self.fail_run(dag_id, run_id)
        self.stack.client.call("DELETE", f"/dags/{dag_id}/dagRuns/{run_id}")

    def let_go(self, run_id: str, try_number: int) -> None:
        """Let this try of an endless task end."""
        (self.stack.stack.setup.data / f"{run_id}.{try_number}").touch()

    def evict(self, name: str) -> None:
        """What a drain does, as an administrator of the embedded cluster."""
        eviction = kubernetes.client.V1Eviction(metadata=kubernetes.client.V1ObjectMeta(name=name))
        self._core.create_namespaced_pod_eviction(name, self.stack.namespace, eviction, _request_timeout=10)

    def delete_at_once(self, name: str) -> None:
        """End a pod with no grace: its process gets no signal that it could heed."""
        self._core.delete_namespaced_pod(
            name, self.stack.namespace, grace_period_seconds=0, _request_timeout=10
        )

    # --- looking -----------------------------------------------------------------------

    def lines(self, run_id: str) -> list[Line]:
        path = self.stack.stack.setup.data / "lines"
        words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [Line(run, task, kind, float(at)) for run, task, kind, at, _ in words if run == run_id]

    def starts(self, run_id: str) -> Counter[str]:
        """How often each task of a run was executed."""
        return Counter(line.task_id for line in self.lines(run_id) if line.kind == "start")

    def running(self, run_id: str, prefix: str) -> dict[str, float]:
        """The tasks that run now, with the time when they started."""
        seen: dict[str, float] = {}
        for line in self.lines(run_id):
            if line.kind == "start" and line.task_id.startswith(prefix):
                seen[line.task_id] = line.at
            else:
                seen.pop(line.task_id, None)
        return seen

    def count(self, dag_id: str, run_id: str, *states: str) -> int:
        """How many task instances of a run are in one of these states."""
        return sum(state in states for state in self.stack.states(dag_id, run_id).values())

    def lives(self, run_id: str, try_number: int, task_id: str | None = None) -> bool:
        """Whether an endless task has shown itself lately: any of the run, or this one."""
        name = f"{run_id}.{try_number}.{task_id}" if task_id else f"{run_id}.{try_number}"
        beat = self.stack.stack.setup.data / f"{name}.alive"
        return beat.exists() and time.time() - beat.stat().st_mtime < 3

    def stuck_notes(self, run_id: str) -> list[str]:
        """What Airflow wrote of tasks of a run that it took for stuck."""
        query = sa.text(
            "SELECT task_id || ': ' || event FROM log WHERE run_id = :run AND event LIKE '%stuck%'"
        )
        with self.stack.db.connect() as connection:
            return list(connection.scalars(query, {"run": run_id}))

    def pods(self, run_id: str | None = None) -> list[str]:
        """The names of all pods, or of those of a run."""
        listed = self._core.list_namespaced_pod(self.stack.namespace, _request_timeout=10)
        return [
            pod.metadata.name
            for pod in listed.items
            if run_id in (None, (pod.metadata.annotations or {}).get("run_id"))
        ]

    def started(self, run_id: str) -> list[str]:
        """The names of pods that tasks of a run have started themselves, but for those that are ending."""
        return self._started_pods(f"kubernetes_pod_operator=True,run_id={run_id}")

    def _started_pods(self, selector: str) -> list[str]:
        listed = self._core.list_namespaced_pod(
            self.stack.namespace, label_selector=selector, _request_timeout=10
        )
        return [pod.metadata.name for pod in listed.items if not pod.metadata.deletion_timestamp]

    def event_log(self, run_id: str) -> list[tuple[str, int, str, str]]:
        """What the executor noted of a run's tasks: task, try, event, text."""
        query = sa.text(
            "SELECT task_id, try_number, event, extra FROM log"
            " WHERE run_id = :run AND event LIKE 'hybrid executor: %' ORDER BY id"
        )
        with self.stack.db.connect() as connection:
            rows = connection.execute(query, {"run": run_id})
            return [(task, number, event.partition(": ")[2], text) for task, number, event, text in rows]

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> str:
        """The log of one try, as Airflow's UI gets it."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        answer = self.stack.client.get(path, {"map_index": "-1", "full_content": "true"})
        return "\n".join(map(json.dumps, answer["content"]))

    def tries(self, run_id: str) -> dict[str, list[tuple[int, str, str | None]]]:
        """The finished tries of each task of a run that were followed by another: number, state, reason."""
        query = sa.text(
            f"SELECT task_id, try_number, state, retry_reason FROM {PAST_TRIES}"  # noqa: S608
            " WHERE run_id = :run ORDER BY task_id, try_number"
        )
        found: dict[str, list[tuple[int, str, str | None]]] = {}
        with self.stack.db.connect() as connection:
            for task, number, state, reason in connection.execute(query, {"run": run_id}):
                found.setdefault(task, []).append((number, state, reason))
        return found

    def open_rows(self) -> list[Any]:
        """Ledger rows that have not ended."""
        query = sa.text(
            "SELECT dag_id, task_id, attempt_id, submission, waits_for FROM hybrid_submission"
            " WHERE ended_at IS NULL"
        )
        with self.stack.db.connect() as connection:
            return list(connection.execute(query).all())

    def slots_taken(self) -> list[str]:
        """The attempts that the scheduler has in flight, as it says itself on SIGUSR2."""
        begin = len(self.stack.log("scheduler"))
        pid = self.stack.pid("scheduler")
        assert pid
        os.kill(pid, signal.SIGUSR2)
        end = "End of attempts in flight"
        wait_until(lambda: end in self.stack.log("scheduler")[begin:], 20, lambda: "no dump in the log")
        shown = self.stack.log("scheduler")[begin:].partition(end)[0]
        return [line for line in shown.splitlines() if "in flight: " in line]

    @cached_property
    def _core(self) -> kubernetes.client.CoreV1Api:
        client = kubernetes.config.new_client_from_config(str(self.stack.kubeconfig))
        return kubernetes.client.CoreV1Api(client)

    # --- what must hold ------------------------------------------------------------------

    def check_each_ran_once(self, dag_id: str, run_id: str) -> None:
        """Every task of the run ended in success, and was executed exactly once."""
        states = self.stack.states(dag_id, run_id)
        log = self.stack.log("scheduler")[self._log_begins :]
        assert set(states.values()) == {"success"}, f"{states}\n{log[-6000:]}"
        assert not self.stuck_notes(run_id)
        starts = self.starts(run_id)
        assert starts == Counter(states.keys()), {t: n for t, n in starts.items() if n != 1}

    def check_nothing_is_left(self, deadline_s: float = 30) -> None:
        """No pod, no slot, no open ledger row."""
        wait_until(lambda: not self.pods(), deadline_s, lambda: f"pods left: {self.pods()}")
        wait_until(lambda: not self.open_rows(), deadline_s, lambda: f"rows left open: {self.open_rows()}")
        assert not self.slots_taken()

    def check_scheduler_log(self) -> None:
        """Nothing of ours was raised: neither into Airflow's loop nor in a thread of our own."""
        log = self.stack.log("scheduler")[self._log_begins :]
        ours = [found for found in TRACEBACK.findall(log) if PACKAGE in found]
        assert not ours, ours[0]


def eventually(ask: Any, deadline_s: float = 20) -> Any:
    """The answer of a call that fails while what it asks is away."""
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            return ask()
        except (
            OSError,
            http.client.HTTPException,
            json.JSONDecodeError,
            ApiRefused,
            sa.exc.OperationalError,
        ):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
