"""Where the live half is: the broker's server by default, what a URL may say, and no word of a password."""

from pathlib import Path

import pytest

from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.ledger.live.connection import open_client
from hybrid_executor.model.errors import LiveUnavailable
from hybrid_executor.settings import Settings
from tests.fixtures.settings import Load

SECRET = "hunter2"


def live(settings: Settings) -> LiveConfig:
    assert settings.live is not None
    return settings.live


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@redis:6379/0",
        f"rediss://airflow:{SECRET}@redis:6379/0",
        f"sentinel://:{SECRET}@one:26379;sentinel://:{SECRET}@two:26379",
    ],
)
def test_it_is_on_the_brokers_server_where_that_is_redis(load: Load, url: str) -> None:
    settings = load(f"[celery]\nbroker_url = {url}\n")
    assert settings.problems == ()
    assert live(settings).url == url
    assert SECRET not in repr(settings.live)


@pytest.mark.parametrize("url", ["amqp://guest@rabbit//", "sqs://", "sqla+postgresql://db"])
def test_it_is_off_where_the_broker_is_another(load: Load, url: str) -> None:
    settings = load(f"[celery]\nbroker_url = {url}\n")
    assert settings.live is None
    assert settings.problems == ()


def test_it_can_be_off(load: Load) -> None:
    settings = load(HYBRID_EXECUTOR__LIVE_URL="off")
    assert settings.live is None
    assert settings.problems == ()


def test_the_brokers_certificates_and_its_sentinels_are_used(load: Load) -> None:
    settings = load(
        f"""
[celery]
broker_url = sentinel://one:26379;sentinel://two:26380
ssl_active = True
ssl_key = /etc/key.pem
ssl_cert = /etc/cert.pem
ssl_cacert = /etc/ca.pem
[celery_broker_transport_options]
master_name = mymaster
sentinel_kwargs = {{"password": "{SECRET}"}}
"""
    )
    config = live(settings)
    assert config.master_name == "mymaster"
    assert config.sentinel_options == {"password": SECRET}
    assert config.options == {
        "ssl_cert_reqs": "required",
        "ssl_ca_certs": "/etc/ca.pem",
        "ssl_keyfile": "/etc/key.pem",
        "ssl_certfile": "/etc/cert.pem",
    }
    assert SECRET not in repr(config)
    client = open_client(config)
    assert type(client.connection_pool).__name__ == "SentinelConnectionPool"
    assert client.connection_pool.connection_class.__name__ == "SentinelManagedSSLConnection"


@pytest.mark.parametrize(
    "url",
    [
        "redis://one",
        f"rediss://airflow:{SECRET}@one:6380/3?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required",
        "unix:///run/valkey.sock?db=2",
        "sentinel://one:26379;sentinel://two?master_name=m",
        "sentinels://:x@one:26379?master_name=m&ssl_ca_certs=/etc/ca.pem",
        f"cluster://airflow:{SECRET}@one:7000",
        "clusters://one:7000?ssl_ca_certs=/etc/ca.pem",
    ],
)
def test_a_url_of_its_own_is_taken(load: Load, url: str) -> None:
    settings = load(HYBRID_EXECUTOR__LIVE_URL=url)
    assert settings.problems == ()
    assert live(settings).url == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"http://u:{SECRET}@one", "must begin with one of redis://"),
        (SECRET, "must begin with one of redis://"),
        (f"redis://:{SECRET}#x@one:6379/0", "check the port, percent-encode"),
        (f"redis://:{SECRET}@one:{SECRET}/0", "check the port, percent-encode"),
        (f"redis://:{SECRET}@one/0?colour=red", "name only parameters that redis.Redis has"),
        (f"redis://:{SECRET}@one/0?socket_timeout=soon", "name only parameters"),
        ("redis:///0", "names no host"),
        (f"sentinel://:{SECRET}@one:26379", "names no master: add ?master_name=NAME"),
    ],
)
def test_a_wrong_url_is_one_problem_that_says_what_to_do_and_no_password(
    load: Load, url: str, says: str
) -> None:
    settings = load(HYBRID_EXECUTOR__LIVE_URL=url)
    [problem] = settings.problems
    assert problem.startswith("[hybrid_executor] live_url (set by AIRFLOW__HYBRID_EXECUTOR__LIVE_URL): ")
    assert says in problem
    assert "The live half of the ledger is off" in problem
    assert SECRET not in problem
    assert settings.live is None


def test_a_broker_url_that_can_not_be_used_is_unavailable_in_words_without_it(load: Load) -> None:
    settings = load(f"[celery]\nbroker_url = sentinel://:{SECRET}@one:26379\n")
    with pytest.raises(LiveUnavailable, match="names no master") as raised:
        open_client(live(settings))
    assert SECRET not in str(raised.value)


def test_airflows_that_share_a_server_share_no_key(load: Load, tmp_path: Path) -> None:
    first, second = (
        live(load(f"[database]\nsql_alchemy_conn = postgresql://u:{SECRET}@db/{name}\n")).prefix
        for name in ("one", "two")
    )
    assert first != second
    assert first.startswith("hybrid-")
    assert live(load(HYBRID_EXECUTOR__LIVE_PREFIX="airflow-prod")).prefix == "airflow-prod"


@pytest.mark.parametrize("prefix", ["a{b}", "a b", "a*", "x" * 65])
def test_a_prefix_that_keys_can_not_have_is_a_problem(load: Load, prefix: str) -> None:
    settings = load(HYBRID_EXECUTOR__LIVE_PREFIX=prefix)
    [problem] = settings.problems
    assert "live_prefix" in problem
    assert live(settings).prefix.startswith("hybrid-")
