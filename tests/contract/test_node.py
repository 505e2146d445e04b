"""What a node promises to a pod's owner, whoever the node is. Pods run through the API alone."""

import base64
import re
import socket
from pathlib import Path
from typing import Any

from hybrid_executor.model.resources import from_line
from tests.fixtures.kube import Kube, until
from tests.fixtures.node import PODS, Node, shell_pod, state_of

CORE = "/api/v1/namespaces/default"


def test_a_pod_that_exits_with_zero_succeeds_with_the_status_of_a_kubelet(node: Node) -> None:
    node.run("good", "echo hello")
    pod = node.ended("good")
    status = pod["status"]
    ended = state_of(pod)["terminated"]
    conditions = {c["type"]: (c["status"], c.get("reason")) for c in status["conditions"]}
    assert status["phase"] == "Succeeded"
    assert (ended["exitCode"], ended["reason"]) == (0, "Completed")
    assert ended["startedAt"] <= ended["finishedAt"]
    assert pod["spec"]["nodeName"] == "local"
    assert (status["podIP"], status["hostIP"], status["qosClass"]) == ("127.0.0.1", "127.0.0.1", "BestEffort")
    assert conditions["PodScheduled"][0] == "True"
    assert conditions["Initialized"] == ("True", "PodCompleted")
    assert conditions["Ready"] == conditions["ContainersReady"] == ("False", "PodCompleted")
    assert node.logs("good") == "hello\n"
    # They are told beside the status.
    wanted = {"Scheduled", "Created", "Started"}
    node.until(lambda: wanted <= {reason for reason, _ in node.events("good")}, "its events are missing")


def test_a_pod_that_exits_otherwise_fails_with_its_code(node: Node) -> None:
    node.run("bad", "exit 3")
    pod = node.ended("bad")
    assert pod["status"]["phase"] == "Failed"
    assert state_of(pod)["terminated"]["exitCode"] == 3
    assert state_of(pod)["terminated"]["reason"] == "Error"


def test_a_signal_adds_its_number_to_128(node: Node) -> None:
    node.run("signalled", "kill -9 $$$$")
    assert state_of(node.ended("signalled"))["terminated"]["exitCode"] == 137


def test_a_running_pod_is_ready_and_says_since_when(node: Node) -> None:
    node.run("busy", "sleep 60")
    pod = node.phase("busy", "Running")
    conditions = {c["type"]: c["status"] for c in pod["status"]["conditions"]}
    assert conditions["Ready"] == conditions["ContainersReady"] == conditions["Initialized"] == "True"
    assert state_of(pod)["running"]["startedAt"]
    assert pod["status"]["containerStatuses"][0]["containerID"]


