"""What a task's ``pod_override`` says, a real API server, scheduler and kubelet do; and who ends a sidecar.

Pods are made by the product's own maker from a template and the override of
the task, and run a shell script in place of Airflow's command.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kubernetes.client import models as k8s

from hybrid_executor.backends.kubernetes.podgenerator import PodMaker
from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import How, Started
from hybrid_executor.naming import LABEL_DONE
from hybrid_executor.pods.build import PodSettings
from tests.cluster.backend import ClusterHarness, Sender
from tests.cluster.kubelet import images
from tests.cluster.kubelet.node import KubeletNode
from tests.contract.backend_suite import Fate
from tests.fixtures import puppet
from tests.fixtures.kube import until

pytestmark = pytest.mark.timeout(300)

TEMPLATE = f"""
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - {{name: base, image: "{images.TINY}", imagePullPolicy: Never}}
"""
FOREVER = ["sh", "-c", "while :; do sleep 1; done"]


class OverrideHarness(ClusterHarness):
    """Submissions are overrides; the pods are the product's maker's."""

    def send(self, sender: Sender, script: str, spec: k8s.V1PodSpec | None = None, **base: Any) -> Submission:
        spec = spec or k8s.V1PodSpec(containers=[])
        spec.containers = [
            k8s.V1Container(name="base", command=["sh", "-c", script], **base),
            *spec.containers,
        ]
        sent = puppet.submission(Fate.SUCCEEDS)
        sent = replace(sent, executor_config={"pod_override": k8s.V1Pod(spec=spec)})
        sender.send(sent)
        return sent

    def make_pod(self, sent: Submission) -> dict[str, Any]:
        template = self.folder / "template.yaml"
        template.write_text(TEMPLATE)
        settings = PodSettings(
            namespace=self.namespace,
            executor="hybrid_executor.HybridExecutor",
            scheduler_job="0",
            airflow_version="3.3.2",
            workload_secret=True,
        )
        return PodMaker(settings, Templates(str(template))).make(sent)


Start = Callable[..., OverrideHarness]


@pytest.fixture
def start(kubelet: KubeletNode, tmp_path: Path) -> Iterator[Start]:
    namespace = f"override-{uuid4().hex[:10]}"
    kubelet.plane.make_namespace(namespace)
    made: list[OverrideHarness] = []

    def one(**config: Any) -> OverrideHarness:
        made.append(OverrideHarness(kubelet.plane, namespace, tmp_path, **config))
        return made[-1]

    yield one
    for harness in made:
        harness.stop()
    kubelet.plane.request("DELETE", f"/api/v1/namespaces/{namespace}")


def sidecar(**more: Any) -> k8s.V1Container:
    return k8s.V1Container(
        name="proxy", image=images.TINY, image_pull_policy="Never", command=FOREVER, **more
    )


def phase_of(harness: OverrideHarness, sent: Submission) -> str | None:
    """The pod's own phase; None once it is gone."""
    found = harness.pods_of(sent.id)
    return str(found[0]["status"]["phase"]) if found else None


def test_where_as_whom_and_with_what_a_task_runs_is_the_overrides_to_say(
    start: Start, kubelet: KubeletNode
) -> None:
    harness = start()
    sender = Sender(harness, patience_s=90)
    plane, namespace = kubelet.plane, harness.namespace
    high, meta = f"high-{uuid4().hex[:8]}", {"namespace": namespace}
    plane.apply(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": high},
            "value": 7,
        },
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "worker", **meta}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "door", **meta},
            "stringData": {"word": "sesame"},
        },
    )
    term = k8s.V1NodeSelectorRequirement(key="kubernetes.io/os", operator="In", values=["linux"])
    spec = k8s.V1PodSpec(
        containers=[],
        node_selector={"kubernetes.io/hostname": kubelet.name},
        affinity=k8s.V1Affinity(
            node_affinity=k8s.V1NodeAffinity(
                required_during_scheduling_ignored_during_execution=k8s.V1NodeSelector(
                    node_selector_terms=[k8s.V1NodeSelectorTerm(match_expressions=[term])]
                )
            )
        ),
        tolerations=[k8s.V1Toleration(key="spot", operator="Exists", effect="NoSchedule")],
        priority_class_name=high,
        service_account_name="worker",
        init_containers=[
            k8s.V1Container(
                name="fetch",
                image=images.TINY,
                image_pull_policy="Never",
                command=["sh", "-c", "echo fetched > /shared/x"],
                volume_mounts=[k8s.V1VolumeMount(name="shared", mount_path="/shared")],
            )
        ],
        volumes=[
            k8s.V1Volume(name="shared", empty_dir=k8s.V1EmptyDirVolumeSource()),
            k8s.V1Volume(name="door", secret=k8s.V1SecretVolumeSource(secret_name="door")),
        ],
    )
    script = 'test "$(cat /shared/x) $(cat /door/word) $WORD" = "fetched sesame sesame"'
    reference = k8s.V1SecretKeySelector(name="door", key="word")
    try:
        sent = harness.send(
            sender,
            f"{script} && sleep 3",
            spec,
            env=[k8s.V1EnvVar(name="WORD", value_from=k8s.V1EnvVarSource(secret_key_ref=reference))],
            volume_mounts=[
                k8s.V1VolumeMount(name="shared", mount_path="/shared"),
                k8s.V1VolumeMount(name="door", mount_path="/door"),
            ],
        )
        sender.until_kind(Started, [sent.id])
        pod = harness.pod(sent.id)
        assert sender.end(sent.id).how is How.SUCCEEDED
    finally:
        plane.request("DELETE", f"/apis/scheduling.k8s.io/v1/priorityclasses/{high}")
    assert (pod["spec"]["nodeName"], pod["spec"]["priority"]) == (kubelet.name, 7)
    assert pod["spec"]["serviceAccountName"] == "worker"
    assert {"key": "spot", "operator": "Exists", "effect": "NoSchedule"} in pod["spec"]["tolerations"]


@pytest.mark.parametrize("native", [True, False], ids=["native", "plain"])
@pytest.mark.parametrize("code", [0, 3])
def test_an_attempt_ends_when_base_ends_and_takes_its_sidecars_along(
    start: Start, native: bool, code: int
) -> None:
    """Also where the pod is kept to be looked at: nothing in it runs on."""
    harness = start(delete_worker_pods=code == 0)
    sender = Sender(harness, patience_s=90)
    spec = k8s.V1PodSpec(
        containers=[] if native else [sidecar()],
        init_containers=[sidecar(restart_policy="Always")] if native else None,
    )
    sent = harness.send(sender, f"sleep 1; exit {code}", spec)
    end = sender.end(sent.id)
    assert end.how is (How.FAILED if code else How.SUCCEEDED)
    if code:
        assert end.diagnosis is not None
        assert end.diagnosis.exit_code == code
    harness.backend.release([sent.id])
    if code == 0:
        until(lambda: phase_of(harness, sent) is None, "the pod was not deleted", 60)
        return
    until(lambda: phase_of(harness, sent) == "Failed", "a sidecar runs on in a pod that is kept", 60)
    kept = harness.pod(sent.id)
    assert kept["metadata"]["labels"][LABEL_DONE] == "True"
    [base] = [c for c in kept["status"]["containerStatuses"] if c["name"] == "base"]
    assert base["state"]["terminated"]["exitCode"] == code
