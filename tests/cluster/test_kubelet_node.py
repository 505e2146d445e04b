"""The node with a real kubelet does what the tests on it rely on."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cluster import build
from tests.cluster.access import KubectlFailed
from tests.cluster.kubelet import enclosure, images
from tests.cluster.kubelet.inside import KERNEL
from tests.cluster.kubelet.leftovers import Number, leftovers
from tests.cluster.kubelet.node import KubeletNode, running_cluster
from tests.cluster.kubelet.workload import DEADLINE_S, Workload
from tests.cluster.listening import listeners
from tests.cluster.servers import start_time
from tests.fixtures.kube import until

#: What ``serve`` serves.
PAGE = "/srv/index.html"
#: Asks the API server by its name, with the pod's account, trusting the CA that the pod was given.
ASK = """
import json, ssl, sys, urllib.error, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount"
trust = ssl.create_default_context(cafile=f"{account}/ca.crt")
token = open(f"{account}/token").read()
for path in sys.argv[1:]:
    url = "https://kubernetes.default.svc" + path
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        print(urllib.request.urlopen(request, context=trust).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""


# --- pods ----------------------------------------------------------------------------------


def test_the_node_is_ready_and_says_what_it_runs(kubelet: KubeletNode) -> None:
    code, node = kubelet.plane.request("GET", f"/api/v1/nodes/{kubelet.name}")
    assert code == 200
    said = node["status"]["nodeInfo"]
    assert said["kubeletVersion"] == build.KUBERNETES.version_of("k8s.io/kubernetes")
    assert said["containerRuntimeVersion"].startswith("containerd://")
    assert {"type": "InternalIP", "address": kubelet.address} in node["status"]["addresses"]


def test_a_pod_runs_and_ends_with_the_code_of_its_process(workload: Workload) -> None:
    workload.run("well", "true")
    workload.run("badly", "sh", "-c", "exit 3")
    assert workload.end_of("well")["exitCode"] == 0
    assert workload.end_of("badly")["exitCode"] == 3
    assert workload.get("badly")["status"]["phase"] == "Failed"


def test_logs_exec_and_port_forward_reach_into_a_pod(workload: Workload) -> None:
    workload.serve("web", service=False)
    assert workload.kubectl("exec", "web", "--", "cat", PAGE) == "web\n"
    with pytest.raises(KubectlFailed, match="exit code 7"):
        workload.kubectl("exec", "web", "--", "sh", "-c", "exit 7")
    workload.run("says", "sh", "-c", "echo error >&2; echo one; echo two")
    assert sorted(workload.output("says").split()) == ["error", "one", "two"]
    assert workload.kubectl("logs", "web", "--tail=1") == "serves\n"
    environment = os.environ | {"KUBECONFIG": str(workload.plane.admin)}
    command = [str(workload.plane.binary), "kubectl", "port-forward", "pod/web", ":8080"]
    with subprocess.Popen(
        [*command, f"--namespace={workload.namespace}", "--address=127.0.0.1"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as forward:
        assert forward.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())
        assert found
        assert fetch(f"http://127.0.0.1:{found[1]}/index.html") == "web"
        forward.kill()


def test_secrets_config_maps_and_empty_folders_are_mounted(workload: Workload) -> None:
    workload.apply("Secret", "hidden", stringData={"word": "sesame"})
    workload.apply("ConfigMap", "plain", data={"word": "open", "more": "ignored"})
    script = "cat /secret/word /config /env; echo $WORD > /shared/x; cat /shared/x; stat -c %a /secret/word"
    pod = workload.pod("reads", "sh", "-c", script.replace(" /env", ""))
    container = pod["spec"]["containers"][0]
    container["env"] = [
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "word"}}},
    ]
    container["volumeMounts"] = [
        {"name": "secret", "mountPath": "/secret"},
        {"name": "config", "mountPath": "/config", "subPath": "word"},
        {"name": "shared", "mountPath": "/shared"},
    ]
    pod["spec"]["volumes"] = [
        {"name": "secret", "secret": {"secretName": "hidden"}},
        {"name": "config", "configMap": {"name": "plain"}},
        {"name": "shared", "emptyDir": {}},
    ]
    workload.create(pod)
    assert workload.output("reads").startswith("sesameopensesame\n")


