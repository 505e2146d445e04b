"""Pods that a real scheduler binds to the runner: it is a node that a control plane holds for one."""

import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.access import KubectlFailed
from tests.cluster.fixture import StartPlane
from tests.cluster.plane import ControlPlane
from tests.cluster.pods import Pods
from tests.cluster.runner_node import RunnerNode
from tests.fixtures.node import shell_pod, state_of

#: Quick restarts and a Lease that is renewed every second.
QUICK = ("--restart-backoff-s", "0.1", "--lease-s", "4")
STAYS = "echo up; while :; do sleep 0.05; done"
TOLD = f"trap 'echo told; exit 0' TERM; {STAYS}"
LABELS = {"metadata": {"labels": {"app": "it"}}}


@pytest.fixture(scope="module")
def shared_node(session_plane: ControlPlane) -> Iterator[RunnerNode]:
    """The runner as a node of the session's plane, while this module's tests run."""
    with RunnerNode.started(session_plane, options=QUICK) as node:
        yield node
        log = node.log.read_text()
    refused = [line for line in log.splitlines() if "status of" in line and " refused" in line]
    assert not refused, f"the API server refused statuses: {refused}"


@pytest.fixture
def node(shared_node: RunnerNode, plane: ControlPlane) -> RunnerNode:
    """A Ready node that takes pods."""
    if not shared_node.is_running:
        shared_node.start()
    plane.kubectl("uncordon", shared_node.name)
    shared_node.until_usable()
    return shared_node


@pytest.fixture
def pods(node: RunnerNode, plane: ControlPlane, namespace: str) -> Pods:
    """Pods of a namespace of the test's own."""
    return Pods(plane, namespace)


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


def conditions(pod: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {c["type"]: (c["status"], c.get("reason")) for c in pod["status"]["conditions"]}


def deployment(script: str, replicas: int = 1, **spec: Any) -> dict[str, Any]:
    template = {**LABELS, "spec": shell_pod("x", script, restartPolicy="Always", **spec)["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "it"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": LABELS["metadata"]["labels"]},
            "template": template,
        },
    }


def apply(pods: Pods, body: dict[str, Any]) -> None:
    pods.plane.apply({**body, "metadata": {**body["metadata"], "namespace": pods.namespace}})


# --- it is a node --------------------------------------------------------------------------


def test_the_node_is_what_it_says_and_may_do_no_more_than_a_node(
    node: RunnerNode, plane: ControlPlane, namespace: str
) -> None:
    shown = node.object()
    addresses = {item["type"]: item["address"] for item in shown["status"]["addresses"]}
    assert addresses == {"InternalIP": "127.0.0.1", "Hostname": "localhost"}
    assert shown["status"]["capacity"]["pods"] == "110"
    assert {c["type"]: c["status"] for c in shown["status"]["conditions"]} == {
        "Ready": "True",
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
    }
    as_node = plane.node_kubeconfig(node.name)
    for kind in ("secrets", "configmaps", "pods"):
        with pytest.raises(KubectlFailed, match="forbidden"):
            plane.kubectl("get", kind, f"--namespace={namespace}", kubeconfig=as_node)


def test_its_lease_is_renewed_and_belongs_to_it(node: RunnerNode, plane: ControlPlane) -> None:
    path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node.name}"
    lease = plane.request("GET", path)[1]
    assert lease["metadata"]["ownerReferences"][0]["uid"] == node.object()["metadata"]["uid"]
    first = lease["spec"]["renewTime"]
    Pods(plane, "default").until(
        lambda: plane.request("GET", path)[1]["spec"]["renewTime"] > first, "the lease is not renewed"
    )


def test_a_node_object_that_was_deleted_is_registered_again(node: RunnerNode, plane: ControlPlane) -> None:
    before = node.object()["metadata"]["uid"]
    plane.kubectl("delete", "node", node.name)
    node.until_usable()
    assert node.object()["metadata"]["uid"] != before


# --- pods run ------------------------------------------------------------------------------


def test_pods_that_the_scheduler_binds_run_to_their_end(pods: Pods) -> None:
    pods.run("good", "echo hello; exit 0")
    pods.run("bad", "exit 3")
    good, bad = pods.ended("good"), pods.ended("bad")
    assert (good["status"]["phase"], bad["status"]["phase"]) == ("Succeeded", "Failed")
    assert state_of(bad)["terminated"]["exitCode"] == 3
    assert (good["spec"]["nodeName"], good["status"]["podIP"]) == ("runner", "127.0.0.1")
    found = conditions(good)
    assert found["PodScheduled"][0] == "True"
    assert found["Initialized"] == ("True", "PodCompleted")
    assert found["Ready"] == found["ContainersReady"] == ("False", "PodCompleted")
    assert good["status"]["observedGeneration"] == good["metadata"]["generation"]


