"""A stock ``airflow celery worker`` takes our message as its own: it runs the workload, with its token.

The Execution API is played by a server that knows no task instance, so that
the run is short: the worker asks it for leave to run, and is told 404.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fixtures.celery import TOKEN

ROOT = Path(__file__).parents[2]


class UnknownTasks(BaseHTTPRequestHandler):
    """Answers 404 to everything and remembers what was asked, and with which token."""

    asked: list[tuple[str, str, str | None]]

    def _refuse(self) -> None:
        self.asked.append((self.command, self.path, self.headers.get("Authorization")))
        body = json.dumps({"detail": {"reason": "not_found", "message": "Task Instance not found"}}).encode()
        self.send_response(404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = _refuse  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet."""


@pytest.fixture
def execution_api() -> Iterator[tuple[str, list[tuple[str, str, str | None]]]]:
    asked: list[tuple[str, str, str | None]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Api", (UnknownTasks,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/execution/", asked
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def stock_worker(environment: dict[str, str], folder: Path) -> Iterator[Path]:
    output = folder / "worker.log"
    command = ["-m", "airflow", "celery", "worker", "-q", "default", "-c", "1", "--skip-serve-logs"]
    with output.open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, *command, "--without-mingle", "--without-gossip"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield output
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def test_a_stock_worker_runs_our_message(
    valkey_url: str,
    airflow_database_url: str,
    tmp_path: Path,
    execution_api: tuple[str, list[tuple[str, str, str | None]]],
) -> None:
    api_url, asked = execution_api
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment = kept | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api_url,
        "AIRFLOW__CELERY__BROKER_URL": valkey_url,
        "AIRFLOW__CELERY__RESULT_BACKEND": valkey_url,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow_database_url,
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(tmp_path / "logs"),
        "PYTHONPATH": str(ROOT),
    }
    with stock_worker(environment, tmp_path) as output:
        scheduler = subprocess.run(
            [sys.executable, "-m", "tests.fixtures.celery_scheduler"],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )
        log = output.read_text(errors="replace")
    said = [json.loads(line) for line in scheduler.stdout.splitlines() if line.startswith("{")]
    kinds = [one["kind"] for one in said]
    assert kinds[0] == "Accepted", f"{scheduler.stdout}\n{scheduler.stderr}\n{log}"
    assert "Ended" in kinds, f"{scheduler.stdout}\n{scheduler.stderr}\n{log}"
    workload_id = said[-1]["text"]
    run = ("PATCH", f"/execution/task-instances/{workload_id}/run", f"Bearer {TOKEN}")
    assert run in asked, f"asked {asked}\n{log}"
    assert TOKEN not in scheduler.stdout + scheduler.stderr
    assert TOKEN not in log
