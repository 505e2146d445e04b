"""Translates ``executor_config={"KubernetesExecutor": {...}}`` of Airflow 1 and 2 into a partial pod.

The keys are those that Airflow 1.10's ``KubernetesExecutorConfig`` and the
``PodGenerator`` up to Airflow 2 took, with the fields that they ended up in.
What comes out means what ``pod_override`` means. A key that is none of these,
or whose value has another shape, is refused by name. Works on plain values:
``backends/kubernetes/podgenerator.py``, its caller, turns a client's objects
into such first, and checks what comes out against the client's models.
"""

from collections.abc import Callable, Mapping
from typing import Any

from hybrid_executor.model.errors import InvalidPod
from hybrid_executor.pods.fields import as_client_reads
from hybrid_executor.pods.overlay import lay_over
from hybrid_executor.pods.template import BASE, field_name

#: The key of ``executor_config`` that holds the dictionary.
LEGACY_KEY = "KubernetesExecutor"
GCP_ANNOTATION = "iam.cloud.google.com/service-account"
#: What KubernetesPodOperator's sidecar was like when the key ``extract_xcom`` asked for one.
_XCOM_MOUNT = {"name": "xcom", "mountPath": "/airflow/xcom"}
_XCOM_SIDECAR = {
    "name": "airflow-xcom-sidecar",
    "image": "alpine",
    "command": ["sh", "-c", 'trap "exit 0" INT; while true; do sleep 30; done;'],
    "resources": {"requests": {"cpu": "1m"}},
    "volumeMounts": [_XCOM_MOUNT],
}

Partial = dict[str, Any]
Where = tuple[str, ...]

#: Where a value goes as it is, in the pod.
_IN_POD: Mapping[str, Where] = {
    "name": ("metadata", "name"),
    "namespace": ("metadata", "namespace"),
    "labels": ("metadata", "labels"),
    "annotations": ("metadata", "annotations"),
    "gcp_service_account_key": ("metadata", "annotations", GCP_ANNOTATION),
    "node_selectors": ("spec", "nodeSelector"),
    "affinity": ("spec", "affinity"),
    "tolerations": ("spec", "tolerations"),
    "volumes": ("spec", "volumes"),
    "init_containers": ("spec", "initContainers"),
    "restart_policy": ("spec", "restartPolicy"),
    "image_pull_secrets": ("spec", "imagePullSecrets"),
    "service_account_name": ("spec", "serviceAccountName"),
    "hostnetwork": ("spec", "hostNetwork"),
    "security_context": ("spec", "securityContext"),
    "dnspolicy": ("spec", "dnsPolicy"),
    "schedulername": ("spec", "schedulerName"),
    "priority_class_name": ("spec", "priorityClassName"),
}
#: Where a value goes in the container ``base``.
_IN_BASE: Mapping[str, tuple[Where, ...]] = {
    "image": (("image",),),
    "image_pull_policy": (("imagePullPolicy",),),
    "cmds": (("command",),),
    "args": (("args",),),
    "env": (("env",),),
    "envs": (("env",),),
    "configmaps": (("envFrom",),),
    "ports": (("ports",),),
    "volume_mounts": (("volumeMounts",),),
    "resources": (("resources",),),
    "request_cpu": (("resources", "requests", "cpu"),),
    "request_memory": (("resources", "requests", "memory"),),
    "limit_cpu": (("resources", "limits", "cpu"),),
    "limit_memory": (("resources", "limits", "memory"),),
    "limit_gpu": (("resources", "limits", "nvidia.com/gpu"),),
    "ephemeral-storage": (
        ("resources", "requests", "ephemeral-storage"),
        ("resources", "limits", "ephemeral-storage"),
    ),
}
LEGACY_KEYS = tuple(sorted({*_IN_POD, *_IN_BASE, "extract_xcom"}))


def translate(given: Mapping[str, Any]) -> Partial:
    """The dictionary as a partial pod; raises ``InvalidPod`` naming the key that can't be translated."""
    pod: Partial = {"spec": {"containers": [{"name": BASE}]}}
    for key, value in given.items():
        if value is not None:
            pod = lay_over(pod, translate_key(key, value))
    return pod


