"""Conducts a run: starts servers and processes, says which phase it is, samples, and looks what is left."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa

from bench.load.board import OVER, Board
from bench.load.plan import LOAD, Phase, Plan, lost
from bench.load.sample import Sampler, asked, keys_by_kind
from bench.world import World
from hybrid_executor.standalone.stack.environment import EXECUTOR
from hybrid_executor.standalone.stack.process import Process

Say = Callable[[str], None]
#: PostgreSQL tells of what an idle connection has done after ten seconds.
SETTLES_S = 11.0
#: Beyond what is due: for a machine that does not keep up, which is then seen as lag.
PATIENCE_S = 300.0
#: For what follows the last end: pods that go, keys that are dropped.
LEAVES_S = 60.0
#: Nobody says for a task that runs here that its process lives.
NO_SUPERVISORS = {"AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "100000"}
#: Between a phase's announcement and its beginning.
AHEAD_S = 1.0

_LEDGER = sa.text("""
SELECT count(*) AS rows, count(DISTINCT attempt_id) AS attempts,
       count(*) FILTER (WHERE ended_at IS NULL) AS open,
       count(*) FILTER (WHERE outcome IS DISTINCT FROM 'succeeded') AS not_succeeded,
       pg_relation_size('hybrid_submission') AS table_bytes,
       pg_indexes_size('hybrid_submission') AS index_bytes
  FROM hybrid_submission
""")
_WAITS = sa.text("""
SELECT map_index, backend, EXTRACT(epoch FROM queued_at)::float8 AS at,
       EXTRACT(epoch FROM submitted_at - queued_at)::float8 AS waited_s
  FROM hybrid_submission WHERE map_index >= 1 AND submitted_at IS NOT NULL
""")
_UNDONE = sa.text(
    "SELECT count(*) FROM task_instance WHERE map_index >= :first AND state IS DISTINCT FROM 'success'"
)


class LoadWorld(World):
    """Its embedded API counts, and its processes are known by name."""

    api_module = "bench.load.api"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.started: dict[str, Process] = {}

    def start(
        self, name: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> Process:
        """See ``World``."""
        self.started[name] = super().start(name, module, *arguments, environment=environment)
        return self.started[name]


class Stuck(Exception):
    """What was offered has not ended in time, or a process has."""


@dataclass
class Run:
    """One run's parts."""

    plan: Plan
    board: Board
    sampler: Sampler
    valkey: redis.Redis
    engine: sa.Engine
    processes: Mapping[str, Process]
    say: Say
    samples: list[dict[str, Any]] = field(default_factory=list)
    phases: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def schedulers(self) -> list[str]:
        return [f"scheduler-{number}" for number in range(self.plan.amounts.schedulers)]

    def conduct(self) -> None:
        """All phases."""
        for number, phase in enumerate(self.plan.phases):
            self._conduct(number, phase)

    def _conduct(self, number: int, phase: Phase) -> None:
        began = time.time() + AHEAD_S
        before = self._sample(anew=True)
        self.board.begin(number, began)
        self._pass(until=began + phase.offers_s)
        offered = self._sample(anew=True)
        if phase.name == LOAD:
            self.keys = keys_by_kind(self.valkey)
        deadline = time.time() + phase.drains_s + PATIENCE_S
        while not self._is_drained(number):
            if time.time() > deadline:
                raise Stuck(f"{phase.name}: {self._in_flight()} in flight long after the last was offered")
            self._pass(until=time.time() + 1)
        drained = time.time()
        self._pass(until=drained + SETTLES_S)
        after = self._sample(anew=True)
        ended = self._ends()
        self.phases.append(
            {
                "name": phase.name,
                "from": before["at"],
                "began": began,
                "offered": offered["at"],
                "drained": drained,
                "to": after["at"],
                "ended": ended,
            }
        )
        self.say(f"{phase.name}: {time.time() - began:.0f} s, {ended} tasks have ended in all")

    def _pass(self, until: float) -> None:
        while time.time() < until:
            self._sample()
            for process in self.processes.values():
                if process.pid is None:
                    raise Stuck(str(process.failure("ended")))
            time.sleep(max(0.0, min(1.0, until - time.time())))

    def _sample(self, *, anew: bool = False) -> dict[str, Any]:
        if anew:
            self.sampler.settle()
        self.samples.append(self.sampler.sample())
        return self.samples[-1]

    def _last(self) -> list[dict[str, Any]]:
        return [lines[-1] for name in self.schedulers if (lines := self.board.lines(name))]

    def _is_drained(self, number: int) -> bool:
        """Whether all schedulers are in the phase, have offered all of it and heard of every end."""
        said = self._last()
        return (
            len(said) == len(self.schedulers)
            and all(line["phase"] == number for line in said)
            and all(line["elapsed_s"] >= self.plan.phases[number].offers_s for line in said)
            and self._in_flight() == 0
        )

    def _in_flight(self) -> int:
        return sum(int(line["begun"] - line["observed"]) for line in self._last())

    def _ends(self) -> int:
        return sum(int(line["observed"]) for line in self._last())

    def left(self, namespace: str) -> dict[str, int]:
        """What is still there, once nothing more goes or it was waited for long enough."""
        deadline = time.monotonic() + LEAVES_S
        while any((found := self._left(namespace)).values()) and time.monotonic() < deadline:
            self._pass(until=time.time() + 1)
        return found

    def _left(self, namespace: str) -> dict[str, int]:
        pods = json.loads(asked(self.sampler.kubeconfig, f"/api/v1/namespaces/{namespace}/pods?limit=500"))
        waiting = list(self.valkey.scan_iter(match="*:inflight:*"))
        with self.engine.connect() as connection:
            ledger = connection.execute(_LEDGER).one()
            undone = connection.scalar(_UNDONE, {"first": 1})
        return {
            "pods": len(pods["items"]),
            "messages": int(self.valkey.llen("default")),
            "inflight_keys": sum(int(self.valkey.zcard(key)) for key in waiting),
            "open_rows": int(ledger.open),
            "tasks_not_successful": int(undone or 0),
        }

    def ledger(self) -> dict[str, Any]:
        """What the ledger holds, and how long each submission took to be accepted."""
        with self.engine.connect() as connection:
            found = dict(connection.execute(_LEDGER).one()._mapping)
            found["waits"] = [list(row) for row in connection.execute(_WAITS)]
        return found

    def end(self) -> dict[str, dict[str, Any]]:
        """Tell everybody that it is over; what each leaves."""
        self.board.begin(OVER, time.time())
        names = [*self.schedulers, "worker", "node"]
        deadline = time.monotonic() + LEAVES_S
        while not all(self.board.left(name) for name in names):
            if time.monotonic() > deadline:
                raise Stuck("not every process has ended in time")
            time.sleep(0.2)
        return {name: self.board.left(name) or {} for name in names}


