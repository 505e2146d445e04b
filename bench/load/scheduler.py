"""One scheduler's loop around the executor: ``python -m bench.load.scheduler FOLDER NUMBER PLAN``.

It makes task instances where Airflow's scheduler would find them scheduled,
hands them over in a transaction, beats, and takes what the executor tells of
ends. What it does itself is counted apart from what the executor does. It
offers what the plan says for the phase on the board, and leaves when told how
long each beat took and when it heard of each end.
"""

import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, text

from bench import airflow_side as side
from bench.load.board import OVER, Board, Teller
from bench.load.plan import CELERY, KUBERNETES, Plan, first_index
from hybrid_executor.standalone.stack.process import descendants, kill_all

#: Between two turns that had something to do; a scheduler of Airflow's that has not sleeps for a second.
PAUSE_S = 0.25
#: As often as a scheduler's job says that it lives.
ALIVE_S = 5.0

_MORE = f"""
INSERT INTO task_instance
    (id, task_id, dag_id, run_id, map_index, try_number, state, queue, queued_dttm, queued_by_job_id,
     last_heartbeat_at, external_executor_id, {side.COPIED})
SELECT gen_random_uuid(), task_id, dag_id, run_id, :first + g, 1, 'queued', :queue, now(), :job,
       now(), gen_random_uuid()::text, {side.COPIED}
FROM task_instance, generate_series(0, :count - 1) AS g
WHERE id = CAST(:copied AS uuid)
RETURNING id, task_id, dag_id, run_id, map_index, try_number, queue, pool_slots, priority_weight,
    dag_version_id, external_executor_id
"""  # noqa: S608 - names of columns


class Share:
    """Splits what this process does: the loop's own part, and the executor's, which is all the rest."""

    def __init__(self) -> None:
        #: Processor time of the loop's own part.
        self.own_cpu_s = 0.0
        #: Statements sent by the executor.
        self.statements = 0
        self._is_own = False
        self._thread = threading.get_ident()
        event.listen(side.engine(), "before_cursor_execute", self._sent)

    @contextmanager
    def own(self) -> Iterator[None]:
        """What is done here would be done with any executor."""
        began_s, self._is_own = time.thread_time(), True
        try:
            yield
        finally:
            self._is_own = False
            self.own_cpu_s += time.thread_time() - began_s

    def _sent(self, *_: Any) -> None:
        if not (self._is_own and threading.get_ident() == self._thread):
            self.statements += 1


class Loop:
    """The loop's state."""

    def __init__(self, number: int, plan: Plan, board: Board) -> None:
        self.number, self.plan, self.board = number, plan, board
        self.job = new_job()
        self.executor = side.ours(self.job)
        self.share = Share()
        self.teller = Teller(board, f"scheduler-{number}")
        with side.engine().begin() as connection:
            find = "SELECT id FROM task_instance WHERE task_id = 'work' ORDER BY map_index LIMIT 1"
            self.copied = str(connection.scalar(text(find)))
        self.offered: dict[tuple[int, str], int] = {}
        self.next_index: dict[int, int] = {}
        #: By map index: when it was offered, and when its end was heard of, seconds since 1970.
        self.begun: dict[int, float] = {}
        self.observed: dict[int, float] = {}
        self.failed: dict[int, str] = {}
        self.beats: list[float] = []
        self.handing: list[float] = []
        self._alive_s = time.monotonic()

    def turn(self, phase: int, elapsed_s: float) -> int:
        """Offer what is due, beat, and hear; how many were offered."""
        with self.share.own():
            workloads = [w for queue in (CELERY, KUBERNETES) for w in self._more(phase, queue, elapsed_s)]
            self._live()
        if workloads:
            began_s = time.perf_counter()
            # Its own SELECT is a statement of the loop's.
            self.share.statements -= 1
            side.queue(self.executor, workloads)
            self.handing.append(time.perf_counter() - began_s)
        began_s = time.perf_counter()
        self.executor.heartbeat()
        self.beats.append(time.perf_counter() - began_s)
        with self.share.own():
            self._hear()
        return len(workloads)

    def _more(self, phase: int, queue: str, elapsed_s: float) -> list[Any]:
        before = self.offered.get((phase, queue), 0)
        due = self.plan.due(phase, self.number, queue, elapsed_s)
        if (count := due - before) <= 0:
            return []
        first = self.next_index.get(phase, first_index(phase, self.number))
        values = {"first": first, "count": count, "queue": queue, "job": self.job, "copied": self.copied}
        with side.engine().begin() as connection:
            rows = list(connection.execute(text(_MORE), values).mappings())
        self.offered[phase, queue], self.next_index[phase] = due, first + count
        now = time.time()
        self.begun.update((row["map_index"], now) for row in rows)
        return [side.workload_of(row) for row in rows]

    def _hear(self) -> None:
        now = time.time()
        for key, (state, _) in self.executor.event_buffer.items():
            if state in {"success", "failed"}:
                self.observed[key.map_index] = now
                if state == "failed":
                    self.failed[key.map_index] = str(state)
        self.executor.event_buffer.clear()
        self.executor._task_event_logs.clear()

    def _live(self) -> None:
        if time.monotonic() >= self._alive_s:
            self._alive_s = time.monotonic() + ALIVE_S
            with side.engine().begin() as connection:
                connection.execute(
                    text("UPDATE job SET latest_heartbeat = now() WHERE id = :job"), {"job": self.job}
                )

    def tell(self, phase: int, elapsed_s: float) -> None:
        """A line on the board."""
        inflight = self.executor.controller.inflight
        self.teller.tell(
            phase=phase,
            elapsed_s=elapsed_s,
            begun=len(self.begun),
            observed=len(self.observed),
            inflight=len(inflight),
            statements=self.share.statements,
            own_cpu_s=self.share.own_cpu_s,
            beats=len(self.beats),
            beat_ms=_median_ms(self.beats),
            worst_beat_ms=max(self.beats, default=0.0) * 1000,
            handing_ms=_median_ms(self.handing),
            ledger_lag_s=self.executor.controller.ledger_lag_s,
        )
        self.beats, self.handing = [], []

    def run(self) -> None:
        """Until the board says that it is over."""
        while (said := self.board.phase())[0] != OVER:
            phase, at = said
            elapsed_s = time.time() - at
            busy = self.turn(phase, elapsed_s)
            if self.teller.is_due:
                self.tell(phase, elapsed_s)
            time.sleep(PAUSE_S if busy or len(self.begun) > len(self.observed) else PAUSE_S * 2)
        self.board.leave(
            f"scheduler-{self.number}",
            {"job": self.job, "begun": self.begun, "observed": self.observed, "failed": self.failed},
        )
        self.executor.end()


def _median_ms(took_s: list[float]) -> float:
    return statistics.median(took_s) * 1000 if took_s else 0.0


def new_job() -> int:
    """The row by which other schedulers know that this one lives."""
    from airflow.jobs.job import Job, JobState
    from airflow.utils.session import create_session

    job = Job(job_type="SchedulerJob", state=JobState.RUNNING)
    with create_session(scoped=False) as session:
        session.add(job)
        session.flush()
        return int(job.id)


def main(folder: str, number: str, plan: str) -> None:
    """Never returns: what the executor's threads still do is not waited for."""
    Loop(int(number), Plan.of_text(plan), Board(Path(folder))).run()
    kill_all(descendants(os.getpid()))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
