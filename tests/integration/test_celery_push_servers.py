"""Results are pushed by each Redis that Celery can reach: by TLS, behind Sentinels, by a socket file."""

from pathlib import Path
from typing import Any

import pytest
import redis

from hybrid_executor.standalone.stack.ports import LOOPBACK
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.cluster.certificates import Authority
from tests.fixtures.celery import celery_app
from tests.fixtures.valkeys import ConfiguredValkey, Sentinel
from tests.integration.test_celery_push import PUSHED, Ears, until_subscribed


def hears(url: str, plain_url: str, **settings: Any) -> None:
    """What is stored is heard, and heard again after the subscription was killed."""
    ears = Ears(celery_app("memory://", url, **settings), PUSHED)
    try:
        for _ in range(2):
            submission = ears.follow()
            until_subscribed(plain_url, submission)
            stored = ears.store(submission)
            assert ears.time_of(submission) - stored < 2.0  # of 60 until the next read
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


@pytest.fixture
def socket_valkey(tmp_path: Path) -> Any:
    server = ConfiguredValkey(tmp_path / "v")
    server.lines = (f"unixsocket {tmp_path / 's'}",)
    server.start()
    yield server
    server.stop()


def test_a_socket_file(socket_valkey: ValkeyServer, tmp_path: Path) -> None:
    url = f"redis+socket://:{socket_valkey.password}@{tmp_path / 's'}?virtual_host=1"
    hears(url, socket_valkey.url_of(1))