def run(plan: Plan, folder: Path, say: Say) -> dict[str, Any]:
    """Everything that was found. Raises ``Stuck``."""
    with LoadWorld(folder) as world, ExitStack() as stack:
        environment = stack.enter_context(world.room("load", needs={"kubernetes"}))
        environment |= {"AIRFLOW__CORE__EXECUTOR": EXECUTOR} | NO_SUPERVISORS
        board = Board(folder / "board")
        board.folder.mkdir()
        board.begin(0, time.time() + 3600)
        processes = _started(world, plan, board, environment)
        for process in processes.values():
            stack.callback(process.kill)
        engine = sa.create_engine(
            environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], isolation_level="AUTOCOMMIT"
        )
        stack.callback(engine.dispose)
        valkey = stack.enter_context(redis.Redis.from_url(environment["BENCH_VALKEY"]))
        kubeconfig = Path(environment["AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE"])
        sampler = Sampler(
            engine,
            valkey,
            kubeconfig,
            _pids(world, processes),
        )
        one = Run(plan, board, sampler, valkey, engine, processes, say)
        _await_all(one)
        one.conduct()
        left = one.left(environment["AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE"])
        ledger, ends = one.ledger(), one.end()
        lines = {name: board.lines(name) for name in ends}
    begun = _noted(ends, "begun", *one.schedulers)
    observed = _noted(ends, "observed", *one.schedulers)
    failed = _noted(ends, "failed", *one.schedulers)
    return {
        "phases": one.phases,
        "samples": one.samples,
        "lines": lines,
        "keys": one.keys,
        "ledger": ledger,
        "begun": begun,
        "observed": observed,
        "ended": _noted(ends, "ended", "worker", "node"),
        "checks": {
            "offered": len(begun),
            "lost": len(lost(begun, observed)),
            "failed": len(failed),
            "sent_again": int(ledger["rows"] - ledger["attempts"]),
            "without_a_row": len(begun) - int(ledger["attempts"]),
            "left": left,
        },
    }


def _noted(ends: Mapping[str, Mapping[str, Any]], what: str, *names: str) -> dict[int, Any]:
    """By map index, of all of these processes."""
    return {int(index): noted for name in names for index, noted in ends[name][what].items()}


def _started(
    world: LoadWorld, plan: Plan, board: Board, environment: Mapping[str, str]
) -> dict[str, Process]:
    def start(name: str, module: str, *arguments: str) -> Process:
        given = (str(board.folder), *arguments, plan.text())
        return world.start(name, f"bench.load.{module}", *given, environment=environment)

    found = {"node": start("node", "node"), "worker": start("worker", "worker")}
    for number in range(plan.amounts.schedulers):
        found[f"scheduler-{number}"] = start(f"scheduler-{number}", "scheduler", str(number))
    return found


def _pids(world: LoadWorld, processes: Mapping[str, Process]) -> dict[str, int]:
    servers = {
        "postgres": world.postgres.process,
        "valkey": world.valkey.process,
        "api": world.started["api"],
    }
    named = {name: process.pid for name, process in {**servers, **processes}.items()}
    return {name: pid for name, pid in named.items() if pid is not None}


def _await_all(one: Run) -> None:
    """All processes beat; imports of Airflow take a while."""
    deadline = time.monotonic() + 120
    while not all(one.board.lines(name) for name in one.processes):
        for process in one.processes.values():
            if process.pid is None:
                raise Stuck(str(process.failure("ended")))
        if time.monotonic() > deadline:
            raise Stuck("not every process began")
        time.sleep(0.2)
