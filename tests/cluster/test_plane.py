"""The control plane is a real one, holds to its rights, survives kills and leaves nothing behind."""

import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hybrid_executor.standalone.stack.ports import choose_port
from hybrid_executor.standalone.stack.process import is_running, wait_gone
from tests.cluster import build, flags
from tests.cluster.access import KubectlFailed
from tests.cluster.fixture import StartPlane
from tests.cluster.listening import listeners
from tests.cluster.plane import SERVERS, ControlPlane, Server
from tests.cluster.servers import NotReady, Servers, answer, start_time
from tests.fixtures.kube import until

PODS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "base", "image": "any"}]
    return {"metadata": {"name": name}, "spec": {"containers": containers, **spec}}


# --- it is a real one ----------------------------------------------------------------------


def test_a_plane_of_its_own_starts_and_says_how_long_it_took(
    start_plane: StartPlane, record_property: Any
) -> None:
    begin = time.monotonic()
    plane = start_plane()
    seconds = time.monotonic() - begin
    record_property("start_s", seconds)
    print(f"started in {seconds:.1f} s")
    assert plane.request("GET", "/readyz") == (200, "ok")


def test_the_servers_and_kubectl_say_the_pinned_version(plane: ControlPlane) -> None:
    pinned = build.KUBERNETES.version_of("k8s.io/kubernetes")
    said = json.loads(plane.kubectl("version", "--output=json"))
    assert said["serverVersion"]["gitVersion"] == pinned
    assert said["clientVersion"]["gitVersion"] == pinned
    assert f"{said['serverVersion']['major']}.{said['serverVersion']['minor']}" in pinned


def test_the_scheduler_says_that_no_node_fits(plane: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    assert plane.request("POST", path, pod("waits", nodeSelector={"no": "node"}))[0] == 201

    def unschedulable() -> bool:
        _, found = plane.request("GET", f"{path}/waits")
        conditions = found["status"].get("conditions", [])
        return any(c["type"] == "PodScheduled" and c["reason"] == "Unschedulable" for c in conditions)

    until(unschedulable, "no scheduler looked at the pod", 30)


def test_controllers_make_replicas_and_collect_what_lost_its_owner(
    plane: ControlPlane, namespace: str
) -> None:
    plane.kubectl("create", "deployment", "web", "--image=any", "--replicas=3", f"--namespace={namespace}")
    path = f"/api/v1/namespaces/{namespace}/pods"
    until(lambda: len(plane.request("GET", path)[1]["items"]) == 3, "no three replicas", 30)
    plane.kubectl("delete", "deployment", "web", f"--namespace={namespace}")
    until(lambda: not plane.request("GET", path)[1]["items"], "the replicas stayed", 30)


def test_extra_flags_come_last_and_so_win(start_plane: StartPlane) -> None:
    plane = start_plane(
        apiserver_flags=["--etcd-compaction-interval=10s"],
        node_grace_s=6,
        eviction_s=2,
    )
    arguments = Path(f"/proc/{plane.pid('apiserver')}/cmdline").read_text().split("\0")
    assert "--etcd-compaction-interval=10s" in arguments
    path = "/api/v1/namespaces/default/pods"
    assert plane.request("POST", path, pod("short"))[0] == 201
    _, made = plane.request("GET", f"{path}/short")
    assert {one["tolerationSeconds"] for one in made["spec"]["tolerations"]} == {2}


# --- rights --------------------------------------------------------------------------------


def test_a_user_without_a_role_is_denied_and_told_what(plane: ControlPlane) -> None:
    nobody = plane.user_kubeconfig("nobody", ["strangers"])
    with pytest.raises(KubectlFailed, match=r'User "nobody" cannot list resource "pods"'):
        plane.kubectl("get", "pods", kubeconfig=nobody)


def test_a_role_gives_its_verbs_in_its_namespace_alone(plane: ControlPlane, namespace: str) -> None:
    lister = plane.role_kubeconfig("lister", PODS, namespace)
    plane.kubectl("get", "pods", kubeconfig=lister)
    with pytest.raises(KubectlFailed, match="cannot delete resource"):
        plane.kubectl("delete", "pod", "any", kubeconfig=lister)
    with pytest.raises(KubectlFailed, match='in the namespace "default"'):
        plane.kubectl("get", "pods", "--namespace=default", kubeconfig=lister)


def test_a_service_account_is_known_by_its_bound_token(plane: ControlPlane, namespace: str) -> None:
    account = plane.account_kubeconfig("default", namespace)
    who = json.loads(plane.kubectl("auth", "whoami", "--output=json", kubeconfig=account))
    assert who["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:default"


def test_a_node_may_change_itself_and_no_other(plane: ControlPlane) -> None:
    node = plane.node_kubeconfig("one")
    body = json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}})
    plane.kubectl("create", "--filename=-", kubeconfig=node, stdin=body)
    try:
        with pytest.raises(KubectlFailed, match='node "one" is not allowed to modify node "two"'):
            plane.kubectl("create", "--filename=-", kubeconfig=node, stdin=body.replace("one", "two"))
        with pytest.raises(KubectlFailed, match="cannot list resource"):
            plane.kubectl("get", "secrets", kubeconfig=node)
    finally:
        plane.kubectl("delete", "node", "one")


