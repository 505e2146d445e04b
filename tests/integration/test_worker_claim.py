"""A worker with our package starts a message once, and says so when it comes again."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.exceptions import Ignore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_executor.ledger.live.claims import Claims
from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.ledger.live.schema import CLAIM_OVER_S
from hybrid_executor.worker import claim
from tests.fixtures.stock_worker import ExecutionApi, start_scheduler, stock_worker

LIFE_S = 90_000


def until(done: Callable[[], Any], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 90.0
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


@pytest.fixture
def claims(valkey_url: str) -> Claims:
    return Claims(LiveConfig(url=valkey_url, prefix="hybrid-test"), life_s=LIFE_S)


class Started:
    """A task that counts its starts, as the worker runs it: under an id, which its message has."""

    def __init__(self, claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self._request = threading.local()
        monkeypatch.setattr(claim, "current_task", self)
        self._run = claim.claimed(self.names.append, claims)

    @property
    def request(self) -> threading.local:
        return self._request

    def deliver(self, name: str) -> bool:
        """Whether it was started."""
        self._request.id = name
        try:
            self._run(name)
        except Ignore:
            return False
        return True


@pytest.fixture
def started(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(claims, monkeypatch)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from("abcdef"), max_size=12))
def test_whatever_is_delivered_each_message_starts_once(
    names: list[str], claims: Claims, monkeypatch: pytest.MonkeyPatch, valkey_url: str
) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
    started = Started(claims, monkeypatch)
    answers = [started.deliver(name) for name in names]
    assert started.names == list(dict.fromkeys(names))
    assert answers == [name not in names[:position] for position, name in enumerate(names)]


def test_of_many_that_start_one_message_at_once_one_does(started: Started) -> None:
    threads = [threading.Thread(target=started.deliver, args=("x",)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert started.names == ["x"]


def test_a_claim_outlives_its_task_for_a_while_and_no_longer(
    claims: Claims, started: Started, valkey_url: str
) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        claims.claim("runs")
        started.deliver("over")
        assert client.ttl("{hybrid-test}:start:runs") == pytest.approx(LIFE_S, abs=5)
        assert client.ttl("{hybrid-test}:start:over") == pytest.approx(CLAIM_OVER_S, abs=5)


def test_a_task_starts_where_the_server_is_away(
    own_valkey: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started = Started(
        Claims(LiveConfig(url=own_valkey.url_of(1), prefix="hybrid-test", timeout_s=1.0), life_s=LIFE_S),
        monkeypatch,
    )
    own_valkey.kill()
    assert started.deliver("x")
    assert "[x] starts without a claim, the live ledger is away" in caplog.text


def test_a_message_that_comes_again_asks_airflow_nothing(
    worker_environment: dict[str, str], tmp_path: Path, execution_api: ExecutionApi, valkey_url: str
) -> None:
    """On a real worker; without the claim it asks as it did the first time."""
    ours = json.dumps({"imports": ["hybrid_executor.worker.claim"]})
    environment = worker_environment | {
        "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": ours,
        "AIRFLOW__HYBRID_EXECUTOR__LIVE_PREFIX": "hybrid-test",
    }
    scheduler = start_scheduler(environment)
    with redis.Redis.from_url(valkey_url) as client:
        until(lambda: client.llen("default"), lambda: "nothing was sent")
        [message] = client.lrange("default", 0, -1)
        name = json.loads(message)["headers"]["id"]
        with stock_worker(environment, tmp_path) as output:
            said, errors = scheduler.communicate(timeout=150)
            assert '"Ended"' in said, f"{said}\n{errors}\n{output.read_text(errors='replace')}"
            client.rpush("default", message)
            dropped = f"[{name}] was started before"
            until(
                lambda: dropped in output.read_text(errors="replace"),
                lambda: output.read_text(errors="replace"),
            )
            until(lambda: not client.hlen("unacked"), lambda: "the message was not acknowledged")
        assert len(execution_api.starts()) == 1
        # That it was received is Celery's own word, before any task's; there is no failure.
        assert json.loads(client.get(f"celery-task-meta-{name}"))["status"] == "STARTED"
