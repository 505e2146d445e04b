"""Each key of Airflow 1's and 2's dictionary becomes the field that it became there."""

from typing import Any

import pytest

from hybrid_executor.model.errors import InvalidPod
from hybrid_executor.pods.legacy import LEGACY_KEYS, deprecation, replacement, translate


def base(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "base", **fields}]}}


def pod(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "base"}], **fields}}


def metadata(**fields: Any) -> dict[str, Any]:
    return pod() | {"metadata": fields}


VOLUME = {"name": "data", "hostPath": {"path": "/tmp"}}  # noqa: S108
MOUNT = {"name": "data", "mountPath": "/data"}
AFFINITY = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}
#: The examples of Airflow 1.10's and 2's own documentation, and what their PodGenerator made of them.
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "image": ("airflow/ci:latest", base(image="airflow/ci:latest")),
    "image_pull_policy": ("Always", base(imagePullPolicy="Always")),
    "request_memory": ("128Mi", base(resources={"requests": {"memory": "128Mi"}})),
    "request_cpu": (2, base(resources={"requests": {"cpu": "2"}})),
    "limit_memory": ("1Gi", base(resources={"limits": {"memory": "1Gi"}})),
    "limit_cpu": ("1000m", base(resources={"limits": {"cpu": "1000m"}})),
    "limit_gpu": (1, base(resources={"limits": {"nvidia.com/gpu": "1"}})),
    "ephemeral-storage": (
        "2Gi",
        base(resources={"requests": {"ephemeral-storage": "2Gi"}, "limits": {"ephemeral-storage": "2Gi"}}),
    ),
    "resources": ({"limits": {"cpu": 1}}, base(resources={"limits": {"cpu": "1"}})),
    "cmds": (["sh"], base(command=["sh"])),
    "args": (("-c", "x"), base(args=["-c", "x"])),
    "env": ({"A": 1}, base(env=[{"name": "A", "value": "1"}])),
    "envs": ([{"name": "A", "value": "x"}], base(env=[{"name": "A", "value": "x"}])),
    "configmaps": (
        ["one", "two"],
        base(envFrom=[{"configMapRef": {"name": "one"}}, {"configMapRef": {"name": "two"}}]),
    ),
    "ports": ([{"containerPort": 80}], base(ports=[{"containerPort": 80}])),
    "volume_mounts": ([MOUNT], base(volumeMounts=[MOUNT])),
    "name": ("mine", metadata(name="mine")),
    "namespace": ("etl", metadata(namespace="etl")),
    "labels": ({"foo": "bar"}, metadata(labels={"foo": "bar"})),
    "annotations": ({"test": "annotation"}, metadata(annotations={"test": "annotation"})),
    "gcp_service_account_key": (
        "key",
        metadata(annotations={"iam.cloud.google.com/service-account": "key"}),
    ),
    "node_selectors": ({"disk": "ssd"}, pod(nodeSelector={"disk": "ssd"})),
    "affinity": (AFFINITY, pod(affinity=AFFINITY)),
    "tolerations": (
        [{"key": "dedicated", "operator": "Equal", "value": "airflow"}],
        pod(tolerations=[{"key": "dedicated", "operator": "Equal", "value": "airflow"}]),
    ),
    "volumes": ([VOLUME], pod(volumes=[VOLUME])),
    "init_containers": (
        [{"name": "init", "image": "i"}],
        pod(initContainers=[{"name": "init", "image": "i"}]),
    ),
    "restart_policy": ("Never", pod(restartPolicy="Never")),
    "image_pull_secrets": ("a,b", pod(imagePullSecrets=[{"name": "a"}, {"name": "b"}])),
    "service_account_name": ("worker", pod(serviceAccountName="worker")),
    "hostnetwork": (True, pod(hostNetwork=True)),
    "security_context": ({"runAsUser": "1"}, pod(securityContext={"runAsUser": 1})),
    "dnspolicy": ("Default", pod(dnsPolicy="Default")),
    "schedulername": ("mine", pod(schedulerName="mine")),
    "priority_class_name": ("high", pod(priorityClassName="high")),
}


@pytest.mark.parametrize("key", CASES)
def test_a_key_becomes_its_field(key: str) -> None:
    value, manifest = CASES[key]
    assert translate({key: value}) == manifest
    assert replacement(key) in deprecation({key: value})


def test_every_key_has_its_example() -> None:
    assert {*CASES, "extract_xcom"} == set(LEGACY_KEYS)


def test_the_xcom_sidecar_stands_behind_the_task() -> None:
    made = translate({"extract_xcom": True, "volumes": [VOLUME], "volume_mounts": [MOUNT]})
    task, sidecar = made["spec"]["containers"]
    assert (task["name"], sidecar["name"]) == ("base", "airflow-xcom-sidecar")
    assert [mount["mountPath"] for mount in task["volumeMounts"]] == ["/airflow/xcom", "/data"]
    assert [volume["name"] for volume in made["spec"]["volumes"]] == ["xcom", "data"]
    assert translate({"extract_xcom": False}) == pod()


def test_keys_of_one_field_go_together() -> None:
    made = translate(
        {
            "request_cpu": "1",
            "limit_cpu": "2",
            "request_memory": None,
            "annotations": {"a": "b"},
            "gcp_service_account_key": "key",
        }
    )
    assert made["spec"]["containers"] == [
        {"name": "base", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}
    ]
    assert made["metadata"]["annotations"] == {"a": "b", "iam.cloud.google.com/service-account": "key"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("pod", {"spec": {}}, "is unknown; known are affinity, "),
        ("request_ram", "1Gi", "is unknown"),
        ("volumes", ["{'name': 'data'}"], "must be a list of dictionaries, as in a manifest; the text"),
        ("volumes", {"name": "data"}, "must be a list, not dict"),
        ("labels", ["a"], "must be a dictionary, not list"),
        ("image", ["a"], "must be one value, not list"),
        ("configmaps", [1], "must be names"),
        ("security_context", {"runAsUser": "root"}, "spec.securityContext.runAsUser: must be a whole number"),
        ("hostnetwork", "yes", "spec.hostNetwork: must be true or false"),
    ],
)
def test_a_key_that_cannot_be_translated_is_refused_by_name(key: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidPod) as caught:
        translate({key: value})
    assert f"the key {key!r} can't be translated: " in str(caught.value)
    assert said in str(caught.value)