def test_many_pods_at_once_all_end_well(pods: Pods) -> None:
    for number in range(30):
        pods.run(f"p{number}")

    def all_ended() -> bool:
        phases = [pod["status"]["phase"] for pod in pods.all()]
        assert "Failed" not in phases
        return phases == ["Succeeded"] * 30

    pods.until(all_ended, "not all succeeded")


def test_init_containers_and_sidecars_run_in_their_order(pods: Pods) -> None:
    mount = [{"name": "v", "mountPath": "/v"}]

    def container(name: str, script: str, **more: Any) -> dict[str, Any]:
        made = {"name": name, "image": "any", "command": ["sh", "-c", script]}
        return made | {"volumeMounts": mount} | more

    inits = [
        container("first", "echo one > /v/word"),
        container("side", TOLD, restartPolicy="Always"),
        container("second", "cat /v/word; echo two >> /v/word"),
    ]
    volumes = [{"name": "v", "emptyDir": {}}]
    pods.run("ordered", "cat /v/word", initContainers=inits, volumes=volumes, volumeMounts=mount)
    pod = pods.ended("ordered")
    assert pod["status"]["phase"] == "Succeeded"
    assert pods.logs("ordered", "--container=base") == "one\ntwo\n"
    assert pods.logs("ordered", "--container=side") == "up\ntold\n"
    assert state_of(pod, "side")["terminated"]["exitCode"] == 0


def test_a_failed_container_is_started_again_and_every_status_is_taken(pods: Pods) -> None:
    script = "echo try; n=$(cat /v/n 2>/dev/null || echo 0); echo $((n+1)) > /v/n; [ $n -ge 3 ]"
    volumes, mount = [{"name": "v", "emptyDir": {}}], [{"name": "v", "mountPath": "/v"}]
    pods.run("again", script, restartPolicy="OnFailure", volumes=volumes, volumeMounts=mount)
    pod = pods.ended("again")
    entry = pod["status"]["containerStatuses"][0]
    assert (pod["status"]["phase"], entry["restartCount"]) == ("Succeeded", 3)
    assert pods.logs("again", "--previous") == "try\n"


def test_a_container_may_have_a_restart_policy_of_its_own(pods: Pods) -> None:
    once = {"name": "once", "image": "any", "command": ["sh", "-c", "exit 4"], "restartPolicy": "Never"}
    body = shell_pod("own", "sleep 0.2; exit 0", restartPolicy="OnFailure")
    body["spec"]["containers"].append(once)
    pods.make("pods", body)
    pod = pods.ended("own")
    entries = {entry["name"]: entry for entry in pod["status"]["containerStatuses"]}
    assert (pod["status"]["phase"], entries["once"]["restartCount"]) == ("Failed", 0)


def test_a_job_with_retries_completes(pods: Pods) -> None:
    spec = shell_pod("x", "[ $(cat /v/n 2>/dev/null) ] || { echo 1 > /v/n; exit 1; }")["spec"]
    spec |= {"restartPolicy": "OnFailure", "volumes": [{"name": "v", "emptyDir": {}}]}
    spec["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
    apply(
        pods,
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "job"},
            "spec": {"template": {"spec": spec}},
        },
    )
    pods.kubectl("wait", "job/job", "--for=condition=Complete", "--timeout=60s")


def test_memory_limits_and_deadlines_end_pods_in_a_kubelets_words(pods: Pods) -> None:
    hungry = "import time; kept = bytearray(300 << 20); time.sleep(60)"
    limits = {"limits": {"memory": "128Mi"}}
    pods.run("greedy", command=["python3", "-c", hungry], resources=limits)
    pods.run("slow", "sleep 60", activeDeadlineSeconds=1)
    assert state_of(pods.ended("greedy"))["terminated"]["reason"] == "OOMKilled"
    assert pods.ended("slow")["status"]["reason"] == "DeadlineExceeded"


def test_what_the_node_does_not_do_is_said_on_the_pod(pods: Pods) -> None:
    body = shell_pod("wishes", STAYS)
    body["spec"]["containers"][0] |= {
        "readinessProbe": {"exec": {"command": ["false"]}},
        "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
    }
    pods.make("pods", body)
    claims = [{"name": "data", "persistentVolumeClaim": {"claimName": "claim"}}]
    pods.make("persistentvolumeclaims", _claim("claim"))
    mount = [{"name": "data", "mountPath": "/data"}]
    pods.make("pods", _bound(shell_pod("claims", volumes=claims, volumeMounts=mount)))
    pods.phase("wishes", "Running")
    assert pods.told("wishes", "NotSupportedByNode") in {
        "this node gives no lifecycle hooks",
        "this node gives no probes: a container counts as ready for as long as it runs",
    }
    words = pods.told("claims", "FailedMount")
    assert "volume type persistentVolumeClaim is not supported by this node" in words
    assert pods.get("claims")["status"]["phase"] == "Pending"