def translate_key(key: str, value: Any) -> Partial:
    """What one key says, as a partial pod."""
    if key == "extract_xcom":
        return _xcom_sidecar() if value else {}
    if key not in _IN_POD and key not in _IN_BASE:
        raise refused(key, f"is unknown; known are {', '.join(LEGACY_KEYS)}")
    value = _SHAPES.get(key, _as_it_is)(key, value)
    if key in _IN_POD:
        partial = _nested(_IN_POD[key], value)
    else:
        base: Partial = {"name": BASE}
        for where in _IN_BASE[key]:
            base = lay_over(base, _nested(where, value))
        partial = {"spec": {"containers": [base]}}
    problems: list[str] = []
    read = as_client_reads(partial, lambda path, message: problems.append(f"{field_name(path)}: {message}"))
    if problems:
        raise refused(key, "; ".join(problems))
    return dict(read)


def refused(key: str, why: str) -> InvalidPod:
    """The end of an attempt whose dictionary holds ``key``."""
    return InvalidPod(
        f'executor_config "{LEGACY_KEY}": the key {key!r} can\'t be translated: {why}. '
        "Write pod_override, a kubernetes.client.models.V1Pod, instead of the dictionary"
    )


def deprecation(given: Mapping[str, Any]) -> str:
    """What to write instead, key by key."""
    fields = "; ".join(f"{key!r} is {replacement(key)}" for key in given)
    return (
        f'executor_config={{"{LEGACY_KEY}": {{...}}}} is deprecated; it was translated. '
        f'Write executor_config={{"pod_override": kubernetes.client.models.V1Pod(...)}}: {fields}'
    )


def replacement(key: str) -> str:
    """The field of ``pod_override`` that a known key ends up in."""
    if key in _IN_POD:
        return ".".join(_IN_POD[key])
    base = f"spec.containers[{BASE}]"
    if key == "extract_xcom":
        return f"a container {_XCOM_SIDECAR['name']!r} in spec.containers"
    return " and ".join(".".join((base, *where)) for where in _IN_BASE[key])


def _nested(where: Where, value: Any) -> Partial:
    for part in reversed(where):
        value = {part: value}
    return dict(value)


def _xcom_sidecar() -> Partial:
    return {
        "spec": {
            "containers": [{"name": BASE, "volumeMounts": [_XCOM_MOUNT]}, _XCOM_SIDECAR],
            "volumes": [{"name": _XCOM_MOUNT["name"], "emptyDir": {}}],
        }
    }


# --- shapes ---------------------------------------------------------------------------------


def _as_it_is(key: str, value: Any) -> Any:
    if isinstance(value, list | tuple | dict):
        raise refused(key, f"must be one value, not {_kind(value)}")
    return value


def _mapping(key: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise refused(key, f"must be a dictionary, not {_kind(value)}")
    return value


def _mappings(key: str, value: Any) -> Any:
    for item in _list(key, value):
        if not isinstance(item, Mapping):
            raise refused(key, f"must be a list of dictionaries, as in a manifest; {_kind(item)} is none")
    return value


def _list(key: str, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise refused(key, f"must be a list, not {_kind(value)}")
    return value


def _environment(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return [{"name": name, "value": text} for name, text in value.items()]
    return _mappings(key, value)


def _separated(key: str, value: Any) -> list[str]:
    """Names separated by commas, or a list of them."""
    names = value.split(",") if isinstance(value, str) else _list(key, value)
    if not all(isinstance(name, str) for name in names):
        raise refused(key, "must be names")
    return [name.strip() for name in names]


def _kind(value: Any) -> str:
    """The value's own words where it is short, for Airflow's serialization may have made text of it."""
    return f"the text {value[:60]!r}" if isinstance(value, str) else type(value).__name__


_SHAPES: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(
        ("labels", "annotations", "node_selectors", "affinity", "security_context", "resources"), _mapping
    ),
    **dict.fromkeys(("tolerations", "volumes", "init_containers", "ports", "volume_mounts"), _mappings),
    **dict.fromkeys(("cmds", "args"), _list),
    **dict.fromkeys(("env", "envs"), _environment),
    "image_pull_secrets": lambda key, value: [{"name": name} for name in _separated(key, value)],
    "configmaps": lambda key, value: [{"configMapRef": {"name": name}} for name in _separated(key, value)],
}