def test_an_unknown_command_is_a_start_error_with_code_128(node: Node) -> None:
    node.run("typo", command=["no-such-program"])
    ended = state_of(node.ended("typo"))["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert 'exec: "no-such-program": executable file not found in $PATH' in ended["message"]


def test_a_container_is_named_after_its_pod_and_sees_a_small_environment(node: Node) -> None:
    node.run(
        "named-pod", "hostname; echo $HOSTNAME; python3 -c 'import socket; print(socket.getfqdn())'; env -0"
    )
    node.ended("named-pod")
    lines = node.logs("named-pod").split("\n")
    assert lines[:3] == ["named-pod"] * 3
    names = {entry.partition("=")[0] for entry in lines[3].split("\0")}
    api = {f"KUBERNETES_SERVICE_{end}" for end in ("HOST", "PORT", "PORT_HTTPS")}
    usual = {"PATH", "LANG", "HOME", "HOSTNAME", "FROM_NODE"}
    assert names - {"", "_", "PWD", "SHLVL", "OLDPWD"} == usual | api
    assert socket.gethostname() not in lines[:3]


def test_variables_come_from_values_fields_secrets_and_config_maps(node: Node, kube: Kube) -> None:
    kube.request("POST", f"{CORE}/secrets", _object("Secret", "keys", {"token": _b64("s3cret")}))
    kube.request("POST", f"{CORE}/configmaps", _object("ConfigMap", "settings", {"mode": "fast", "n": "4"}))
    limit = {"resource": "limits.memory", "divisor": "1Mi"}
    env = [
        {"name": "PLAIN", "value": "one"},
        {"name": "NESTED", "value": "$(PLAIN)-$(MISSING)-$$(PLAIN)"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['dag']"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
        {"name": "NOT", "valueFrom": {"secretKeyRef": {"name": "none", "key": "x", "optional": True}}},
        {
            "name": "MEMORY",
            "valueFrom": {"resourceFieldRef": limit},
        },
    ]
    node.run(
        "env",
        'echo "$PLAIN $NESTED $POD $LABEL $NODE $TOKEN ${NOT-unset} $MEMORY $CM_mode $CM_n"',
        env=env,
        envFrom=[{"prefix": "CM_", "configMapRef": {"name": "settings"}}],
        resources={"limits": {"memory": "512Mi"}},
        metadata={"labels": {"dag": "etl"}},
    )
    node.ended("env")
    assert node.logs("env") == "one one-$(MISSING)-$(PLAIN) env etl local s3cret unset 512 fast 4\n"


def test_a_missing_secret_keeps_the_container_waiting_until_it_exists(node: Node, kube: Kube) -> None:
    source = {"secretKeyRef": {"name": "late", "key": "word"}}
    node.run("waits", "echo $WORD", env=[{"name": "WORD", "valueFrom": source}])

    def waiting() -> Any:
        entry = node.get("waits")["status"].get("containerStatuses") or [{"state": {}}]
        return entry[0]["state"].get("waiting", {}).get("reason") == "CreateContainerConfigError"

    node.until(waiting, "no CreateContainerConfigError")
    pod = node.get("waits")
    assert pod["status"]["phase"] == "Pending"
    assert state_of(pod)["waiting"]["message"] == 'secret "late" not found'
    kube.request("POST", f"{CORE}/secrets", _object("Secret", "late", {"word": _b64("found")}))
    node.ended("waits")
    assert node.logs("waits") == "found\n"


def test_a_refusal_of_what_was_there_before_is_waited_out(node: Node, kube: Kube, tmp_path: Path) -> None:
    """As by an API server that has just started and knows no relation of node and pod yet."""
    kube.request("POST", f"{CORE}/configmaps", _object("ConfigMap", "known", {"word": "known"}))
    go_on = tmp_path / "go-on"
    first = {
        "name": "first",
        "image": "none",
        "command": ["sh", "-c", f"while [ ! -e {go_on} ]; do sleep 0.05; done"],
    }
    source = {"configMapKeyRef": {"name": "known", "key": "word"}}
    node.run("one", "echo $WORD", env=[{"name": "WORD", "valueFrom": source}], initContainers=[first])
    node.until(
        lambda: "running" in str(node.get("one")["status"].get("initContainerStatuses")), "it never began"
    )
    refused = kube.fail(403, verb="get", path=".*/configmaps/known", times=2, message="no relationship found")
    go_on.touch()
    seen = set()

    def ended() -> bool:
        status = node.get("one")["status"]
        seen.add(str(state_of(node.get("one")).get("waiting", {}).get("reason")))
        return status["phase"] == "Succeeded"

    node.until(ended, "it never ended")
    assert refused.hits == 2
    assert "CreateContainerConfigError" not in seen
    assert node.logs("one", container="base") == "known\n"
    node.until(
        lambda: "no relationship found" in dict(node.events("one")).get("FailedMount", ""), "no FailedMount"
    )


def test_volumes_are_where_the_pod_wants_them_and_the_host_sees_none(node: Node, kube: Kube) -> None:
    kube.request("POST", f"{CORE}/configmaps", _object("ConfigMap", "files", {"a.txt": "A", "b.txt": "B"}))
    kube.request("POST", f"{CORE}/secrets", _object("Secret", "hidden", {"key": _b64("K")}))
    projected = {
        "sources": [
            {"secret": {"name": "hidden", "items": [{"key": "key", "path": "deep/key"}]}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]
    }
    volumes = [
        {"name": "files", "configMap": {"name": "files"}},
        {"name": "all", "projected": projected},
        {"name": "scratch", "emptyDir": {}},
    ]
    mounts = [
        {"name": "files", "mountPath": "/opt/hybrid-test/config"},
        {"name": "files", "mountPath": "/opt/hybrid-test/one.txt", "subPath": "a.txt"},
        {"name": "all", "mountPath": "/hybrid-test-all"},
        {"name": "scratch", "mountPath": "/hybrid-test-scratch"},
    ]
    init = {
        "name": "first",
        "image": "any",
        "command": ["sh", "-c", "echo from-init > /hybrid-test-scratch/word"],
        "volumeMounts": [mounts[3]],
    }
    script = (
        "cat /opt/hybrid-test/config/b.txt /opt/hybrid-test/one.txt /hybrid-test-all/deep/key "
        "/hybrid-test-all/name /hybrid-test-scratch/word; touch /hybrid-test-all/x || echo read-only"
    )
    node.run("mounted", script, volumes=volumes, volumeMounts=mounts, initContainers=[init])
    pod = node.ended("mounted")
    assert pod["status"]["phase"] == "Succeeded"
    assert re.match(r"BAKmountedfrom-init\n", node.logs("mounted", container="base"))
    assert "read-only" in node.logs("mounted", container="base")
    _host_has_none("/opt/hybrid-test", "/hybrid-test-all", "/hybrid-test-scratch")


def _host_has_none(*paths: str) -> None:
    assert [path for path in paths if Path(path).exists()] == []


def test_a_volume_that_the_node_cannot_give_is_said_and_the_pod_stays_pending(node: Node) -> None:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "claim"}}]
    node.run("claims", volumes=volumes, volumeMounts=[{"name": "data", "mountPath": "/data"}])
    node.until(lambda: "FailedMount" in dict(node.events("claims")), "no FailedMount event")
    pod = node.until(lambda: _says(node.get("claims"), "persistentVolumeClaim"), "no reason on the pod")
    assert pod["status"]["phase"] == "Pending"
    assert state_of(pod)["waiting"]["reason"] == "ContainerCreating"


