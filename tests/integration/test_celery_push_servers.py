"""Results are pushed by each Redis that Celery can reach: by TLS, behind Sentinels, by a socket file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from hybrid_executor.backends.celery.backend import CeleryBackend
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.meter import Meter
from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import Ended, How, Observation, Started
from hybrid_executor.standalone.stack.ports import LOOPBACK
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.cluster.certificates import Authority
from tests.fixtures.celery import celery_app, celery_submission, light_worker
from tests.fixtures.live import until
from tests.fixtures.valkeys import ConfiguredValkey, Failover, Sentinel
from tests.integration.test_celery_push import PUSHED, SOON_S, WORKER_S, Ears, until_subscribed


def hears(url: str, plain_url: str, **settings: Any) -> None:
    """What is stored is heard, and heard again after the subscription was killed."""
    ears = Ears(celery_app("memory://", url, **settings), PUSHED)
    try:
        for _ in range(2):
            submission = ears.follow()
            until_subscribed(plain_url, submission)
            stored = ears.store(submission)
            assert ears.time_of(submission) - stored < SOON_S  # of an hour until the next read
            with redis.Redis.from_url(plain_url) as client:
                client.client_kill_filter(_type="pubsub")
    finally:
        ears.observer.stop(2.0)


def test_tls_with_the_certificates_of_the_url(
    own_valkey: ValkeyServer,
    authority: Authority,
    tls_port: int,
) -> None:
    client = authority.issue("client", "scheduler")
    files = f"ssl_cert_reqs=required&ssl_ca_certs={authority.pair.certificate}"
    files += f"&ssl_certfile={client.certificate}&ssl_keyfile={client.key}"
    hears(f"rediss://:{own_valkey.password}@{LOOPBACK}:{tls_port}/1?{files}", own_valkey.url_of(1))


def test_the_master_that_a_sentinel_names(own_valkey: ValkeyServer, sentinel: Sentinel) -> None:
    options = {"master_name": "mymaster", "sentinel_kwargs": {"password": sentinel.password}}
    url = f"sentinel://:{own_valkey.password}@{LOOPBACK}:{sentinel.port}/1"
    hears(url, own_valkey.url_of(1), result_backend_transport_options=options)


def test_tasks_and_their_results_outlive_a_failover(failover: Failover, tmp_path: Path) -> None:
    """The worker and the backend both find the new master: what ran is heard of, and more is taken."""
    sentinels = {"password": failover.sentinel.password}
    options = {"master_name": failover.master_name, "sentinel_kwargs": sentinels}
    settings = {"broker_transport_options": options, "result_backend_transport_options": options}
    broker, results = failover.url_of(1), failover.url_of(2)
    backend = CeleryBackend(CeleryConfig(), lambda: celery_app(broker, results, **settings), Meter())
    backend.start()
    heard: list[Observation] = []

    def hears(kind: type[Observation], submission: Submission) -> Callable[[], bool]:
        def hear() -> bool:
            heard.extend(backend.poll())
            return any(isinstance(one, kind) and one.submission == submission.id for one in heard)

        return hear

    gate = tmp_path / "gate"
    running, later = celery_submission({"gate": str(gate)}), celery_submission()
    with light_worker(broker, results, tmp_path, **settings):
        backend.submit([running])
        until(hears(Started, running), WORKER_S)
        failover.fail_over()
        gate.touch()
        until(hears(Ended, running))
        backend.submit([later])
        until(hears(Ended, later))
    backend.stop(3.0)
    ends = [(one.submission, one.how) for one in heard if isinstance(one, Ended)]
    assert ends == [(one.id, How.SUCCEEDED) for one in (running, later)]


@pytest.fixture
def socket_valkey(tmp_path: Path, valkey_program: Path | None) -> Any:
    server = ConfiguredValkey(tmp_path / "v", program=valkey_program)
    server.lines = (f"unixsocket {tmp_path / 's'}",)
    server.start()
    yield server
    server.stop()


def test_a_socket_file(socket_valkey: ValkeyServer, tmp_path: Path) -> None:
    url = f"redis+socket://:{socket_valkey.password}@{tmp_path / 's'}?virtual_host=1"
    hears(url, socket_valkey.url_of(1))