def _claim(name: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    return {"metadata": {"name": name}, "spec": spec}


def _bound(pod: dict[str, Any]) -> dict[str, Any]:
    """Past the scheduler, which would wait for the claim."""
    pod["spec"]["nodeName"] = "runner"
    return pod


# --- what pods are given ----------------------------------------------------------------------


def test_secrets_and_config_maps_reach_variables_and_volumes(pods: Pods) -> None:
    pods.make("secrets", {"metadata": {"name": "keys"}, "stringData": {"token": "s3cret"}})
    pods.make("configmaps", {"metadata": {"name": "settings"}, "data": {"mode": "fast"}})
    volumes = [
        {"name": "keys", "secret": {"secretName": "keys"}},
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "optional", "configMap": {"name": "none", "optional": True}},
    ]
    mounts = [{"name": v["name"], "mountPath": f"/hybrid-test/{v['name']}"} for v in volumes]
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}]
    pods.run(
        "given",
        "cd /hybrid-test; echo $TOKEN $CM_mode; cat keys/token settings/mode; ls optional",
        env=env,
        envFrom=[{"prefix": "CM_", "configMapRef": {"name": "settings"}}],
        volumes=volumes,
        volumeMounts=mounts,
    )
    assert pods.ended("given")["status"]["phase"] == "Succeeded"
    assert pods.logs("given") == "s3cret fast\ns3cretfast"


def test_a_secret_that_comes_late_lets_the_pod_start(pods: Pods) -> None:
    source = {"secretKeyRef": {"name": "late", "key": "word"}}
    pods.run("waits", "echo $WORD", env=[{"name": "WORD", "valueFrom": source}])
    pod = pods.pod_when("waits", lambda pod: "CreateContainerConfigError" in str(pod["status"]))
    assert state_of(pod)["waiting"]["message"] == 'secret "late" not found'
    pods.make("secrets", {"metadata": {"name": "late"}, "stringData": {"word": "found"}})
    pods.ended("waits")
    assert pods.logs("waits") == "found\n"


IN_CLUSTER = """
from kubernetes import client, config
config.load_incluster_config()
api = client.CoreV1Api()
space = open("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read()
print(api.read_namespaced_config_map("mine", space).data["key"])
try:
    api.list_namespaced_secret(space)
except client.ApiException as refused:
    print(refused.status)
who = client.AuthenticationV1Api().create_self_subject_review({"kind": "SelfSubjectReview"}).status.user_info
bound = [who.extra[f"authentication.kubernetes.io/{kind}-name"] for kind in ("pod", "node")]
print(who.username, *bound)
"""


def test_a_client_in_a_pod_finds_the_api_and_may_do_what_its_role_says(pods: Pods) -> None:
    pods.make("serviceaccounts", {"metadata": {"name": "reader"}})
    pods.make("configmaps", {"metadata": {"name": "mine"}, "data": {"key": "value"}})
    pods.kubectl("create", "role", "reads", "--verb=get", "--resource=configmaps", "--resource-name=mine")
    account = f"--serviceaccount={pods.namespace}:reader"
    pods.kubectl("create", "rolebinding", "reads", "--role=reads", account)
    pods.run("client", command=["python3", "-c", IN_CLUSTER], serviceAccountName="reader")
    pod = pods.ended("client")
    words = pods.logs("client").splitlines()
    assert pod["status"]["phase"] == "Succeeded", words
    assert words[:2] == ["value", "403"]
    account = f"system:serviceaccount:{pods.namespace}:reader"
    assert words[2] == f"{account} ['client'] ['runner']"


def test_a_projected_token_has_the_audience_that_was_asked_for(pods: Pods) -> None:
    token = {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}}
    volumes = [{"name": "own", "projected": {"sources": [token]}}]
    mount = [{"name": "own", "mountPath": "/hybrid-test-token"}]
    pods.run("vault", "cat /hybrid-test-token/token", volumes=volumes, volumeMounts=mount)
    pods.ended("vault")
    review = {"spec": {"token": pods.logs("vault"), "audiences": ["vault"]}}
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    answer = pods.plane.request("POST", path, review)[1]["status"]
    assert answer["authenticated"], answer
    assert answer["audiences"] == ["vault"]