def _says(pod: dict[str, Any], word: str) -> Any:
    statuses = pod["status"].get("containerStatuses") or [{"state": {}}]
    return pod if word in statuses[0]["state"].get("waiting", {}).get("message", "") else None


def test_init_containers_run_in_order_and_a_failed_one_fails_the_pod(node: Node) -> None:
    inits = [
        {"name": name, "image": "any", "command": ["sh", "-c", script]}
        for name, script in (("one", "true"), ("two", "exit 4"), ("three", "true"))
    ]
    node.run("inits", "echo never", initContainers=inits)
    pod = node.ended("inits")
    assert pod["status"]["phase"] == "Failed"
    assert state_of(pod, "one")["terminated"]["exitCode"] == 0
    assert state_of(pod, "two")["terminated"]["exitCode"] == 4
    assert state_of(pod, "three")["waiting"]["reason"] == "PodInitializing"
    assert state_of(pod)["waiting"]["reason"] == "PodInitializing"


def test_a_sidecar_starts_before_the_containers_and_ends_after_them(node: Node, tmp_path: Path) -> None:
    up = tmp_path / "up"
    sidecar = {
        "name": "side",
        "image": "any",
        "restartPolicy": "Always",
        "command": [
            "sh",
            "-c",
            f"trap 'echo told; exit 0' TERM; echo up; touch {up}; while :; do sleep 0.05; done",
        ],
    }
    # Told before its trap is set, it would end without a word.
    node.run("with-side", f"until [ -e {up} ]; do sleep 0.05; done", initContainers=[sidecar])
    pod = node.ended("with-side")
    assert pod["status"]["phase"] == "Succeeded"
    assert node.logs("with-side", container="side") == "up\ntold\n"
    assert state_of(pod, "side")["terminated"]["finishedAt"] >= state_of(pod)["terminated"]["finishedAt"]


def test_on_failure_starts_a_container_again_until_it_succeeds(node: Node) -> None:
    script = "echo try; n=$(cat /v/n 2>/dev/null || echo 0); echo $((n+1)) > /v/n; [ $n -ge 2 ]"
    volumes = [{"name": "v", "emptyDir": {}}]
    mount = [{"name": "v", "mountPath": "/v"}]
    node.run("again", script, restartPolicy="OnFailure", volumes=volumes, volumeMounts=mount)
    pod = node.ended("again")
    entry = pod["status"]["containerStatuses"][0]
    assert (pod["status"]["phase"], entry["restartCount"]) == ("Succeeded", 2)
    assert entry["lastState"]["terminated"]["exitCode"] == 1
    assert node.logs("again", previous="true") == "try\n"


def test_a_deleted_pod_gets_sigterm_and_its_grace(node: Node) -> None:
    script = "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    node.run("leaving", script)
    node.until(lambda: "up" in _log_or_nothing(node, "leaving"), "never up")
    with_finalizer = {"metadata": {"finalizers": ["test/hold"]}}
    merge = {"Content-Type": "application/merge-patch+json"}
    node.kube.request("PATCH", f"{PODS}/leaving", with_finalizer, headers=merge)
    node.delete("leaving", 20)
    pod = node.phase("leaving", "Succeeded")
    assert node.logs("leaving") == "up\ntold\n"
    assert pod["metadata"]["deletionTimestamp"]
    node.kube.request("PATCH", f"{PODS}/leaving", {"metadata": {"finalizers": None}}, headers=merge)
    node.until(lambda: not node.exists("leaving"), "never gone")
    node.until(lambda: not list((node.state / "pods").iterdir()), "its folder stays")


def _log_or_nothing(node: Node, name: str) -> str:
    code, answer = node.kube.request("GET", f"{PODS}/{name}/log")
    return str(answer) if code == 200 else ""


