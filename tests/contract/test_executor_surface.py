"""Everything that Airflow may ask of an executor, asked of ours."""

import inspect
import os
import subprocess
import sys
import textwrap
from uuid import UUID

import pytest
from airflow.executors.base_executor import BaseExecutor

from hybrid_executor.backends.memory import MemoryBackend, MemoryWorld
from hybrid_executor.executor import HybridExecutor
from hybrid_executor.ledger.memory import MemoryLedger
from hybrid_executor.model.attempt import BackendName
from tests.fixtures.airflow_double import make_flight

PUBLIC = [n for n, v in vars(BaseExecutor).items() if not n.startswith("__") and inspect.isfunction(v)]


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> HybridExecutor:
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret of this test, " * 4)
    backends = {name: MemoryBackend(MemoryWorld(), name=name) for name in BackendName}
    return HybridExecutor(backends=backends, ledger=MemoryLedger())


@pytest.mark.parametrize("name", PUBLIC)
def test_every_method_of_the_base_class_takes_the_same_arguments(name: str):
    theirs = list(inspect.signature(getattr(BaseExecutor, name)).parameters)
    ours = list(inspect.signature(getattr(HybridExecutor, name)).parameters)
    assert ours[: len(theirs)] == theirs


@pytest.mark.parametrize("name", ["end", "terminate", "sync", "revoke_task", "_process_workloads", "start"])
def test_what_the_base_class_leaves_to_executors_is_there(name: str):
    assert getattr(HybridExecutor, name) is not getattr(BaseExecutor, name)


def test_the_scheduler_names_each_attempt(executor: HybridExecutor):
    assert executor.pre_assigns_external_executor_id
    assert executor.supports_callbacks
    assert executor.supports_connection_test
    assert not executor.supports_multi_team


def test_an_executor_that_was_not_started_answers_what_the_api_server_asks(executor: HybridExecutor):
    class Ti:
        external_executor_id = "8a1c54a0-1111-4222-8333-444455556666"
        queue = "default"

    assert executor.get_task_log(Ti(), 1) == ([], [])
    assert executor.slots_occupied == 0
    assert executor.slots_available == executor.parallelism
    executor.debug_dump()
    executor.end()
    executor.terminate()


def test_held_attempts_leave_both_numbers_of_slots(executor: HybridExecutor):
    executor.start()
    inflight = executor.controller.inflight
    free = executor.slots_available
    sent, held = make_flight(), make_flight(backend=BackendName.KUBERNETES)
    for flight in (sent, held):
        inflight.add(flight)
    inflight.take(0.0)
    inflight.back_off(held, until_s=60.0)
    assert executor.slots_occupied == 1
    assert executor.slots_available == free - 1
    executor.end()


def test_revoking_what_it_does_not_know_raises_emits_and_changes_nothing(executor: HybridExecutor):
    class Ti:
        key = ("some", "key")
        id = UUID("8a1c54a0-1111-4222-8333-444455556666")

    executor.revoke_task(ti=Ti())
    assert executor.get_event_buffer() == {}


def test_workload_tokens_live_as_long_as_the_setting_says(executor: HybridExecutor):
    import jwt

    token = executor.jwt_generator.generate(
        extras={"sub": "8a1c54a0-1111-4222-8333-444455556666", "scope": "workload"}, valid_for=600
    )
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == executor.settings.token_life_s == 86400
    other = jwt.decode(executor.jwt_generator.generate(valid_for=600), options={"verify_signature": False})
    assert other["exp"] - other["iat"] == 600


CONSTRUCT = """
import json, os, socket, threading
from pathlib import Path
connections = []
real = socket.socket.connect
def connect(self, address):
    connections.append(repr(address))
    return real(self, address)
socket.socket.connect = connect
from airflow.executors.executor_loader import ExecutorLoader
import psycopg2
psycopg2.connect = lambda *a, **k: connections.append("psycopg2")
from hybrid_executor import HybridExecutor
before = set(threading.enumerate())
children = lambda: Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
born = children()
executor = ExecutorLoader.load_executor("hybrid_executor.HybridExecutor")
executor.backends
print(json.dumps({
    "connections": connections,
    "threads": [t.name for t in set(threading.enumerate()) - before],
    "processes": sorted(set(children()) - set(born)),
}))
"""


def test_constructing_opens_no_connection_and_starts_no_thread_or_process(tmp_path):
    environment = {n: v for n, v in os.environ.items() if not n.startswith("AIRFLOW")} | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__EXECUTOR": "hybrid_executor.HybridExecutor",
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of this test, " * 4,
        "AIRFLOW__CELERY__BROKER_URL": "redis://127.0.0.1:1/0",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://nobody:x@127.0.0.1:1/none",
    }
    script = textwrap.dedent(CONSTRUCT)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == '{"connections": [], "threads": [], "processes": []}'


def test_importing_a_pure_module_pulls_in_neither_airflow_nor_a_client(tmp_path):
    script = (
        "import sys; import hybrid_executor.routing, hybrid_executor.naming, hybrid_executor.lifecycle; "
        "print([m for m in ('airflow', 'celery', 'kubernetes', 'kubernetes_asyncio', 'redis', 'sqlalchemy') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
