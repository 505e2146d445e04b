"""The runner through kills, restarts and load, and what it refuses."""

import os
import ssl
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.kube import Kube, ProcessKube, until
from tests.fixtures.node import PODS, Node, StartNode, shell_pod, state_of

NAMESPACES = pytest.mark.parametrize("options", [(), ("--no-namespaces",)], ids=["namespaces", "none"])


def processes(word: str) -> list[int]:
    """The processes that have ``word`` as an argument."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word in (folder / "cmdline").read_text().split("\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@NAMESPACES
def test_a_killed_runner_leaves_no_process_and_its_pods_fail_at_the_next_start(
    start_node: StartNode, options: tuple[str, ...], tmp_path: Path
) -> None:
    word = f"4243.{os.getpid()}{len(options)}"
    runs = tmp_path / "runs"
    node = start_node("local", "--bind", *options)
    node.run("victim", f"echo x >> {runs}; setsid sleep {word} & sleep {word}")
    node.phase("victim", "Running")
    until(lambda: len(processes(word)) >= 2, "the container never ran")
    node.kill()
    until(lambda: not processes(word), "a process outlived its runner")
    node.start()
    pod = node.ended("victim")
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "NodeLost")
    assert state_of(pod)["terminated"]["exitCode"] == 137
    assert runs.read_text() == "x\n"
    disruption = [c for c in pod["status"]["conditions"] if c["type"] == "DisruptionTarget"]
    assert disruption[0]["status"] == "True"


def test_a_container_whose_start_the_api_never_heard_of_runs_once(
    start_node: StartNode, kube: Kube, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    node = start_node("local", "--bind")
    kube.fail(500, verb="patch", path=".*/pods/unheard/status")
    node.run("unheard", f"echo x >> {runs}; sleep 600")
    node.until(lambda: runs.exists() and runs.read_text(), "the container never ran")
    node.kill()
    kube.heal()
    node.start()
    pod = node.ended("unheard")
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "NodeLost")
    assert runs.read_text() == "x\n"


@NAMESPACES
def test_sigterm_ends_the_runner_and_its_containers_long_before_their_grace_is_over(
    start_node: StartNode, options: tuple[str, ...]
) -> None:
    word = f"4244.{os.getpid()}{len(options)}"
    node = start_node("local", "--bind", *options)
    node.run("stubborn", f"trap '' TERM; sleep {word} & while :; do sleep 0.05; done")
    node.run("waits", env=[{"name": "X", "valueFrom": {"secretKeyRef": {"name": "no", "key": "k"}}}])
    node.phase("stubborn", "Running")
    began = time.monotonic()
    assert node.terminate() == 0
    # Two seconds of grace and two to tell of it; the rest is a busy machine's. The pod asks for 30.
    assert time.monotonic() - began < 15
    assert not processes(word)
    pod = node.get("stubborn")
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "Terminated")
    assert node.get("waits")["status"]["phase"] == "Pending"
    ready = node.kube.request("GET", "/api/v1/nodes/local")[1]["status"]["conditions"][0]
    assert ready["status"] == "False"


def test_a_pod_that_never_started_runs_after_a_restart(start_node: StartNode, kube: Kube) -> None:
    node = start_node("local", "--bind")
    source = {"secretKeyRef": {"name": "later", "key": "k"}}
    node.run("patient", "echo $X", env=[{"name": "X", "valueFrom": source}])
    node.until(lambda: node.get("patient")["spec"].get("nodeName"), "never bound")
    node.kill()
    data = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later"}, "data": {"k": "b2s="}}
    kube.request("POST", "/api/v1/namespaces/default/secrets", data)
    node.start()
    assert node.ended("patient")["status"]["phase"] == "Succeeded"


def test_without_namespaces_a_mount_is_refused_in_words_and_the_rest_runs(start_node: StartNode) -> None:
    node = start_node("local", "--bind", "--no-namespaces")
    volume = [{"name": "v", "emptyDir": {}}]
    node.run("mounts", volumes=volume, volumeMounts=[{"name": "v", "mountPath": "/hybrid-nowhere"}])
    node.run("plain", "echo $HOSTNAME; exit 5")
    assert state_of(node.ended("plain"))["terminated"]["exitCode"] == 5
    assert node.logs("plain") == "plain\n"
    node.until(
        lambda: "allows no mount namespaces" in dict(node.events("mounts")).get("FailedMount", ""),
        "no FailedMount",
    )
    assert node.get("mounts")["status"]["phase"] == "Pending"


def test_pods_run_on_through_an_api_that_is_killed_and_comes_back(
    kube_process: ProcessKube, tmp_path: Path
) -> None:
    node = Node(kube_process, tmp_path / "node", "local", "--bind")
    try:
        node.run("short", f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo done")
        node.phase("short", "Running")
        kube_process.kill()
        (tmp_path / "go").touch()
        kube_process.restart()
        node.run("next")
        assert node.ended("short")["status"]["phase"] == "Succeeded"
        assert node.logs("short") == "done\n"
        assert node.ended("next")["status"]["phase"] == "Succeeded"
    finally:
        node.close()


def test_a_watch_cut_or_compacted_away_loses_nothing(node: Node, kube: Kube) -> None:
    kube.cut_watches()
    node.run("one")
    node.ended("one")
    kube.fail(410, verb="watch", times=2)
    kube.cut_watches()
    node.run("two")
    assert node.ended("two")["status"]["phase"] == "Succeeded"


def test_a_history_that_is_gone_is_listed_again(node: Node, kube: Kube) -> None:
    blocked = kube.fail(verb="watch", drop=True)
    kube.cut_watches()
    node.run("unseen")
    kube.compact()
    until(lambda: blocked.hits > 1, "the watch was never tried again")
    kube.heal()
    assert node.ended("unseen")["status"]["phase"] == "Succeeded"


def test_a_status_that_the_api_will_not_take_yet_arrives_later(node: Node, kube: Kube) -> None:
    refused = kube.fail(500, verb="patch", path=".*/pods/late/status", times=4)
    node.run("late")
    assert node.ended("late")["status"]["phase"] == "Succeeded"
    assert refused.hits == 4


def test_a_pod_deleted_while_the_api_is_deaf_is_ended_when_it_is_heard(node: Node, kube: Kube) -> None:
    word = f"4245.{os.getpid()}"
    node.run("gone", f"sleep {word}")
    node.phase("gone", "Running")
    kube.silence()
    node.delete("gone", 0)
    kube.heal()
    node.until(lambda: not processes(word), "it still runs")
    node.until(lambda: not list((node.state / "pods").iterdir()), "its folder stays")


def test_logs_are_refused_to_whoever_shows_no_token(node: Node, kube: Kube) -> None:
    node.run("secretive", "echo secret")
    node.ended("secretive")
    status = kube.request("GET", "/api/v1/nodes/local")[1]["status"]
    port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    url = f"https://127.0.0.1:{port}/containerLogs/default/secretive/base"
    trust = ssl.create_default_context(cafile=kube.ca_file)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=trust)
        assert refusal.value.code == 401
    assert node.logs("secretive") == "secret\n"


def test_the_state_folder_is_private_and_variables_never_stand_in_ps(start_node: StartNode) -> None:
    word = f"hush{os.getpid()}"
    node = start_node("local", "--bind")
    node.run("quiet", "sleep 30", env=[{"name": "PASSWORD", "value": word}])
    node.phase("quiet", "Running")
    assert stat.S_IMODE(node.state.stat().st_mode) == 0o700
    # Not ``ps`` itself, which cuts lines where it sees no terminal.
    shown = [read(folder / "cmdline") for folder in Path("/proc").glob("[0-9]*")]
    assert [line for line in shown if "launcher.py" in line]
    assert not [line for line in shown if word in line]
    assert word not in node.log.read_text()


def test_the_prefix_gives_pods_their_python(start_node: StartNode) -> None:
    prefix = str(Path(sys.executable).parent.parent)
    node = start_node("local", "--bind", "--prefix", prefix)
    node.run("python", command=None, args=["python", "-c", "import sys; print(sys.prefix)"])
    node.ended("python")
    assert node.logs("python") == f"{prefix}\n"


def test_a_hundred_pretended_pods_end_as_annotated(start_node: StartNode, kube: Kube) -> None:
    node = start_node("local", "--bind", "--no-processes", "--max-pods", "1000")
    bad = {"annotations": {"hybrid-executor/run-seconds": "0.2", "hybrid-executor/exit-code": "7"}}
    for number in range(100):
        node.create(shell_pod(f"p{number}", metadata=bad if number % 10 == 0 else {}))

    def phases() -> Any:
        found = [pod["status"].get("phase") for pod in kube.request("GET", PODS)[1]["items"]]
        return found if not {"Pending", "Running"} & set(found) else None

    found = node.until(phases, "not all ended", 40)
    assert (found.count("Succeeded"), found.count("Failed")) == (90, 10)
    assert state_of(node.get("p0"))["terminated"]["exitCode"] == 7
    assert not list((node.state / "pods").glob("*")), "a pretended pod touches no disk"


def test_a_second_runner_on_the_same_folder_is_refused(node: Node, kube: Kube) -> None:
    command = [sys.executable, "-m", "hybrid_executor.standalone.runner", "--name", "other"]
    command += ["--kubeconfig", kube.kubeconfig, "--state", str(node.state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "another runner uses this state folder" in done.stderr


def test_the_lease_is_renewed_and_the_node_says_what_it_offers(node: Node, kube: Kube) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/local"
    node.until(lambda: kube.request("GET", path)[0] == 200, "no lease")
    assert kube.request("GET", path)[1]["spec"]["holderIdentity"] == "local"
    status = kube.request("GET", "/api/v1/nodes/local")[1]["status"]
    assert status["allocatable"]["pods"] == "110"
    assert {"type": "InternalIP", "address": "127.0.0.1"} in status["addresses"]
    assert (status["conditions"][0]["type"], status["conditions"][0]["status"]) == ("Ready", "True")


def test_the_first_words_of_the_log_say_what_a_node_of_processes_does_not_do(node: Node) -> None:
    first = node.log.read_text().splitlines()[0]
    assert all(word in first for word in ("no images", "no network", "no cgroups", "no exec"))
