"""A node without processes: ``python -m bench.load.node FOLDER PLAN``, in the environment of a scheduler.

Calls every pod of the namespace Running as soon as it is there, and Succeeded
when its life is over. What a task's process would have told Airflow's Execution
API it writes into the metadata database, many at once.
"""

import asyncio
import heapq
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench.bare import MERGE, Pods, Refused, each, pods_of
from bench.load.board import OVER, Board, Teller
from bench.load.plan import KUBERNETES, Plan
from bench.paper_node import status_of, success_of

PAUSE_S = 0.1

_STATE = sa.text("""
UPDATE task_instance ti
   SET state = :state, last_heartbeat_at = now(), start_date = coalesce(ti.start_date, now()),
       end_date = CASE WHEN :state = 'success' THEN now() END
  FROM unnest(CAST(:dag AS text[]), CAST(:task AS text[]), CAST(:run AS text[]), CAST(:index AS int[]))
       AS pod (dag, task, run, index)
 WHERE ti.dag_id = pod.dag AND ti.task_id = pod.task AND ti.run_id = pod.run AND ti.map_index = pod.index
   AND ti.state IN ('queued', 'running')
""")


def is_new(pod: dict[str, Any], seen: set[str]) -> bool:
    """Whether a pod is to be started: a list shows those again that are on their way."""
    is_pending = (pod.get("status") or {}).get("phase", "Pending") == "Pending"
    return is_pending and pod["metadata"]["name"] not in seen


class Node:
    """What it has."""

    def __init__(self, plan: Plan, engine: sa.Engine, pods: Pods) -> None:
        self.plan, self.engine, self.pods = plan, engine, pods
        self.seen: set[str] = set()
        self.new: list[dict[str, Any]] = []
        #: When each ends; its name tells two of the same moment apart.
        self.running: list[tuple[float, str, dict[str, Any]]] = []
        self.ended: dict[int, float] = {}

    async def watch(self) -> None:
        """Until cancelled; a server ends a watch now and then."""
        while True:
            async for kind, pod in self.pods.events():
                name = pod["metadata"]["name"]
                if kind == "DELETED":
                    self.seen.discard(name)
                elif is_new(pod, self.seen):
                    self.seen.add(name)
                    self.new.append(pod)

    async def turn(self) -> None:
        """Start what is there, end what is due."""
        new, self.new = self.new, []
        await self._tell(new, "running", "Running")
        now = time.time()
        for pod in new:
            ends = now + self.plan.life_s(index_of(pod), KUBERNETES)
            heapq.heappush(self.running, (ends, pod["metadata"]["name"], pod))
        due = []
        while self.running and self.running[0][0] <= now:
            due.append(heapq.heappop(self.running)[2])
        await self._tell(due, "success", "Succeeded")

    async def _tell(self, pods: list[dict[str, Any]], state: str, phase: str) -> None:
        if not pods:
            return
        await asyncio.to_thread(self._write, state, pods)
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        await each(pods, partial(self._patch, phase, at))

    async def _patch(self, phase: str, at: str, pod: dict[str, Any]) -> None:
        if phase == "Succeeded":
            self.ended[index_of(pod)] = time.time()
        try:
            await self.pods.send(
                "PATCH", f"{pod['metadata']['name']}/status", status_of(phase, pod, at), MERGE
            )
        except Refused as refused:
            # Whoever made it has taken it away.
            if refused.status != 404:
                raise

    def _write(self, state: str, pods: Sequence[dict[str, Any]]) -> None:
        with self.engine.begin() as connection:
            connection.execute(_STATE, success_of(pods) | {"state": state})


def index_of(pod: dict[str, Any]) -> int:
    """The map index of a pod's task."""
    return int(pod["metadata"]["annotations"]["map_index"])


async def run(board: Board, plan: Plan) -> None:
    """Until the board says that it is over."""
    kubeconfig, namespace, dsn = (os.environ[f"AIRFLOW__{name}"] for name in _SETTINGS)
    teller = Teller(board, "node")
    async with pods_of(kubeconfig, namespace) as pods:
        node = Node(plan, sa.create_engine(dsn), pods)
        watching = asyncio.create_task(node.watch())
        while board.phase()[0] != OVER:
            await node.turn()
            if watching.done():
                watching.result()
            if teller.is_due:
                teller.tell(running=len(node.running), ended=len(node.ended), waiting=len(node.new))
            await asyncio.sleep(PAUSE_S)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        board.leave("node", {"ended": node.ended})


_SETTINGS = (
    "KUBERNETES_EXECUTOR__CONFIG_FILE",
    "KUBERNETES_EXECUTOR__NAMESPACE",
    "DATABASE__SQL_ALCHEMY_CONN",
)


if __name__ == "__main__":
    asyncio.run(run(Board(Path(sys.argv[1])), Plan.of_text(sys.argv[2])))
