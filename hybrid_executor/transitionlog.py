"""One JSON line for each step of a submission, for Elasticsearch, Loki or whatever else reads logs.

    {"at": "2026-11-22T08:00:00.123456+00:00", "event": "hybrid_executor.transition", "attempt_id": "8cde…",
     "submission": 1, "from": "accepted", "to": "started", "backend": "kubernetes", "queue": "gpu", …}

``attempt_id`` is the task instance's ``external_executor_id``, a label of its
pod and the id of its Celery message, so these lines join with those of pods
and workers. Keys are part of the interface; one without a value is left out.
What a submission carries (its payload, and so its token) is not known here.
Lines of a heartbeat are written together, at its end, with no file kept open:
it may be moved away at any time. Called by ``executor``.
"""

import json
import logging
import sys
from collections import deque
from pathlib import Path
from typing import Any

from hybrid_executor.model.transition import Transition

log = logging.getLogger("hybrid_executor")

EVENT = "hybrid_executor.transition"
#: In place of a path.
STDOUT = "stdout"
#: What is kept while the disk is full.
LINES_MAX = 10_000


def fields_of(step: Transition, scheduler: str) -> dict[str, Any]:
    """The line's keys and values, in their order."""
    attempt, address, times = step.attempt, step.attempt.address, step.times
    took = step.took
    found = {
        "at": step.at.isoformat(),
        "event": EVENT,
        "attempt_id": attempt.id,
        "submission": step.number,
        "from": step.before,
        "to": step.after,
        "reason": step.reason,
        "message": step.message,
        "exit_code": step.exit_code,
        "kind": attempt.kind,
        "dag_id": address and address.dag_id,
        "run_id": address and address.run_id,
        "task_id": address and address.task_id,
        "map_index": address and address.map_index,
        "try_number": address and address.try_number,
        "queue": attempt.queue,
        "backend": attempt.route.backend,
        "cluster": attempt.route.cluster,
        "route": attempt.route.rule,
        "external_name": step.external_name,
        "where": step.where,
        "scheduler": scheduler,
        "queued_at": attempt.queued_at.isoformat(),
        "sent_at": times.sent_at and times.sent_at.isoformat(),
        "accepted_at": times.accepted_at and times.accepted_at.isoformat(),
        "started_at": times.started_at and times.started_at.isoformat(),
        "stage": took and took[0],
        "stage_s": took and round(took[1], 3),
    }
    return {key: value for key, value in found.items() if value is not None and value != ""}


class TransitionLog:
    """Lines of one scheduler, on their way to a file or to standard output."""

    def __init__(self, target: str, scheduler: str) -> None:
        """``target`` is a path, ``stdout``, or empty for nothing at all."""
        self._target = target
        self._scheduler = scheduler
        #: Not written yet; the oldest go where they cannot be for long.
        self._lines: deque[str] = deque(maxlen=LINES_MAX)
        self._is_broken = False

    def note(self, step: Transition) -> None:
        """Keep a line until the heartbeat's end."""
        if self._target:
            self._lines.append(json.dumps(fields_of(step, self._scheduler), ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Write what was kept; one that cannot be written is said once, and tried again the next time."""
        if not self._lines:
            return
        try:
            self._write("".join(self._lines))
        except OSError as error:
            if not self._is_broken:
                log.warning("transitions_log: %s can't be written, lines wait: %s", self._target, error)
            self._is_broken = True
            return
        self._is_broken = False
        self._lines.clear()

    def _write(self, text: str) -> None:
        if self._target == STDOUT:
            print(text, end="", file=sys.__stdout__, flush=True)
            return
        # One write, at the end of the file: several schedulers may share it.
        with Path(self._target).open("a", encoding="utf-8", buffering=max(8192, 4 * len(text))) as file:
            file.write(text)
