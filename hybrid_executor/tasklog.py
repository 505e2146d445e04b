"""Adds why an attempt ended to the log of its try, where the folder of logs is shared with this process.

Airflow shows all files whose names begin with that of the try's log. What is
told here goes to one of its own, so that it never meets the writing of a pod or
worker, which may be another user on another machine. It is written only where
the folder shows that it is shared: the try's log lies there, or, for a pod,
whose own log can't be had any more, another log of the same DAG. Elsewhere it
would keep Airflow from fetching a worker's. Nothing is uploaded: where logs are
in remote storage alone, the event log has the same words.

A file system may hang, so a thread of its own writes, from the first line on.
Called by the executor; never raises.
"""

import json
import logging
import queue
import threading
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger("hybrid_executor")

THREAD_NAME = "hybrid-task-log"
#: What the executor's file is called, after the name of the try's log.
SUFFIX = ".executor.log"
#: Lines that wait to be written; while a file system hangs, the rest is let go.
WAITING_MAX = 1000
#: As Airflow makes them: pods and workers may write beside it in the name of the same group.
FOLDER_MODE, FILE_MODE = 0o775, 0o664


class TaskLogs:
    """The logs below one folder."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder) if folder else None
        self._waiting: queue.Queue[tuple[Path, bool, str]] = queue.Queue(WAITING_MAX)
        self._thread: threading.Thread | None = None

    def tell(self, log_path: str | None, text: str, *, in_pod: bool) -> None:
        """Add a line to the log at ``log_path``, which is relative to the folder; returns at once."""
        if self._folder is None or not log_path:
            return
        line = {
            "timestamp": datetime.now(UTC).isoformat(),
            "level": "warning",
            "event": text,
            "logger": "hybrid_executor",
        }
        try:
            self._waiting.put_nowait((self._folder / log_path, in_pod, json.dumps(line) + "\n"))
        except queue.Full:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=THREAD_NAME, daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Wait until all that was told is written; for tests."""
        self._waiting.join()

    def _serve(self) -> None:
        while True:
            path, in_pod, line = self._waiting.get()
            try:
                if self._is_shared(path, in_pod=in_pod):
                    _append(path.with_name(path.name + SUFFIX), line)
            except OSError as error:
                log.debug("the log %s can't be written: %s", path, error)
            finally:
                self._waiting.task_done()

    def _is_shared(self, path: Path, *, in_pod: bool) -> bool:
        if path.exists() or not in_pod or self._folder is None:
            return path.exists()
        first = path.relative_to(self._folder).parts[0]
        return (self._folder / first).is_dir()


def _append(path: Path, line: str) -> None:
    for folder in reversed([p for p in path.parents if not p.exists()]):
        folder.mkdir(exist_ok=True)
        folder.chmod(FOLDER_MODE)
    if not path.exists():
        path.touch()
        path.chmod(FILE_MODE)
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
