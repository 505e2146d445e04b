"""A stock ``airflow celery worker`` with our modules: it drains, and who outlives its grace is no failure."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from hybrid_executor.backends.celery.app import TASK_NAME
from hybrid_executor.backends.celery.results import Result, observation
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Ended, How
from hybrid_executor.model.reason import Reason
from tests.fixtures.celery import celery_app
from tests.fixtures.kube import until
from tests.integration.test_worker_task import DAG, TASK, Api

IMPORTS = {"imports": ["hybrid_executor.worker.draining", "hybrid_executor.worker.withholding"]}
PATIENCE_S = 90.0


class Scene:
    """One worker in a process group of its own, and the Execution API that its tasks speak to."""

    def __init__(self, folder: Path, short: Path, url: str, api: Api, imports: dict[str, list[str]]) -> None:
        self.folder = folder
        self._app = celery_app(url, url)
        (folder / "dags").mkdir()
        (folder / "dags" / "deaths.py").write_text(DAG)
        self.environment = {n: v for n, v in os.environ.items() if not n.startswith("AIRFLOW")} | {
            "TMPDIR": str(short),
            "TEST_FOLDER": str(folder),
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api.url,
            "AIRFLOW__CELERY__BROKER_URL": url,
            "AIRFLOW__CELERY__RESULT_BACKEND": url,
            "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": json.dumps(imports),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
        }
        command = ["-m", "airflow", "celery", "worker", "-q", "default", "-c", "2", "--skip-serve-logs"]
        self.log = folder / "worker.log"
        with self.log.open("wb") as log:
            self.worker = subprocess.Popen(
                [sys.executable, *command, "--without-mingle", "--without-gossip"],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, task_id: str) -> str:
        """Have it run a task of the DAG; returns the Celery id once the task runs."""
        ti = {
            "id": TASK, "dag_version_id": str(uuid4()), "task_id": task_id, "dag_id": "deaths", "run_id": "r",
            "try_number": 1, "map_index": -1, "pool_slots": 1, "queue": "default", "priority_weight": 1,
        }  # fmt: skip
        workload = {
            "ti": ti, "dag_rel_path": "deaths.py", "bundle_info": {"name": "dags-folder", "version": None},
            "token": "t", "log_path": "task.log", "type": "ExecuteTask",
        }  # fmt: skip
        celery_id = str(uuid4())
        self._app.send_task(TASK_NAME, (json.dumps(workload),), queue="default", task_id=celery_id)
        until(lambda: self._is_alive() and (self.folder / "runs").exists(), "the task never ran", PATIENCE_S)
        return celery_id

    def _is_alive(self) -> bool:
        assert self.worker.poll() is None, self.log.read_text()
        return True

    def drain(self, timeout_s: float) -> tuple[int, str]:
        command = ["-m", "hybrid_executor.worker.drain", "--timeout", str(timeout_s)]
        done = subprocess.run(
            [sys.executable, *command], env=self.environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def ended(self, celery_id: str) -> Ended:
        """What the executor makes of the result."""

        def seen() -> Ended | None:
            meta = self._app.backend.get_task_meta(celery_id, cache=False)
            found = observation(SubmissionId(celery_id, 1), Result(meta["status"], meta["result"]))
            return found if isinstance(found, Ended) else None

        until(lambda: seen() is not None, f"no result: {self.log.read_text()}", PATIENCE_S)
        found = seen()
        assert found
        return found

    def close(self) -> None:
        for process in psutil.Process(self.worker.pid).children(recursive=True):
            process.kill()
        self.worker.kill()
        self.worker.wait()


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    yield api
    api.server.shutdown()
    api.server.server_close()


@pytest.fixture
def scene(tmp_path: Path, valkey_url: str, api: Api) -> Iterator[Scene]:
    short = Path(tempfile.mkdtemp(prefix="hx"))
    made = Scene(tmp_path, short, valkey_url, api, IMPORTS)
    yield made
    if made.worker.poll() is None:
        made.close()
    shutil.rmtree(short)


def test_what_outlives_its_grace_is_lost_with_its_worker_and_not_reported_as_failed_af32180(
    scene: Scene, api: Api
) -> None:
    api.retries = True
    celery_id = scene.run("bash")
    code, said = scene.drain(1.0)
    assert (code, "has 1 left" in said) == (0, True), said
    # As a process that passes a signal on to all of its group does.
    os.killpg(scene.worker.pid, signal.SIGTERM)
    end = scene.ended(celery_id)
    assert (end.how, end.diagnosis and end.diagnosis.reason) == (How.FAILED, Reason.WORKER_LOST), end
    assert api.states == []
    assert scene.worker.wait(30) == 0


def test_what_ends_within_the_drain_is_reported_as_ever(scene: Scene, api: Api) -> None:
    celery_id = scene.run("succeed")
    (scene.folder / "go").touch()
    code, said = scene.drain(60.0)
    assert (code, "has 0 left" in said) == (0, True), said
    scene.worker.send_signal(signal.SIGTERM)
    assert scene.worker.wait(30) == 0
    assert scene.ended(celery_id).how is How.SUCCEEDED
    assert api.states == ["success"]


def test_a_failure_of_the_tasks_own_is_reported_as_ever(scene: Scene, api: Api) -> None:
    celery_id = scene.run("fail")
    (scene.folder / "go").touch()
    assert scene.ended(celery_id).how is How.SUCCEEDED, "of the process: the task said itself how it ended"
    assert api.states == ["failed"]
