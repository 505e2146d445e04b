"""Two schedulers, thousands of tasks, and everything dies or is meddled with at random: nothing is lost.

``SOAK_TASKS`` says how many tasks (in hundreds), ``SOAK_SEED`` repeats a plan.
"""

import json
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import sqlalchemy as sa
import urllib3

from hybrid_executor.comparison import LEAK_MIN_S
from hybrid_executor.standalone.stack.client import ApiRefused
from tests.chaos.scene import eventually
from tests.fixtures.stack import RunningStack, running_stack, wait_until
from tests.soak.stack import DAGS, NODE, SCHEDULERS, SERVERS, SETTINGS, WORKERS, SoakStack

DAG = "soak"
#: Of one run: see dags/soak.py.
TASKS, PODS = 100, 8
#: Of the meddling, as long as there is something left to do.
PAUSE_S = (0.2, 2.0)
AWAY_S = (0.5, 6.0)
#: After the last kill: as long as it takes to miss a process that died, and to try again.
SETTLE_S = 300
KILLS = {"worker": 4, "pod": 4, "scheduler": 3, "server": 2, "node": 1}
USERS = {"clear": 4, "fail": 3, "pause": 1}
Key = tuple[str, str, int]


@dataclass
class Soak:
    """What is hurt, and what was done to it."""

    stack: RunningStack
    chance: random.Random
    runs: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    #: What a user has had a hand in: its state is the user's.
    touched: set[Key] = field(default_factory=set)
    #: When a process was dead at the latest.
    deaths: dict[int, float] = field(default_factory=dict)
    _deck: list[str] = field(default_factory=list)

    # --- doing ----------------------------------------------------------------------------

    def trouble(self) -> None:
        """One kill or one user's action; all kinds have had their turns before any has more."""
        if not self._deck:
            self._deck = [kind for kind, times in (KILLS | USERS).items() for _ in range(times)]
            self.chance.shuffle(self._deck)
        kind = self._deck.pop()
        away = (OSError, urllib3.exceptions.HTTPError, sa.exc.OperationalError)
        with suppress(ApiRefused, kubernetes.client.ApiException, *away):
            getattr(self, f"_{kind}")()
            self.done[kind] += 1

    def _kill(self, name: str) -> None:
        pid = self.stack.pid(name)
        self.stack.kill(name, hold=True)
        if pid:
            self.deaths[pid] = time.monotonic()
        time.sleep(self.chance.uniform(*AWAY_S))
        self.stack.restart(name)

    def _worker(self) -> None:
        self._kill(self.chance.choice(WORKERS))

    def _node(self) -> None:
        self._kill(NODE)

    def _scheduler(self) -> None:
        self._kill(self.chance.choice(SCHEDULERS))

    def _server(self) -> None:
        self._kill(self.chance.choice(SERVERS))

    def _pod(self) -> None:
        core = kubernetes.client.CoreV1Api(
            kubernetes.config.new_client_from_config(str(self.stack.kubeconfig))
        )
        if pods := core.list_namespaced_pod("default", _request_timeout=5).items:
            name = self.chance.choice(pods).metadata.name
            core.delete_namespaced_pod(name, "default", grace_period_seconds=0, _request_timeout=5)

    def _clear(self) -> None:
        run, task, index = key = self._any("queued", "running", "success")
        self.touched.add(key)
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run, "task_ids": [[task, index]]}
        self.stack.client.call("POST", f"/dags/{DAG}/clearTaskInstances", body)

    def _fail(self) -> None:
        run, task, index = key = self._any("queued", "running", "scheduled")
        self.touched.add(key)
        path = f"/dags/{DAG}/dagRuns/{run}/taskInstances/{task}/{index}"
        self.stack.client.call("PATCH", path, {"new_state": "failed"})

    def _pause(self) -> None:
        for paused in (True, False):
            eventually(
                lambda paused=paused: self.stack.client.call("PATCH", f"/dags/{DAG}", {"is_paused": paused}),
                60,
            )
            time.sleep(self.chance.uniform(*PAUSE_S))

    def _any(self, *states: str) -> Key:
        rows = self.rows(
            "SELECT run_id, task_id, map_index FROM task_instance WHERE state IN :states"
            " ORDER BY run_id, task_id, map_index",
            states=states,
        )
        if not rows:
            raise OSError("nothing is in these states")
        return tuple(self.chance.choice(rows))

    # --- looking --------------------------------------------------------------------------

    def rows(self, query: str, **values: Any) -> list[Any]:
        text = sa.text(query)
        if values:
            text = text.bindparams(*(sa.bindparam(name, expanding=True) for name in values))
        with self.stack.db.connect() as connection:
            return list(connection.execute(text, {name: list(value) for name, value in values.items()}))

    def left(self) -> int:
        """Task instances that are not over, and runs."""
        query = (
            "SELECT (SELECT count(*) FROM task_instance WHERE state IS NULL OR state NOT IN"
            " ('success', 'failed', 'skipped', 'upstream_failed', 'removed'))"
            " + (SELECT count(*) FROM dag_run WHERE state IN ('queued', 'running'))"
        )
        return int(eventually(lambda: self.rows(query), 60)[0][0])

    def running(self) -> list[dict[str, Any]]:
        """Executions that have not ended, but for those whose process is dead."""
        open_ones: dict[tuple[str, int], dict[str, Any]] = {}
        for event in self.events():
            mark = (event["name"], event["pid"])
            if event["kind"] == "start":
                open_ones[mark] = event
            else:
                del open_ones[mark]
        return [event for event in open_ones.values() if event["pid"] not in self.deaths]

    def events(self) -> list[dict[str, Any]]:
        path = self.stack.stack.setup.state / "lines"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def soak(tmp_path: Path, record_property: Any) -> Iterator[Soak]:
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))
    print(f"seed {seed}: SOAK_SEED={seed} repeats it")
    record_property("seed", seed)
    options = {"restarts": False, "kind": SoakStack, "extra": SETTINGS}
    with running_stack(tmp_path / "state", DAGS, **options) as running:
        yield Soak(running, random.Random(seed))