def test_etcd_answers_only_to_certificates_of_the_cluster(plane: ControlPlane) -> None:
    url = f"https://127.0.0.1:{plane.ports.etcd}/health"
    assert answer(url, plane.trust)[0] == 200
    assert answer(url, ssl.create_default_context(cafile=str(plane.ca)))[0] == 0


# --- kills ---------------------------------------------------------------------------------


@pytest.mark.parametrize("server", SERVERS)
def test_a_killed_server_comes_back_on_its_port_with_its_data(
    plane: ControlPlane, namespace: str, server: Server
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    assert plane.request("POST", path, {"metadata": {"name": "kept"}, "data": {"a": "b"}})[0] == 201
    before = plane.pid(server)
    plane.restart(server)
    assert plane.pid(server) != before
    assert not is_running(before)
    code, kept = plane.request("GET", f"{path}/kept")
    assert (code, kept["data"]) == (200, {"a": "b"})


def test_an_api_server_that_is_asked_to_end_ends_without_etcd_too(plane: ControlPlane) -> None:
    plane.kill("etcd")
    pid = plane.pid("apiserver")
    plane.kill("apiserver", signal.SIGTERM)
    assert not is_running(pid)
    plane.heal()
    assert plane.request("GET", "/readyz")[0] == 200


def test_a_port_that_was_taken_meanwhile_is_exchanged_for_another(
    start_plane: StartPlane, tmp_path: Path
) -> None:
    taken, *free = (choose_port() for _ in range(5))
    ports = flags.Ports(etcd=free[0], peer=free[1], apiserver=taken, controllers=free[2], scheduler=free[3])
    (tmp_path / "plane").mkdir()
    (tmp_path / "plane" / "ports.json").write_text(json.dumps(vars(ports)))
    with socket.create_server(("127.0.0.1", taken)):
        plane = start_plane("plane")
    assert plane.ports.apiserver != taken
    assert plane.kubectl("get", "--raw=/readyz") == "ok"


def test_a_server_that_cannot_start_says_why(start_plane: StartPlane) -> None:
    with pytest.raises(NotReady, match="unknown flag: --no-such-flag"):
        start_plane(apiserver_flags=["--no-such-flag"])


# --- nothing is left, nothing is reachable -------------------------------------------------

OWNER = """
import sys, json, time
from pathlib import Path
from tests.cluster.plane import ControlPlane
with ControlPlane.started(Path(sys.argv[1])) as plane:
    print(json.dumps(plane.servers.pids), flush=True)
    time.sleep(600)
"""


def test_a_killed_owner_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path / "plane")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = json.loads(owner.stdout.readline())
        assert len(pids) == len(SERVERS)
        owner.kill()
    assert wait_gone(set(pids.values()), 10)


def test_what_slipped_through_is_ended_at_the_next_start_and_nothing_else(tmp_path: Path) -> None:
    slipped = subprocess.Popen(["sleep", "600"])
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        record = {
            "etcd": [slipped.pid, start_time(slipped.pid)],
            # A process id that was given to another program since.
            "apiserver": [stranger.pid, 1],
        }
        (tmp_path / "processes.json").write_text(json.dumps(record))
        Servers(tmp_path).close()
        assert slipped.wait(10) == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        for process in (slipped, stranger):
            process.kill()
            process.wait()


def test_nothing_listens_off_loopback(plane: ControlPlane) -> None:
    found = listeners(plane.servers.pids.values())
    assert {port for _, port in found} == {getattr(plane.ports, name) for name in vars(plane.ports)}
    assert [str(address) for address, _ in found if not address.is_loopback] == []


def test_no_private_file_can_be_read_by_others(plane: ControlPlane) -> None:
    open_files = [
        file
        for file in plane.folder.rglob("*")
        if re.search(r"\.key$|kubeconfigs/", str(file)) and file.is_file() and file.stat().st_mode & 0o077
    ]
    assert open_files == []


# --- what is built -------------------------------------------------------------------------


def test_every_pinned_staging_module_belongs_to_the_pinned_version() -> None:
    text = (build.KUBERNETES.folder / "go.mod").read_text()
    minor = build.KUBERNETES.version_of("k8s.io/kubernetes").removeprefix("v1.")
    replaced = re.findall(r"^\t(k8s\.io/\S+) => (\S+) (\S+)$", text, re.MULTILINE)
    assert len(replaced) > 30
    assert {(old == new, version) for old, new, version in replaced} == {(True, f"v0.{minor}")}


def test_a_missing_go_and_an_old_one_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = build.KUBERNETES.go_wanted
    monkeypatch.setattr(build, "USUAL_GO", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.CannotBuild, match=f"needs Go {wanted} or newer, and there is no go"):
        build.kubernetes()
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.20.1\n")
    old.chmod(0o755)
    with pytest.raises(build.CannotBuild, match=f"needs Go {wanted} or newer; .*/go is go1.20.1"):
        build.kubernetes()


def test_the_key_changes_with_every_source(tmp_path: Path) -> None:
    for name, text in (("go.mod", "go 1.20\n"), ("go.sum", ""), ("main.go", "package main\n")):
        (tmp_path / name).write_text(text)
    module = build.GoModule(tmp_path, {"program": "."}, 1)
    go = build._go(module)
    keys = {build._key(module, go)}
    for name in ("go.mod", "go.sum", "main.go"):
        with (tmp_path / name).open("a") as file:
            file.write("// more\n")
        keys.add(build._key(module, go))
    assert len(keys) == 4
