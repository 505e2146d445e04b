"""The live half on every kind of server: with an ACL user, with TLS, behind Sentinels, and as a Cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from hybrid_executor.ledger.live.schema import Keys
from hybrid_executor.ledger.live.store import LiveStore
from hybrid_executor.ledger.live.trial import attempt_everything
from hybrid_executor.model.errors import LiveUnavailable
from hybrid_executor.standalone.stack.ports import LOOPBACK, choose_port
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.cluster.certificates import Authority
from tests.contract.ledger_suite import a_record
from tests.fixtures.live import PREFIX, LiveRig, all_keys, live_config, until
from tests.fixtures.valkeys import ConfiguredValkey, Failover, Sentinel
from tests.integration.test_ledger_live import ended, started

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "docs" / "how-to" / "install.md"


def whole_life(rig: LiveRig) -> None:
    """Everything that a writer and a reader do."""
    first, second = a_record(), a_record()
    rig.writer.start()
    rig.do(first, second)
    until(lambda: rig.agrees(first, second))
    place = rig.reader.last_transition()
    rig.do(changes=[started(first)])
    assert rig.reader.listen(place, lambda told: told["state"] == "running", 20) != place
    rig.do(changes=[ended(first)])
    until(lambda: (found := rig.found(first)) and found.ended_at)
    store = LiveStore(rig.config, rig.owner)
    until(lambda: store.survey().index.keys() == {second.id.attempt_id})
    until(lambda: rig.reader.standing([rig.owner]).checked_at)
    assert sum(rig.reader.standing([rig.owner]).inflight.values()) == 1
    assert rig.writer._away is None
    store.close()


def test_the_server_is_the_one_that_this_run_is_for(valkey_url: str, is_redis: bool) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        assert ("valkey_version" in client.info("server")) == (not is_redis)


@pytest.mark.parametrize("protocol", [2, 3])
def test_both_protocols_are_understood(valkey_url: str, protocol: int) -> None:
    """Which one redis-py speaks is its version's choice."""
    rig = LiveRig(f"{valkey_url}?protocol={protocol}")
    whole_life(rig)
    rig.stop()


# --- an ACL user ------------------------------------------------------------------------------


def documented_rights() -> list[str]:
    """What the guide tells people to give."""
    [line] = [line for line in INSTALL.read_text().splitlines() if "ACL SETUSER" in line]
    return line[line.index("~") :].split()


def user(server: ValkeyServer, *rights: str) -> str:
    """The URL of a user who has these rights and no other."""
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "live", "reset", "on", ">pass-of-live", *rights)
    return f"redis://live:pass-of-live@{LOOPBACK}:{server.port}/0"


def test_the_documented_rights_are_enough_and_none_is_too_many(own_valkey: ValkeyServer) -> None:
    rights = documented_rights()
    url = user(own_valkey, *rights)
    rig = LiveRig(url)
    whole_life(rig)
    rig.stop()
    attempt_everything(live_config(url))
    for right in rights:
        user(own_valkey, *(other for other in rights if other != right))
        with pytest.raises(LiveUnavailable) as raised:
            attempt_everything(live_config(url))
        assert right.removeprefix("+") in str(raised.value) or right.startswith("~")
        assert "pass-of-live" not in str(raised.value)


def test_the_trial_leaves_nothing_behind(own_valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(own_valkey.url) as admin:
        attempt_everything(live_config(own_valkey.url))
        assert all_keys(admin) == []


def test_a_user_without_rights_is_away_with_what_it_lacks(own_valkey: ValkeyServer) -> None:
    url = user(own_valkey, f"~{{{PREFIX}}}:*", "+@read")
    with pytest.raises(LiveUnavailable, match=r"NoPermissionError.*eval"):
        LiveStore(live_config(url), "1").write("1", None, [], anew=True)


# --- a Cluster --------------------------------------------------------------------------------


@pytest.fixture
def cluster_url(tmp_path: Path, valkey_program: Path | None) -> Iterator[str]:
    """A Cluster of one node that has all slots."""
    server = ConfiguredValkey(tmp_path / "cluster", program=valkey_program)
    bus = choose_port()
    server.lines = ("cluster-enabled yes", "databases 1", f"cluster-port {bus}")
    server.start()
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: b"cluster_state:ok" in admin.execute_command("CLUSTER", "INFO"))
    yield server.url.replace("redis://", "cluster://")
    server.stop()


