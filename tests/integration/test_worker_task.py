"""The entry point of pods whose route forgives deaths: which of a task's words it passes on, after what."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from hybrid_executor.model import start
from hybrid_executor.model.resources import from_line
from hybrid_executor.worker.task import PASSES_SIGTERM_ON
from tests.fixtures.kube import until
from tests.unit.test_gauge import write as write_group

NOW = "2026-11-21T10:00:00Z"
TASK = str(uuid4())
DAG = """
import os, time
from datetime import timedelta
from pathlib import Path
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

FOLDER = Path(os.environ["TEST_FOLDER"])

def until_told():
    (FOLDER / "runs").touch()
    while not (FOLDER / "go").exists():
        time.sleep(0.05)

@task
def succeed():
    until_told()

@task
def fail():
    until_told()
    raise ValueError("of its own")

@task
def skip():
    until_told()
    raise AirflowSkipException("not today")

@task
def defer():
    until_told()
    raise TaskDeferred(trigger=TimeDeltaTrigger(timedelta(hours=1)), method_name="execute")

with DAG("deaths"):
    succeed(), fail(), skip(), defer()
    BashOperator(task_id="bash", bash_command=f"touch {FOLDER}/runs; while true; do sleep 0.1; done")
"""

#: What a supervisor says of the signal.
HEARD = "forwarding to task subprocess" if PASSES_SIGTERM_ON else "warm shutdown in progress"

#: ``python -m hybrid_executor.worker.task`` where a kubelet would have put these files.
IN_A_CONTAINER = """
import os
from pathlib import Path
from hybrid_executor.worker import gauge, task
gauge.CGROUPS = Path(os.environ["TEST_FOLDER"])
gauge.MESSAGE = gauge.CGROUPS / "message"
task.main()
"""


@dataclass
class Api:
    """An Execution API that knows one task instance and keeps what it was told of it."""

    server: ThreadingHTTPServer = field(init=False)
    states: list[str] = field(default_factory=list)
    retries: bool = False
    #: The answer to a request to start, where it is not leave to: a status, or None for silence.
    start: int | None = 200
    asked: list[dict[str, Any]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if api.start != 200 and self.path.endswith(f"{TASK}/run"):
                    api.asked.append(json.loads(body))
                    self.refuse(api.start)
                    return
                answer = api.answer(self.path, json.loads(body or "{}") if "{" in str(body) else {})
                data = json.dumps(answer).encode() if answer is not None else b""
                self.send_response(200 if data else 204)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def refuse(self, status: int | None) -> None:
                if status is None:
                    api.over.wait(60)
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if path.endswith(f"{TASK}/run"):
            run = {
                "dag_id": "deaths", "run_id": "r", "logical_date": NOW, "run_after": NOW, "start_date": NOW,
                "data_interval_start": NOW, "data_interval_end": NOW, "run_type": "manual",
                "state": "running", "clear_number": 0, "conf": {}, "consumed_asset_events": [],
                "end_date": None, "partition_key": None,
            }  # fmt: skip
            return {"dag_run": run, "max_tries": 1 * self.retries, "should_retry": self.retries}
        if path.endswith(f"{TASK}/state"):
            self.states.append(body["state"])
        return None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/execution/"


class Pod:
    """One process of the entry point, as a pod's only container has it."""

    def __init__(self, folder: Path, api: Api, task_id: str) -> None:
        self.folder = folder
        (folder / "dags").mkdir()
        (folder / "dags" / "deaths.py").write_text(DAG)
        ti = {
            "id": TASK, "dag_version_id": str(uuid4()), "task_id": task_id, "dag_id": "deaths", "run_id": "r",
            "try_number": 1, "map_index": -1, "pool_slots": 1, "queue": "spot", "priority_weight": 1,
        }  # fmt: skip
        workload = {
            "ti": ti, "dag_rel_path": "deaths.py", "bundle_info": {"name": "dags-folder", "version": None},
            "token": "t", "log_path": "task.log", "type": "ExecuteTask",
        }  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        environment |= {
            "TEST_FOLDER": str(folder),
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api.url,
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        }
        if api.start != 200:
            environment |= {
                "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "1",
                "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "2",
                "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "0.1",
                "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "0.1",
            }
        argv = [sys.executable, "-c", IN_A_CONTAINER, "--json-string", json.dumps(workload)]
        self.message = folder / "message"
        self.message.write_text("of the task's own\n")
        write_group(folder, held=900 << 20, idle=600 << 20, most=950 << 20, cpu_s=2.5)
        self.out = folder / "out"
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                argv, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self.out.read_text()

    def until_running(self) -> None:
        def runs() -> bool:
            assert self.process.poll() is None, self.output
            return (self.folder / "runs").exists()

        until(runs, "the task never ran", 60)

    def go(self) -> None:
        (self.folder / "go").touch()

    def stop(self) -> None:
        """What a kubelet does first; 3.3's supervisor passes it on, and Python tasks swallow it."""
        self.process.send_signal(signal.SIGTERM)

        def heard() -> bool:
            assert self.process.poll() is None, self.output
            return HEARD in self.output

        until(heard, f"nobody heard the signal: {self.output}", 60)

    def kill_task(self) -> None:
        """What the kernel does to the process that uses most of the memory."""
        [task] = psutil.Process(self.process.pid).children()
        task.kill()

    def exit_code(self) -> int:
        return self.process.wait(60)

    @property
    def log(self) -> str:
        return (self.folder / "logs" / "task.log").read_text()


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    yield api
    api.over.set()
    api.server.shutdown()
    api.server.server_close()


