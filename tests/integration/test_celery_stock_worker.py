"""A stock ``airflow celery worker`` takes our message as its own: it runs the workload, with its token.

One with our package says besides when Airflow never let the task start.
"""

import json
import socket
from pathlib import Path

from tests.fixtures.celery import TOKEN
from tests.fixtures.stock_worker import ExecutionApi, start_scheduler, stock_worker


def test_a_stock_worker_runs_our_message(
    worker_environment: dict[str, str], tmp_path: Path, execution_api: ExecutionApi
) -> None:
    with stock_worker(worker_environment, tmp_path) as output:
        output_text, errors = start_scheduler(worker_environment).communicate(timeout=150)
        log = output.read_text(errors="replace")
    said = [json.loads(line) for line in output_text.splitlines() if line.startswith("{")]
    kinds = [one["kind"] for one in said]
    assert kinds[0] == "Accepted", f"{output_text}\n{errors}\n{log}"
    assert "Ended" in kinds, f"{output_text}\n{errors}\n{log}"
    run = ("PATCH", f"/execution/task-instances/{said[-1]['text']}/run", f"Bearer {TOKEN}")
    assert run in execution_api.asked, f"asked {execution_api.asked}\n{log}"
    assert TOKEN not in output_text + errors
    assert TOKEN not in log


def test_a_worker_with_our_package_says_that_a_task_was_never_let_start(
    worker_environment: dict[str, str], tmp_path: Path, execution_api: ExecutionApi
) -> None:
    execution_api.answer[0] = 503
    environment = worker_environment | {
        "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": json.dumps(
            {"imports": ["hybrid_executor.worker.withholding"]}
        ),
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "2",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "0.1",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "0.1",
    }
    with stock_worker(environment, tmp_path) as output:
        output_text, errors = start_scheduler(environment).communicate(timeout=150)
        log = output.read_text(errors="replace")
    said = [json.loads(line) for line in output_text.splitlines() if line.startswith("{")]
    ends = [one["text"] for one in said if one["kind"] == "Ended"]
    assert len(ends) == 1, f"{output_text}\n{errors}\n{log}"
    assert f"asked_as={socket.gethostname()!r}" in ends[0], log
    assert "Reason.NOT_STARTED" in ends[0]
    assert "did not answer its request to start" in ends[0]
    assert len(execution_api.starts()) == 2
