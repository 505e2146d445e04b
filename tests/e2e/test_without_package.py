"""Workers and pods need the stock providers and not this package: only the scheduler's side imports it.

``[core] executor`` is the scheduler's in all of them: there the name is parsed,
as it must be for DAGs that name an executor, and never imported.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_executor.standalone.stack.environment import inherited, option, worker_environment
from hybrid_executor.standalone.stack.process import Command, Process
from tests.e2e.examples import Run
from tests.fixtures.stack import RunningStack, wait_until

CELERY_OPTIONS = option("celery", "celery_config_options")
DAG = Path(__file__).with_name("stock_dag.py.txt")


@pytest.fixture(scope="module")
def stock_worker(stack: RunningStack, stock_python: Path) -> Iterator[Process]:
    """A second Celery worker, on a queue of its own, from the environment without the package."""
    setup = stack.stack.setup
    options = ["--queues", "stock", "--concurrency", "2", "--celery-hostname", "stock@%h"]
    files = ["--skip-serve-logs", "--pid", str(setup.state / "stock-worker.pid")]
    command = Command(
        name="stock-worker",
        argv=[str(stock_python), "-m", "airflow", "celery", "worker", *options, *files],
        log=stack.stack.log("stock-worker"),
        env=inherited(os.environ, stock_python) | stock_settings(worker_environment(setup)),
        cwd=setup.state,
    )
    worker = Process(command)
    worker.start()
    yield worker
    worker.stop()


def stock_settings(environment: dict[str, str]) -> dict[str, str]:
    """Without the one that names a module of the package."""
    return {name: value for name, value in environment.items() if name != CELERY_OPTIONS}


@pytest.fixture(scope="module")
def run(stack: RunningStack, stock_python: Path, stock_worker: Process) -> Run:
    """A finished run of tasks on that worker and in pods of that environment."""
    stack.wait_healthy()
    dag = DAG.read_text().replace("PREFIX", str(stock_python.parents[1]))
    (stack.stack.setup.dags / "without_package.py").write_text(dag)
    wait_until(lambda: " ready." in stack.log("stock-worker"), 120, stock_worker.tail)
    run_id = stack.trigger("without_package")
    return Run(stack, "without_package", run_id, stack.wait_run("without_package", run_id))


TASKS = {"on_worker": "celery", "on_worker_by_name": "celery", "in_pod_by_name": "kubernetes"}


def test_tasks_succeed_on_both_backends(run: Run) -> None:
    assert run.states == dict.fromkeys(TASKS, "success")
    assert {task: [row.backend for row in rows] for task, rows in run.submissions().items()} == {
        task: [backend] for task, backend in TASKS.items()
    }


@pytest.mark.parametrize("task", TASKS)
def test_the_package_is_not_there_where_a_task_runs(run: Run, stock_python: Path, task: str) -> None:
    assert run.result(task) == {"prefix": str(stock_python.parents[1]), "has_package": False}


def test_nothing_there_misses_the_package(run: Run) -> None:
    logs = run.stack.log("stock-worker") + "".join(run.log(task) for task in TASKS)
    assert "ModuleNotFoundError" not in logs
    assert "No module named" not in logs