# --- kubectl -------------------------------------------------------------------------------


def test_kubectl_shows_lists_and_describes(pods: Pods, plane: ControlPlane) -> None:
    pods.run("shown", STAYS)
    pods.phase("shown", "Running")
    assert re.search(
        r"shown +1/1 +Running +0 +\S+ +127\.0\.0\.1 +runner", pods.kubectl("get", "pods", "-owide")
    )
    assert re.search(r"runner +Ready", plane.kubectl("get", "nodes"))
    pods.told("shown", "Started")
    described = pods.kubectl("describe", "pod", "shown")
    assert {"Scheduled", "Created", "Started"} <= set(re.findall(r"Normal +(\w+)", described))
    assert "shown" in plane.kubectl("describe", "node", "runner")


def test_kubectl_logs_cuts_stamps_and_follows_to_the_end(pods: Pods) -> None:
    pods.run("talks", "for i in 1 2 3; do echo line $i; done; sleep 1; echo last")
    pods.phase("talks", "Running", "Succeeded")
    assert pods.logs("talks", "--follow") == "line 1\nline 2\nline 3\nlast\n"
    assert pods.logs("talks", "--tail=1") == "last\n"
    assert len(pods.logs("talks", "--limit-bytes=4")) == 4
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z line 1\n", pods.logs("talks", "--timestamps"))
    with pytest.raises(KubectlFailed, match="previous terminated container"):
        pods.logs("talks", "--previous")


def test_a_deployment_rolls_out_is_scaled_and_restarted(pods: Pods) -> None:
    apply(pods, deployment(TOLD, replicas=2))
    pods.kubectl("rollout", "status", "deployment/it", "--timeout=60s")
    before = {pod["metadata"]["name"] for pod in pods.all("app=it")}
    pods.kubectl("rollout", "restart", "deployment/it")
    pods.kubectl("rollout", "status", "deployment/it", "--timeout=60s")
    for name in before:
        pods.gone(name)
    pods.kubectl("scale", "deployment/it", "--replicas=0")
    pods.until(lambda: not pods.all("app=it"), "pods of a Deployment of none are still there")


def test_drain_moves_pods_away_and_uncordon_lets_them_come_back(
    pods: Pods, node: RunnerNode, plane: ControlPlane
) -> None:
    apply(pods, deployment(TOLD))
    pods.kubectl("rollout", "status", "deployment/it", "--timeout=60s")
    first = pods.all("app=it")[0]["metadata"]["name"]
    plane.kubectl(
        "drain", node.name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s"
    )
    assert not pods.exists(first)
    second = pods.all("app=it")[0]
    assert second["status"]["phase"] == "Pending"
    plane.kubectl("uncordon", node.name)
    pods.kubectl("rollout", "status", "deployment/it", "--timeout=60s")
    assert pods.get(second["metadata"]["name"])["spec"]["nodeName"] == node.name


# --- ends ----------------------------------------------------------------------------------


def test_a_deleted_pod_gets_sigterm_and_its_grace_and_is_gone(pods: Pods, tmp_path: Path) -> None:
    mark = tmp_path / "told"
    pods.run("leaving", f"trap 'sleep 0.3; echo yes > {mark}; exit 0' TERM; {STAYS}")
    pods.phase("leaving", "Running")
    pods.until(lambda: "up" in pods.logs("leaving"), "never up")
    pods.kubectl("delete", "pod", "leaving", "--grace-period=30", "--timeout=20s")
    assert mark.read_text() == "yes\n"
    assert not pods.exists("leaving")


def test_a_pod_that_ignores_sigterm_is_killed_with_its_whole_tree(pods: Pods) -> None:
    pods.run("stubborn", "trap '' TERM; setsid sleep 4247.17 & while :; do sleep 0.05; done")
    pods.until(lambda: processes("4247.17"), "never ran")
    pods.kubectl("delete", "pod", "stubborn", "--grace-period=1", "--timeout=20s")
    pods.until(lambda: not processes("4247.17"), "a process stayed behind")


def test_a_pod_deleted_by_force_leaves_no_process(pods: Pods) -> None:
    pods.run("forced", "exec sleep 4248.17")
    pods.until(lambda: processes("4248.17"), "never ran")
    pods.kubectl("delete", "pod", "forced", "--grace-period=0", "--force")
    pods.until(lambda: not processes("4248.17"), "a process stayed behind")