def test_the_kernel_kills_what_takes_more_memory_than_its_limit(workload: Workload) -> None:
    workload.run("greedy", "tail", "/dev/zero", resources={"limits": {"memory": "32Mi"}})
    end = workload.end_of("greedy")
    assert (end["reason"], end["exitCode"]) == ("OOMKilled", 137)


def test_an_image_that_cannot_be_pulled_is_asked_for_ever_less_often(workload: Workload) -> None:
    workload.run("absent", "true", image=f"{images.REGISTRY}/absent:1", imagePullPolicy="IfNotPresent")
    workload.run("never", "true", image=f"{images.REGISTRY}/absent:1")
    seen: list[str] = []

    def backs_off() -> bool:
        reason = workload.waiting_for("absent")
        if reason and reason not in seen:
            seen.append(reason)
        return reason == "ImagePullBackOff"

    until(backs_off, f"no ImagePullBackOff, but {seen}", DEADLINE_S)
    assert seen[-2:] == ["ErrImagePull", "ImagePullBackOff"]
    workload.until("never", lambda _: workload.waiting_for("never") == "ErrImageNeverPull", "refused")


def test_a_failing_liveness_probe_restarts_and_a_failing_readiness_probe_unlists(workload: Workload) -> None:
    pod = workload.pod("ill", "sleep", "600")
    pod["spec"]["restartPolicy"] = "Always"
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    pod["spec"]["containers"][0]["livenessProbe"] = probe
    workload.create(pod)
    workload.serve("web")
    workload.until("ill", lambda _: workload.container("ill").get("restartCount", 0) >= 1, "restarted")
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{workload.namespace}/endpointslices"

    def ready() -> list[bool]:
        _, found = workload.plane.request("GET", slices)
        endpoints = [one for item in found["items"] for one in item["endpoints"] or []]
        return [one["conditions"]["ready"] for one in endpoints]

    until(lambda: ready() == [True], "the Service has no endpoint", DEADLINE_S)
    workload.kubectl("exec", "web", "--", "rm", PAGE)
    until(lambda: ready() == [False], "a pod that is not ready is still listed", DEADLINE_S)


def test_a_disruption_budget_holds_an_eviction_back(workload: Workload) -> None:
    workload.serve("kept", service=False)
    selector = {"matchLabels": {"app": "kept"}}
    workload.apply("PodDisruptionBudget", "kept", "policy/v1", spec={"minAvailable": 1, "selector": selector})
    path = f"{workload.pods}/kept/eviction"
    order = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "kept"}}
    until(lambda: observed(workload, "kept"), "nobody looked at the budget", DEADLINE_S)
    code, answer = workload.plane.request("POST", path, order)
    assert (code, answer["reason"]) == (429, "TooManyRequests")
    workload.kubectl("delete", "poddisruptionbudget", "kept")
    assert workload.plane.request("POST", path, order)[0] == 201
    gone = f"{workload.pods}/kept"
    until(lambda: workload.plane.request("GET", gone)[0] == 404, "the pod stayed", DEADLINE_S)


def observed(workload: Workload, name: str) -> bool:
    path = f"/apis/policy/v1/namespaces/{workload.namespace}/poddisruptionbudgets/{name}"
    status = workload.plane.request("GET", path)[1].get("status", {})
    return bool(status.get("currentHealthy") == 1)


# --- network -------------------------------------------------------------------------------


def test_a_service_is_found_by_name_from_other_pods_and_from_its_own(workload: Workload) -> None:
    workload.serve("web", type="NodePort")
    workload.serve("other", clusterIP="None")
    url = f"http://web.{workload.namespace}.svc.cluster.local/index.html"
    workload.run("asks", "wget", "-qO-", "http://web/index.html", url, "http://other:8080/index.html")
    assert workload.output("asks").split() == ["web", "web", "other"]
    # By its short name a pod knows itself without asking anybody.
    own = workload.kubectl("exec", "web", "--", "wget", "-qO-", url)
    assert own == "web\n", "a pod that is its own server"


