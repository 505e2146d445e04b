"""Workers that run nothing: ``python -m bench.load.worker FOLDER PLAN``, in the environment of a scheduler.

Takes messages from Celery's queue, stores STARTED, and SUCCESS when the task's
life is over, in Celery's own bytes; what a task's process would have told
Airflow's Execution API it writes into the metadata database, many at once. It
counts its own Redis commands, so that they can be taken off what the server
has counted. A message stands in ``unacked`` from when it is taken until its
task has ended, as with a worker that acknowledges late: the executor looks
there. It is not claimed, and many are taken at once: what a worker itself costs
is no part of this run.
"""

import base64
import heapq
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench import airflow_side as side
from bench.load.board import OVER, Board, Teller
from bench.load.plan import CELERY, Plan

PAUSE_S = 0.1
#: Messages that are taken at once.
MANY = 500
#: Kombu's names of what is taken and not acknowledged.
UNACKED, INDEX = "unacked", "unacked_index"

_STATE = text("""
UPDATE task_instance
   SET state = :state, last_heartbeat_at = now(), start_date = coalesce(start_date, now()),
       end_date = CASE WHEN :state = 'success' THEN now() END
 WHERE id = ANY(CAST(:ids AS uuid[])) AND state IN ('queued', 'running')
""")


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """What of a message is of interest here."""

    task_id: str
    instance: str
    index: int
    #: By which it stands in ``unacked``.
    tag: str


def message_of(raw: bytes) -> Message:
    """From Celery's own bytes, protocol 2."""
    told = json.loads(raw)
    [workload, *_], *_ = json.loads(base64.b64decode(told["body"]))
    ti = json.loads(workload)["ti"]
    tag = told["properties"]["delivery_tag"]
    return Message(told["headers"]["id"], ti["id"], ti["map_index"], tag)


class Worker:
    """What it has taken."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.commands: Counter[str] = Counter()
        #: When each ends.
        self.running: list[tuple[float, Message]] = []
        self.ended: dict[int, float] = {}

    def turn(self) -> None:
        """Take what is there, end what is due."""
        taken = self._take()
        self._tell(taken, "running", "STARTED")
        now = time.time()
        for message in taken:
            heapq.heappush(self.running, (now + self.plan.life_s(message.index, CELERY), message))
        due = []
        while self.running and self.running[0][0] <= now:
            due.append(heapq.heappop(self.running)[1])
        self._tell(due, "success", "SUCCESS")
        if due:
            tags = [message.tag for message in due]
            self._send("hdel", UNACKED, *tags)
            self._send("zrem", INDEX, *tags)

    def _take(self) -> list[Message]:
        raws: list[bytes] = self._send("rpop", CELERY, MANY) or []
        if not raws:
            return []
        taken = [message_of(raw) for raw in raws]
        # As kombu has it: the message, its exchange and its routing key.
        held = [json.dumps([json.loads(raw), "", CELERY]) for raw in raws]
        self._send("hset", UNACKED, mapping={m.tag: one for m, one in zip(taken, held, strict=True)})
        self._send("zadd", INDEX, dict.fromkeys((message.tag for message in taken), time.time()))
        return taken

    def _send(self, command: str, *arguments: Any, **more: Any) -> Any:
        self.commands[command] += 1
        return getattr(side.valkey(), command)(*arguments, **more)

    def _tell(self, messages: Sequence[Message], state: str, status: str) -> None:
        if not messages:
            return
        with side.engine().begin() as connection:
            connection.execute(_STATE, {"state": state, "ids": [m.instance for m in messages]})
        if status == "SUCCESS":
            now = time.time()
            self.ended.update((message.index, now) for message in messages)
        side.store_results([message.task_id for message in messages], status)
        self.commands["setex"] += len(messages)
        self.commands["publish"] += len(messages)


def main(folder: str, plan: str) -> None:
    """Until the board says that it is over."""
    board, worker = Board(Path(folder)), Worker(Plan.of_text(plan))
    # Imports, and a connection: else the first message would be nowhere for as long as they take.
    side.store_results([], "STARTED")
    side.valkey().ping()
    teller = Teller(board, "worker")
    while board.phase()[0] != OVER:
        worker.turn()
        if teller.is_due:
            teller.tell(commands=dict(worker.commands), running=len(worker.running), ended=len(worker.ended))
        time.sleep(PAUSE_S)
    board.leave("worker", {"ended": worker.ended})


if __name__ == "__main__":
    main(*sys.argv[1:])