@pytest.mark.timeout(7200)
def test_nothing_is_lost_and_nothing_runs_twice_at_once_whatever_dies(soak: Soak) -> None:
    tasks = int(os.environ.get("SOAK_TASKS") or 5000)
    begin = time.monotonic()
    soak.stack.wait_dag(DAG, 120)
    soak.runs = [soak.stack.trigger(DAG) for _ in range(max(1, tasks // TASKS))]
    wait_until(lambda: soak.left() > TASKS / 2, 120, lambda: "nothing is scheduled")
    while soak.left() > tasks / 20:
        time.sleep(soak.chance.uniform(*PAUSE_S))
        soak.trouble()
    soak.stack.restart_all()
    soak.stack.wait_healthy(180)
    wait_until(lambda: not soak.left(), SETTLE_S, lambda: f"{soak.left()} are left: {stuck(soak)}")
    open_rows = "SELECT * FROM hybrid_submission WHERE ended_at IS NULL"
    wait_until(lambda: not soak.rows(open_rows), LEAK_MIN_S + 60, lambda: f"open: {soak.rows(open_rows)}")
    # What a user has marked failed runs on for a while.
    wait_until(lambda: not soak.running(), 60, lambda: f"run on: {soak.running()}")
    check_executions(soak)
    check_ledger(soak)
    executed = sum(event["kind"] == "start" for event in soak.events())
    print(
        f"{len(soak.runs) * TASKS} tasks, {len(soak.runs) * PODS} of them in pods, {executed} executions,"
        f" {dict(soak.done)}, {time.monotonic() - begin:.0f} s"
    )
    assert soak.done.total() >= tasks / 100


def stuck(soak: Soak) -> list[Any]:
    return soak.rows(
        "SELECT t.run_id, t.task_id, t.map_index, t.try_number, t.state, s.backend, s.submission, s.outcome,"
        " s.reason, s.waits_for, s.started_at, s.ended_at FROM task_instance t LEFT JOIN hybrid_submission s"
        " ON s.attempt_id = t.external_executor_id WHERE t.state IS NULL OR t.state NOT IN"
        " ('success', 'failed') LIMIT 20"
    )


def check_executions(soak: Soak) -> None:
    """No two executions of a task overlap, and what is a success was executed to its end."""
    # A process of the world that died took along what it ran.
    spans: dict[Key, list[tuple[float, float, str]]] = defaultdict(list)
    begun: dict[tuple[str, int], tuple[Key, float]] = {}
    ended: set[Key] = set()
    for event in soak.events():
        key, mark = (event["run"], event["task"], event["index"]), (event["name"], event["pid"])
        if event["kind"] == "start":
            begun[mark] = (key, event["at"])
            continue
        _, start = begun.pop(mark)
        spans[key].append((start, event["at"], event["name"]))
        if event["kind"] == "end":
            ended.add(key)
    for (name, pid), (key, start) in begun.items():
        spans[key].append((start, soak.deaths[pid], name))
    for key, several in spans.items():
        for (_, end, one), (start, _, other) in pairwise(sorted(several)):
            assert end <= start, f"{key} was executed by {one} and by {other} at once"
    states = {
        (run, task, index): state
        for run, task, index, state in soak.rows(
            "SELECT run_id, task_id, map_index, state FROM task_instance"
        )
    }
    assert len(states) == len(soak.runs) * TASKS
    never = [key for key, state in states.items() if state == "success" and key not in ended]
    assert not never, f"successes that no process had: {never[:10]}"
    failed = [key for key, state in states.items() if state != "success" and key not in soak.touched]
    assert not failed, f"not a user's doing: {[(key, states[key]) for key in failed[:10]]}"


def check_ledger(soak: Soak) -> None:
    """Row by row: every task instance carries an attempt whose rows are its own, and ended as it did."""
    rows = soak.rows(
        "SELECT t.run_id, t.task_id, t.map_index, t.try_number, t.state, t.external_executor_id, s.dag_id,"
        " s.run_id AS of_run, s.task_id AS of_task, s.map_index AS of_index, s.try_number AS of_try,"
        " s.outcome, s.reason, s.backend FROM task_instance t LEFT JOIN hybrid_submission s ON"
        " s.attempt_id = t.external_executor_id AND s.submission = (SELECT max(submission) FROM"
        " hybrid_submission l WHERE l.attempt_id = s.attempt_id)"
    )
    wrong = []
    for row in rows:
        key = (row.run_id, row.task_id, row.map_index)
        if row.state != "success" and key in soak.touched:
            continue  # Marked before it was ever sent, or cleared.
        same = (row.of_run, row.of_task, row.of_index, row.of_try) == (*key, row.try_number)
        backend = "kubernetes" if row.task_id == "heavy" else "celery"
        if not same or row.backend != backend or not row.outcome:
            wrong.append(row)
    assert not wrong, f"{len(wrong)} rows: {wrong[:5]}"