def test_a_node_port_answers_on_the_node(workload: Workload, kubelet: KubeletNode) -> None:
    workload.serve("web", type="NodePort")
    _, service = workload.plane.request("GET", f"/api/v1/namespaces/{workload.namespace}/services/web")
    port = service["spec"]["ports"][0]["nodePort"]
    url = f"http://{kubelet.address}:{port}/index.html"
    assert until(lambda: fetch(url), "no answer at the node's port", DEADLINE_S) == "web"


def test_pods_reach_nothing_outside(workload: Workload, kubelet: KubeletNode) -> None:
    port = kubelet.plane.url.rpartition(":")[2]
    script = f"""
    nc -w 2 {kubelet.place.host} {port} < /dev/null && echo host
    for address in {" ".join(addresses_here() | {"192.0.2.1", "8.8.8.8"})}; do
        nc -w 2 $address {port} < /dev/null 2>&1
    done
    nslookup example.com | grep NXDOMAIN
    """
    workload.run("tries", "sh", "-c", script)
    said = workload.output("tries")
    assert said.splitlines()[0] == "host"
    assert "open" not in said
    assert said.count("Network is unreachable") == len(addresses_here() | {"192.0.2.1", "8.8.8.8"}), said


def test_an_account_may_do_from_a_pod_what_its_role_allows(workload: Workload) -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    workload.apply("Role", "looks", "rbac.authorization.k8s.io/v1", rules=rules)
    workload.apply(
        *("RoleBinding", "looks", "rbac.authorization.k8s.io/v1"),
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "looks"},
        subjects=[{"kind": "ServiceAccount", "name": "default", "namespace": workload.namespace}],
    )
    secrets = f"/api/v1/namespaces/{workload.namespace}/secrets"
    workload.run("asks", "python3", "-c", ASK, workload.pods, secrets, image=images.PYTHON)
    assert workload.output("asks").split() == ["200", "403"]


# --- Airflow -------------------------------------------------------------------------------


def test_the_airflow_image_runs_airflow_and_this_project_as_its_user(workload: Workload) -> None:
    workload.run("airflow", image=images.AIRFLOW)
    script = (
        "id -u; hybrid-executor --version; python -c 'import hybrid_executor, sys; print(sys.executable)'"
    )
    pod = workload.pod("project", image=images.AIRFLOW, args=["sh", "-c", script])
    pod["spec"]["securityContext"] = {"runAsNonRoot": True, "runAsUser": 50000}
    workload.create(pod)
    assert workload.output("airflow").strip().splitlines()[-1] == airflow_version()
    said = workload.output("project").split()
    assert (said[0], said[-1]) == ("50000", "/opt/venv/bin/python")


def airflow_version() -> str:
    found = re.search(r"^apache-airflow==(\S+)", Path("requirements.lock").read_text(), re.MULTILINE)
    assert found
    return found[1]


# --- its life ------------------------------------------------------------------------------


def test_containers_run_on_while_kubelet_and_containerd_are_away(
    workload: Workload, kubelet: KubeletNode
) -> None:
    workload.serve("web", service=False)
    kubelet.kill("kubelet")
    kubelet.kill("containerd")
    kubelet.start("containerd")
    kubelet.start("kubelet")
    # It answers before it has heard of its pods.
    until(lambda: page_of(workload, "web") == "web\n", "the pod is not found again", DEADLINE_S)
    assert workload.container("web")["restartCount"] == 0


def page_of(workload: Workload, name: str) -> str:
    try:
        return workload.kubectl("exec", name, "--", "cat", PAGE)
    except KubectlFailed as error:
        return str(error)


def test_its_servers_listen_on_loopback_and_the_bridge_alone(kubelet: KubeletNode) -> None:
    # Pods have networks of their own.
    network = Path(f"/proc/{kubelet.place.pid}/ns/net").readlink()
    servers = {pid for pid in kubelet.place.processes() if Path(f"/proc/{pid}/ns/net").readlink() == network}
    heard = {str(address) for address, _ in listeners(servers)}
    assert kubelet.address in heard
    assert heard <= {"127.0.0.1", "::1", kubelet.address}


