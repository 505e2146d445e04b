"""Two Airflows to look at: its API server alone, and a stack that runs."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from hybrid_executor.standalone.stack.ports import LOOPBACK
from tests.browser.life import RUN_ID, WORKFORCE, a_busy_hour, a_run, fill
from tests.fixtures.browser import Site
from tests.fixtures.page import serving
from tests.fixtures.rights import NO_RIGHTS, ONE_TEAM
from tests.fixtures.servers import SharedPostgres
from tests.fixtures.stack import RunningStack, running_stack, wait_until

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def busy(
    postgres: SharedPostgres, airflow_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Airflow's API server with a million old submissions and a busy hour, and nothing that changes it."""
    home = tmp_path_factory.mktemp("busy")
    with postgres.fresh_database(airflow_template) as dsn, serving(dsn, home) as served:
        fill(served.engine)
        records = a_busy_hour(served.live_scheduler())
        served.know(*{record.address.dag_id for record in records if record.address})
        served.record(*records)
        served.instances("training", RUN_ID, *a_run(records, "training"))
        served.workers(WORKFORCE)
        server = uvicorn.Server(uvicorn.Config(served.app, host=LOOPBACK, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run, name="airflow", daemon=True)
        thread.start()
        wait_until(lambda: server.started, 60, lambda: "Airflow's API server did not start")
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Site(f"http://{LOOPBACK}:{port}", home / "passwords.json")
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="session")
def stack_that_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The stack of the demo, with tasks to look at, and users of different rights."""
    dags = tmp_path_factory.mktemp("dags")
    shutil.copytree(HERE / "dags", dags, dirs_exist_ok=True)
    extra = {
        "AIRFLOW__CORE__AUTH_MANAGER": "tests.fixtures.rights.RightsByDag",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"admin:admin,{ONE_TEAM}:viewer,{NO_RIGHTS}:viewer",
        "PYTHONPATH": str(ROOT),
    }
    with running_stack(tmp_path_factory.mktemp("stack"), dags, extra=extra) as running:
        yield running


@pytest.fixture(scope="session")
def run_id(stack_that_runs: RunningStack) -> str:
    """A run of which everything has ended that can; the rest runs or waits."""
    stack, started = stack_that_runs, stack_that_runs.trigger("seen")
    expected = {f"on_a_worker[{number}]": "success" for number in range(12)} | {
        "in_a_pod": "success",
        "until_it_may_go": "running",
        "on_a_queue_without_workers": "queued",
        "larger_than_any_node": "queued",
    }
    wait_until(
        lambda: stack.states("seen", started) == expected, 240, lambda: str(stack.states("seen", started))
    )
    return started