@pytest.fixture
def begin(tmp_path: Path, api: Api) -> Iterator[Callable[[str], Pod]]:
    """A pod whose task may or may not run."""
    pods: list[Pod] = []

    def make(task_id: str) -> Pod:
        pods.append(Pod(tmp_path, api, task_id))
        return pods[-1]

    yield make
    for pod in pods:
        if pod.process.poll() is None:
            # Task and its commands have process groups of their own.
            for one in [*psutil.Process(pod.process.pid).children(recursive=True), pod.process]:
                one.kill()
            pod.process.wait()


@pytest.fixture
def run(begin: Callable[[str], Pod]) -> Callable[[str], Pod]:
    """A pod whose task runs."""

    def make(task_id: str) -> Pod:
        pod = begin(task_id)
        pod.until_running()
        return pod

    return make


@pytest.mark.skipif(not PASSES_SIGTERM_ON, reason="since Airflow 3.4 no task hears of a SIGTERM")
@pytest.mark.parametrize(("task_id", "retries"), [("bash", False), ("fail", True)])
def test_a_failure_after_a_sigterm_is_left_to_the_executor(
    api: Api, run: Callable[[str], Pod], task_id: str, retries: bool
) -> None:
    api.retries = retries
    pod = run(task_id)
    pod.stop()
    pod.go()
    assert pod.exit_code() == 128 + signal.SIGTERM, pod.output
    assert api.states == []
    assert "for the executor to say" in pod.log


@pytest.mark.skipif(PASSES_SIGTERM_ON, reason="before Airflow 3.4 the task hears of a SIGTERM")
def test_a_failure_after_a_sigterm_that_its_task_did_not_hear_is_its_own(
    api: Api, run: Callable[[str], Pod]
) -> None:
    api.retries = True
    pod = run("fail")
    pod.stop()
    pod.go()
    assert pod.exit_code() == 0, pod.output
    assert api.states == ["up_for_retry"]


@pytest.mark.parametrize(
    ("task_id", "state"), [("succeed", "success"), ("skip", "skipped"), ("defer", "deferred")]
)
def test_what_is_no_failure_is_reported_after_a_sigterm_as_well(
    api: Api, run: Callable[[str], Pod], task_id: str, state: str
) -> None:
    pod = run(task_id)
    pod.stop()
    pod.go()
    assert pod.exit_code() == 0, pod.output
    assert api.states == [state]


def test_a_failure_that_nobody_asked_for_is_the_tasks_own(api: Api, run: Callable[[str], Pod]) -> None:
    api.retries = True
    pod = run("fail")
    pod.go()
    assert pod.exit_code() == 0, pod.output
    assert api.states == ["up_for_retry"]


def test_a_task_that_the_kernel_killed_is_left_to_the_executor(api: Api, run: Callable[[str], Pod]) -> None:
    pod = run("succeed")
    pod.kill_task()
    assert pod.exit_code() == 128 + signal.SIGKILL, pod.output
    assert api.states == []
    assert pod.message.read_text() == "of the task's own\n", "the kubelet may show the log's end instead"


@pytest.mark.parametrize("task_id", ["succeed", "fail"])
def test_a_process_that_ends_well_leaves_what_its_container_took(
    api: Api, run: Callable[[str], Pod], task_id: str
) -> None:
    pod = run(task_id)
    pod.go()
    assert pod.exit_code() == 0, pod.output
    own, line = pod.message.read_text().splitlines()
    used = from_line(line)
    assert own == "of the task's own"
    assert used is not None
    assert used.memory_peak_bytes == 300 << 20
    assert used.cpu_used_s == 2.5
    assert 0 < (used.cpu_peak_m or 0) <= 2500
    assert len(api.states) == 1


@pytest.mark.parametrize("answer", [None, 503])
def test_a_pod_that_airflow_never_let_start_says_so_and_has_run_nothing(
    api: Api, begin: Callable[[str], Pod], answer: int | None
) -> None:
    api.start = answer
    pod = begin("succeed")
    assert pod.exit_code() == start.EXIT_CODE, pod.output
    *_, words, line = pod.message.read_text().splitlines()
    assert "did not answer its request to start" in words
    assert len(api.asked) == 2
    assert {start.from_line(line)} == {asked["hostname"] for asked in api.asked}
    assert api.states == []
    assert not (pod.folder / "runs").exists()
    assert "The task was not started" in pod.log


def test_a_pod_whose_start_airflow_refuses_fails_as_ever(api: Api, begin: Callable[[str], Pod]) -> None:
    api.start = 409
    pod = begin("succeed")
    assert pod.exit_code() == 1, pod.output
    assert pod.message.read_text() == "of the task's own\n"
    assert len(api.asked) == 1