def test_a_node_that_ends_leaves_nothing_and_changes_nothing(node_possible: None, tmp_path: Path) -> None:
    before = settings_here()
    with running_cluster(tmp_path / "cluster") as node:
        Workload(node.plane, "default").run("sleeps", "sleep", "600")
        Workload(node.plane, "default").until_ready("sleeps")
        ids = {pid: start_time(pid) for pid in node.place.processes()}
        assert len(ids) > 5
        assert settings_here() == before, "a setting of the machine"
    assert remains(node.place.number, ids) == []
    assert settings_here() == before


def test_what_a_killed_owner_left_is_gone_after_the_next_start(node_possible: None, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "cluster")], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        told = owner.stdout.readline()
        assert told, "the owner ended"
        n, pids = json.loads(told)
        ids = {pid: start_time(pid) for pid in pids}
        owner.kill()
    until(lambda: not living(ids), f"processes outlive their owner: {living(ids)}", DEADLINE_S)
    with enclosure.opened(tmp_path):
        pass
    # Another session's node may have got the number at once.
    number = Number(n)
    holder = until(lambda: number.hold() or "taken", "never", 1)
    if holder != "taken":
        with holder:
            assert remains(number, ids) == []


#: Starts a cluster with a pod, says its number and processes, and waits to be killed.
OWNER = """
import json, sys, time
from pathlib import Path
from tests.cluster.kubelet.node import running_cluster
from tests.cluster.kubelet.workload import Workload

with running_cluster(Path(sys.argv[1])) as node:
    workload = Workload(node.plane, "default")
    workload.run("sleeps", "sleep", "600")
    workload.until_ready("sleeps")
    servers = {node.plane.pid(name) for name in ("etcd", "apiserver", "controller-manager", "scheduler")}
    print(json.dumps([node.place.number.n, sorted(node.place.processes() | servers)]), flush=True)
    time.sleep(600)
"""


def test_who_cannot_run_a_node_is_told_which_tests_it_did_not_run(tmp_path: Path) -> None:
    """As an ordinary user: a process that isn't root, in a namespace of its own where need be."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'b'}"]
    command += [f"{__file__}::test_pods_reach_nothing_outside", f"{__file__}::{pod_test.__name__}"]
    if os.geteuid() == 0:
        command = ["unshare", "--user", "--map-user=1000", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 tests not run: they need a real kubelet" in done.stdout
    assert "why: not root" in done.stdout
    assert re.search(rf"^ +1\. .*::{pod_test.__name__}$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^ +2\. .*::test_pods_reach_nothing_outside$", done.stdout, re.MULTILINE), done.stdout


pod_test = test_a_pod_runs_and_ends_with_the_code_of_its_process


# --- words ---------------------------------------------------------------------------------


def fetch(url: str) -> str:
    """The text at a URL, "" while nobody answers. No proxy is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return str(answer.read().decode().strip())
    except OSError:
        return ""


def remains(number: Number, ids: dict[int, int | None]) -> list[str]:
    """What is still there of a node that ended: by the names that it bore, and the processes that it had."""
    named = [item for item in leftovers() if item.endswith(number.name)]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if number.name in line]
    return [*named, *mounts, *(f"process {pid}" for pid in living(ids))]


def living(ids: dict[int, int | None]) -> list[int]:
    return [pid for pid, began in ids.items() if start_time(pid) == began is not None]


def settings_here() -> dict[str, str]:
    """What a kubelet, a kube-proxy or a network plugin is known to change on its machine."""
    names = [
        *KERNEL,
        "net/ipv4/ip_forward",
        "net/ipv4/conf/all/route_localnet",
        "net/netfilter/nf_conntrack_max",
    ]
    files = [Path("/proc/sys", name) for name in names]
    found = {file.name: file.read_text() for file in files if file.exists()}
    for command in ("nft list ruleset", "ip route show table all type local scope host dev lo"):
        found[command] = subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout
    found["named networks"] = ", ".join(sorted(path.name for path in Path("/run/netns").glob("*")))
    return found


def addresses_here() -> set[str]:
    """This machine's addresses but loopback and those of nodes."""
    told = subprocess.run(["ip", "-json", "-4", "address"], check=True, capture_output=True, text=True).stdout
    return {
        address["local"]
        for link in json.loads(told)
        for address in link["addr_info"]
        if link["ifname"] != "lo" and not link["ifname"].startswith("hexnode")
    }