def test_a_deleted_namespace_ends_what_runs_in_it(pods: Pods, plane: ControlPlane, namespace: str) -> None:
    other = f"{namespace}-more"
    plane.make_namespace(other)
    Pods(plane, other).run("inside", "exec sleep 4249.17")
    pods.until(lambda: processes("4249.17"), "never ran")
    plane.kubectl("delete", "namespace", other, "--timeout=60s")
    assert not processes("4249.17")


# --- servers that fail -----------------------------------------------------------------------


def test_pods_end_though_the_api_server_is_away_meanwhile(
    pods: Pods, plane: ControlPlane, tmp_path: Path
) -> None:
    go_on = tmp_path / "go-on"
    pods.run("works", f"until [ -e {go_on} ]; do sleep 0.05; done; echo done")
    pods.phase("works", "Running")
    plane.kill("apiserver")
    go_on.touch()
    plane.start("apiserver")
    assert pods.ended("works")["status"]["phase"] == "Succeeded"
    assert pods.logs("works") == "done\n"


def test_a_runner_that_was_killed_says_that_its_pods_are_lost(pods: Pods, node: RunnerNode) -> None:
    pods.run("victim", "exec sleep 4250.17")
    pods.until(lambda: processes("4250.17"), "never ran")
    pods.phase("victim", "Running")
    node.restart()
    pod = pods.ended("victim")
    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "NodeLost")
    assert conditions(pod)["DisruptionTarget"][0] == "True"
    assert not processes("4250.17")


def test_a_node_that_falls_silent_loses_its_pods_to_another_and_may_come_back(
    start_plane: StartPlane,
) -> None:
    plane = start_plane(node_grace_s=6, eviction_s=1)
    # Where every node is silent a control plane takes itself for cut off, and evicts nobody.
    with RunnerNode.started(plane, "one", QUICK) as one, RunnerNode.started(plane, "two", QUICK) as two:
        pods = Pods(plane, "default")
        apply(pods, deployment(STAYS, terminationGracePeriodSeconds=2))
        pods.kubectl("rollout", "status", "deployment/it", "--timeout=60s")
        first = pods.all("app=it")[0]
        silent, other = (one, two) if first["spec"]["nodeName"] == "one" else (two, one)
        name = first["metadata"]["name"]
        silent.kill()
        silent.until_ready_is("Unknown")
        left = pods.pod_when(name, lambda pod: pod["metadata"].get("deletionTimestamp"))
        assert conditions(left)["DisruptionTarget"] == ("True", "DeletionByTaintManager")
        pods.until(lambda: _ready_on(pods, other.name), "no pod took its place")
        assert pods.exists(name), "its node alone may say that it is gone"
        silent.start()
        pods.gone(name)


def _ready_on(pods: Pods, node: str) -> bool:
    found = [pod for pod in pods.all("app=it") if pod["spec"].get("nodeName") == node]
    return any(conditions(pod).get("Ready") == ("True", None) for pod in found)


# --- who may read logs -----------------------------------------------------------------------


def test_logs_are_read_by_whom_the_cluster_lets(pods: Pods, node: RunnerNode, plane: ControlPlane) -> None:
    pods.run("secretive", "echo secret")
    pods.ended("secretive")
    port = node.object()["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    url = f"https://127.0.0.1:{port}/containerLogs/{pods.namespace}/secretive/base"
    nobody = plane.authority.issue("nobody", "nobody")
    asked = plane.authority.issue("asked", "asked", groups=["system:masters"])
    assert _answer(url, None) == (401, "Unauthorized")
    assert _answer(url, nobody) == (403, "nobody may not read logs of this node")
    assert _answer(url, asked) == (200, "secret\n")


def _answer(url: str, identity: Any) -> tuple[int, str]:
    trust = ssl.create_default_context()
    # As an API server that was given no --kubelet-certificate-authority.
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    if identity is not None:
        trust.load_cert_chain(identity.certificate, identity.key)
    try:
        with urllib.request.urlopen(url, context=trust) as answer:  # noqa: S310 - it is https
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


# --- without namespaces ------------------------------------------------------------------------


def test_where_the_machine_allows_no_mounts_pods_run_without_a_token_and_are_told(
    node: RunnerNode, plane: ControlPlane, namespace: str
) -> None:
    pods = Pods(plane, namespace)
    with RunnerNode.started(plane, "bare", (*QUICK, "--no-namespaces", "--label", "bare=yes")):
        pods.run("plain", "echo ran", nodeSelector={"bare": "yes"})
        assert pods.ended("plain")["status"]["phase"] == "Succeeded"
        assert "no service-account token" in pods.told("plain", "NotSupportedByNode")
        assert pods.logs("plain") == "ran\n"