def test_a_cluster_has_the_whole_of_it_in_one_slot(cluster_url: str) -> None:
    rig = LiveRig(cluster_url)
    whole_life(rig)
    with redis.Redis.from_url(cluster_url.replace("cluster://", "redis://"), decode_responses=True) as admin:
        keys = all_keys(admin)
        assert len(keys) > 5
        assert len({admin.execute_command("CLUSTER", "KEYSLOT", key) for key in keys}) == 1
        admin.flushdb()
    until(lambda: len(rig.store.survey().index) == 1)
    rig.stop()


def test_every_name_of_a_key_has_the_same_hash_tag() -> None:
    keys = Keys("some:prefix")
    assert all(name.startswith("{some:prefix}:") for name in keys.of_script("1"))


# --- Sentinels --------------------------------------------------------------------------------


def test_the_master_is_asked_of_a_sentinel(own_valkey: ValkeyServer, sentinel: Sentinel) -> None:
    dead = f"sentinel://{LOOPBACK}:1"
    url = f"sentinel://:{own_valkey.password}@{LOOPBACK}:{sentinel.port}/0;{dead}"
    rig = LiveRig(
        url, options={"master_name": "mymaster", "sentinel_options": {"password": sentinel.password}}
    )
    whole_life(rig)
    own_valkey.kill()
    until(lambda: rig.writer._away)
    own_valkey.start()
    until(lambda: rig.writer._away is None)
    rig.stop()
    nobody = live_config(url, master_name="other", sentinel_options={"password": sentinel.password})
    with pytest.raises(LiveUnavailable, match="MasterNotFoundError") as raised:
        LiveStore(nobody, "1").survey()
    assert own_valkey.password not in str(raised.value)


def test_the_live_half_goes_on_after_a_failover(failover: Failover) -> None:
    options = {"password": failover.sentinel.password}
    rig = LiveRig(
        failover.url_of(0), options={"master_name": failover.master_name, "sentinel_options": options}
    )
    rig.writer.start()
    before, meanwhile, after = a_record(), a_record(), a_record()
    rig.do(before)
    until(lambda: rig.agrees(before))
    failover.first.kill()
    rig.do(meanwhile, changes=[started(before)])
    failover.fail_over()
    until(lambda: rig.agrees(before, meanwhile))
    failover.bring_back()
    rig.do(after)
    until(lambda: rig.agrees(before, meanwhile, after))
    until(lambda: rig.writer._away is None)
    rig.stop()


# --- TLS --------------------------------------------------------------------------------------


def test_tls_with_certificates_of_the_url(
    own_valkey: ValkeyServer, authority: Authority, tls_port: int
) -> None:
    client = authority.issue("client", "scheduler")
    files = f"ssl_ca_certs={authority.pair.certificate}"
    files += f"&ssl_certfile={client.certificate}&ssl_keyfile={client.key}"
    rig = LiveRig(f"rediss://:{own_valkey.password}@{LOOPBACK}:{tls_port}/0?{files}")
    whole_life(rig)
    rig.stop()


def test_tls_with_the_brokers_certificates(
    own_valkey: ValkeyServer, authority: Authority, tls_port: int
) -> None:
    client = authority.issue("client", "scheduler")
    files = {
        "ssl_cert_reqs": "required",
        "ssl_ca_certs": str(authority.pair.certificate),
        "ssl_certfile": str(client.certificate),
        "ssl_keyfile": str(client.key),
    }
    rig = LiveRig(f"redis://:{own_valkey.password}@{LOOPBACK}:{tls_port}/0", options={"options": files})
    whole_life(rig)
    rig.stop()


def test_a_server_whose_certificate_nobody_knows_is_away(
    own_valkey: ValkeyServer, tls_port: int, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "other", "other").pair.certificate
    url = f"rediss://:{own_valkey.password}@{LOOPBACK}:{tls_port}/0?ssl_ca_certs={stranger}"
    with pytest.raises(LiveUnavailable, match="certificate") as raised:
        LiveStore(live_config(url), "1").survey()
    assert own_valkey.password not in str(raised.value)
