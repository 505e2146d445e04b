"""What kube-apiserver fills in: the fields that an object has although nobody wrote them.

Pure; changes the object it is given, which the caller has just parsed.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hybrid_executor.standalone.api.kinds import Kind

Body = dict[str, Any]


def fill(kind: Kind, body: Body) -> None:
    """Fill in the kind's defaults."""
    body["apiVersion"], body["kind"] = kind.api_version, kind.kind
    filler = _FILLERS.get(kind.plural)
    if filler is not None:
        filler(body)


def _fill_pod(body: Body) -> None:
    spec = body["spec"] = without_nulls(body.get("spec") or {})
    for key, value in _POD.items():
        spec.setdefault(key, value)
    spec.setdefault("securityContext", {})
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for container in _containers(spec):
        _fill_container(container)
    for volume in spec.get("volumes") or ():
        _fill_volume(volume)
    _tolerate(spec)


def without_nulls(value: Any) -> Any:
    """The value without members that are null: to Kubernetes they are not there."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


_POD: dict[str, Any] = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "serviceAccountName": "default",
    "schedulerName": "default-scheduler",
    "enableServiceLinks": True,
    "preemptionPolicy": "PreemptLowerPriority",
    "priority": 0,
}


def _containers(spec: Body) -> Iterable[Body]:
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()


def _fill_container(container: Body) -> None:
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("imagePullPolicy", _pull_policy(container.get("image") or ""))
    resources = container.setdefault("resources", {})
    if limits := resources.get("limits"):
        resources["requests"] = {**limits, **(resources.get("requests") or {})}
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
    for variable in container.get("env") or ():
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if isinstance(reference, dict):
            reference.setdefault("apiVersion", "v1")


def _pull_policy(image: str) -> str:
    name = image.rpartition("/")[2]
    tagged = ":" in name or "@" in name
    return "Always" if not tagged or name.endswith(":latest") else "IfNotPresent"


def _fill_volume(volume: Body) -> None:
    for source in ("secret", "configMap", "projected", "downwardAPI"):
        if isinstance(volume.get(source), dict):
            volume[source].setdefault("defaultMode", 0o644)
    if not volume.keys() - {"name"}:
        volume["emptyDir"] = {}


def _tolerate(spec: Body) -> None:
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(item.get("key") == key or not item.get("key") for item in tolerations):
            tolerations.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            )


def quality_of_service(spec: Mapping[str, Any]) -> str:
    """BestEffort, Burstable or Guaranteed."""
    wanted = [container.get("resources") or {} for container in _containers(dict(spec))]
    if not any(item.get("requests") or item.get("limits") for item in wanted):
        return "BestEffort"
    for item in wanted:
        limits, requests = item.get("limits") or {}, item.get("requests") or {}
        if any(limits.get(name) is None or limits[name] != requests.get(name) for name in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"


def _fill_namespace(body: Body) -> None:
    body.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    name = body["metadata"].get("name")
    body["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name


def _fill_secret(body: Body) -> None:
    body.setdefault("type", "Opaque")


_FILLERS: Mapping[str, Callable[[Body], None]] = {
    "pods": _fill_pod,
    "namespaces": _fill_namespace,
    "secrets": _fill_secret,
}
