"""A stock ``airflow celery worker`` takes our message as its own: it runs the workload, with its token."""

import json
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