def test_a_pod_that_ignores_sigterm_is_killed_with_its_whole_tree(node: Node) -> None:
    node.run("stubborn", "trap '' TERM; setsid sleep 4242.17 & echo up; while :; do sleep 0.05; done")
    node.until(lambda: "up" in _log_or_nothing(node, "stubborn"), "never up")
    assert _processes("4242.17")
    node.delete("stubborn", 1)
    node.until(lambda: not node.exists("stubborn"), "never gone")
    until(lambda: not _processes("4242.17"), "a process stayed behind")


def _processes(word: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word in (folder / "cmdline").read_text().split("\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_pod_past_its_deadline_fails_with_that_reason(node: Node) -> None:
    node.run("slow", "sleep 60", activeDeadlineSeconds=1)
    pod = node.ended("slow")
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "DeadlineExceeded")
    assert state_of(pod)["terminated"]["exitCode"] == 143


def test_a_container_over_its_memory_limit_is_killed_as_out_of_memory(node: Node) -> None:
    script = "import time; kept = bytearray(300 << 20); time.sleep(30)"
    limits = {"limits": {"memory": "128Mi"}}
    node.run("greedy", command=["python3", "-c", script], resources=limits)
    pod = node.ended("greedy")
    ended = state_of(pod)["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
    used = from_line(pod["metadata"]["annotations"]["used.hybrid-executor/base"])
    assert used is not None
    assert (used.memory_peak_bytes or 0) > 128 << 20


def test_a_node_of_processes_tells_what_a_container_took(node: Node) -> None:
    # By its own time: how much of a busy machine's it gets in a second, nobody knows.
    script = "import time; kept = b'x' * (100 << 20)\nwhile time.process_time() < 1.5: pass"
    node.run("busy", command=["python3", "-c", script])
    used = from_line(node.ended("busy")["metadata"]["annotations"]["used.hybrid-executor/base"])
    assert used is not None
    assert 100 << 20 < (used.memory_peak_bytes or 0) < 160 << 20
    assert 0.2 < (used.cpu_used_s or 0) < 5
    assert (used.cpu_peak_m or 0) > 100


def test_logs_can_be_cut_by_lines_bytes_and_time(node: Node) -> None:
    node.run("talks", "for i in 1 2 3 4; do echo line $i; done; printf end >&2")
    node.ended("talks")
    every = node.logs("talks")
    assert sorted(every.split("\n")) == ["end", "line 1", "line 2", "line 3", "line 4"] or "end" in every
    assert len(node.logs("talks", limitBytes=3)) == 3
    stamped = node.logs("talks", timestamps="true").splitlines()[0]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ", stamped)
    assert node.logs("talks", sinceTime="2999-01-01T00:00:00Z") == ""
    assert node.logs("talks", sinceSeconds=3600) == every


def test_a_followed_log_ends_with_its_container(node: Node) -> None:
    node.run("follow", "echo first; sleep 1; echo last")
    node.phase("follow", "Running", "Succeeded")
    assert node.logs("follow", follow="true") == "first\nlast\n"


def test_a_full_node_leaves_pods_pending_in_the_words_of_the_scheduler(start_node: Any) -> None:
    node = start_node("small", "--bind", "--max-pods", "1", "--label", "disk=ssd")
    node.run("first", "sleep 60")
    node.phase("first", "Running")
    node.run("second")

    def told(name: str) -> Any:
        found = {c["type"]: c for c in node.get(name)["status"].get("conditions") or []}
        return found.get("PodScheduled", {}).get("reason") == "Unschedulable" and found["PodScheduled"]

    condition = node.until(lambda: told("second"), "second is not told")
    assert condition["message"] == "0/1 nodes are available: 1 Too many pods."
    node.run("elsewhere", nodeSelector={"disk": "hdd"})
    condition = node.until(lambda: told("elsewhere"), "elsewhere is not told")
    assert "didn't match Pod's node affinity/selector" in condition["message"]
    node.delete("first", 0)
    node.ended("second")


def test_a_pod_whose_request_is_larger_than_the_node_is_never_bound(node: Node) -> None:
    node.create(shell_pod("huge", resources={"requests": {"cpu": "10k", "memory": "64Mi"}}))
    pod = node.until(lambda: _unschedulable(node.get("huge")), "huge is not told")
    assert "1 Insufficient cpu" in pod
    assert not node.get("huge")["spec"].get("nodeName")


def _unschedulable(pod: dict[str, Any]) -> str:
    conditions = pod["status"].get("conditions") or []
    return next((str(c.get("message")) for c in conditions if c["type"] == "PodScheduled"), "")


def _object(kind: str, name: str, data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "data": data}


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
