"""The embedded API as a process: what a kill leaves, how it ends, what it writes; and the proxy's faults."""

import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import pytest

from tests.contract.kube.cluster import pod
from tests.fixtures.kube import DEADLINE_S, Kube, ProcessKube, until

PODS = "/api/v1/namespaces/default/pods"


def names(kube: Kube) -> list[str]:
    status, body = kube.request("GET", PODS)
    assert status == 200, body
    return [item["metadata"]["name"] for item in body["items"]]


def test_a_killed_server_comes_back_with_every_object_and_its_revisions(kube_process: ProcessKube) -> None:
    kube = kube_process
    for number in range(20):
        assert kube.request("POST", PODS, pod(f"p{number:02}"))[0] == 201
    kube.request("DELETE", f"{PODS}/p00")
    before = kube.request("GET", PODS)[1]
    where = (kube.direct_url, kube.token, (kube.folder / "ca.crt").read_bytes())
    kube.restart()
    after = kube.request("GET", PODS)[1]
    assert after["items"] == before["items"]
    assert int(after["metadata"]["resourceVersion"]) == int(before["metadata"]["resourceVersion"])
    assert (kube.direct_url, kube._state.token(), (kube.folder / "ca.crt").read_bytes()) == where
    made = kube.request("POST", PODS, pod("later"))[1]
    assert int(made["metadata"]["resourceVersion"]) > int(before["metadata"]["resourceVersion"])


def test_after_a_restart_a_current_watch_goes_on_and_an_old_one_is_too_old(kube_process: ProcessKube) -> None:
    kube = kube_process
    old = kube.request("GET", PODS)[1]["metadata"]["resourceVersion"]
    kube.request("POST", PODS, pod("one"))
    current = kube.request("GET", PODS)[1]["metadata"]["resourceVersion"]
    kube.restart()
    watch = f"{PODS}?watch=1&timeoutSeconds=1&resourceVersion="
    assert kube.request("GET", watch + current) == (200, "")
    status, event = kube.request("GET", watch + old)
    assert (status, event["type"], event["object"]["code"]) == (200, "ERROR", 410)


def test_sigterm_ends_it_within_two_seconds_with_a_watch_open(kube_process: ProcessKube) -> None:
    kube = kube_process
    with ThreadPoolExecutor(1) as pool:
        watch = pool.submit(kube.request, "GET", f"{PODS}?watch=1", faulty=True)
        until(lambda: kube.open_watches() == 1, "the watch never opened")
        began = time.monotonic()
        assert kube.terminate() == 0
        # A server that waits for its watches takes a minute, a busy machine some seconds.
        assert time.monotonic() - began < 10
        assert watch.result(DEADLINE_S) == (200, "")
    first = kube.log.read_text().splitlines()[0]
    for word in ("no scheduler", "no images", "no RBAC", "127.0.0.1"):
        assert word in first


def test_every_file_of_the_state_folder_is_its_owners_alone(kube_process: ProcessKube) -> None:
    made = {"kubeconfig", "token", "node-token", "ca.key", "server.key", "node.key", "objects.sqlite3"}
    files = {path.name: path for path in kube_process.folder.iterdir()}
    assert made <= files.keys()
    for name in made:
        assert stat.S_IMODE(files[name].stat().st_mode) == 0o600, name


def test_no_token_is_written_to_the_log(kube_process: ProcessKube) -> None:
    kube = kube_process
    kube.request("GET", PODS)
    kube.terminate()
    secrets = [kube.token, (kube.folder / "node-token").read_text()]
    assert not any(secret in kube.log.read_text() for secret in secrets)


def test_a_second_server_on_the_same_folder_says_so_and_ends(kube_process: ProcessKube) -> None:
    command = [sys.executable, "-m", "hybrid_executor.standalone.api", "--state", str(kube_process.folder)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "does another server use this folder?" in second.stderr
    assert "Traceback" not in second.stderr
    assert names(kube_process) == []


def test_a_port_that_somebody_took_meanwhile_is_replaced_and_published(kube_process: ProcessKube) -> None:
    kube = kube_process
    kube.request("POST", PODS, pod("one"))
    taken = kube._state.port()
    kube.kill()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", taken))
        other.listen()
        # The old port is still published until the new one is bound.
        (kube.folder / "kubeconfig").unlink()
        kube.restart()
        assert kube._state.port() != taken
        assert f":{kube._state.port()}" in (kube.folder / "kubeconfig").read_text()
        assert names(kube) == ["one"]


# The proxy: what it promises to other tests


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"code": 429, "retry_after_s": 7}, 429),
        ({"code": 500}, 500),
        ({"code": 409}, 409),
    ],
)
def test_a_fault_hits_as_often_as_told_and_then_the_request_passes(
    kube: Kube, fault: dict[str, Any], code: int
) -> None:
    hit = kube.fail(verb="create", path=".*/pods", times=2, **fault)
    answers = [kube.request("POST", PODS, pod("one"), faulty=True)[0] for _ in range(3)]
    assert answers == [code, code, 201]
    assert hit.hits == 2
    assert kube.count("create", ".*/pods") == 3
    assert names(kube) == ["one"]


def test_an_exhausted_quota_is_403_forbidden(kube: Kube) -> None:
    kube.refuse_quota(times=1)
    status, body = kube.request("POST", PODS, pod("one"), faulty=True)
    assert (status, body["reason"]) == (403, "Forbidden")
    assert "exceeded quota" in body["message"]


def test_a_dropped_reply_leaves_the_pod_made(kube: Kube) -> None:
    kube.fail(verb="create", path=".*/pods", times=1, drop_reply=True)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        kube.request("POST", PODS, pod("one"), faulty=True)
    assert names(kube) == ["one"]


def test_a_dropped_request_makes_nothing(kube: Kube) -> None:
    kube.fail(verb="create", path=".*/pods", times=1, drop=True)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        kube.request("POST", PODS, pod("one"), faulty=True)
    assert names(kube) == []


def test_requests_are_counted_by_verb(kube: Kube) -> None:
    kube.request("GET", PODS, faulty=True)
    kube.request("GET", f"{PODS}/none", faulty=True)
    kube.request("GET", f"{PODS}?watch=True&timeoutSeconds=1", faulty=True)
    kube.request("DELETE", PODS, {}, faulty=True)
    counted = {verb: kube.count(verb) for verb in ("list", "get", "watch", "deletecollection")}
    assert counted == {"list": 1, "get": 1, "watch": 1, "deletecollection": 1}


def test_cut_watches_break_off_and_silent_ones_stay_open(kube: Kube) -> None:
    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(kube.request, "GET", f"{PODS}?watch=1", faulty=True)
        until(lambda: kube.count("watch") == 1, "the watch never opened")
        until(lambda: kube.cut_watches() or cut.done(), "the watch was never cut")
        assert isinstance(cut.exception(), aiohttp.ClientError)
        kube.silence()
        silent = pool.submit(kube.request, "GET", f"{PODS}?watch=1&timeoutSeconds=5", faulty=True)
        until(lambda: kube.count("watch") == 2, "the watch never opened")
        assert kube.request("POST", PODS, pod("one"))[0] == 201
        with pytest.raises(TimeoutError):
            silent.result(1.5)
        kube.heal()
        assert silent.result(DEADLINE_S)[1]["object"]["metadata"]["name"] == "one"
