"""How a pod gets its workload: as a file, from a Secret of the pod's own name.

The workload holds the task's token. As an argument, which is the stock way,
it is read by everybody who may read pods; in a Secret, by the pod's own base
container and whoever may read Secrets. Plain values in and out; ``build`` puts
the volume into the manifest, the Kubernetes backend sends the Secret. Why and
in which order: ``docs/adr/0009-the-workload-is-in-a-secret.md``.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any, Protocol

from hybrid_executor.pods.template import BASE

#: The volume that is ours in every pod, whatever a template, an override or a hook called theirs.
VOLUME = "hybrid-executor-workload"
FOLDER = "/var/run/secrets/hybrid-executor"
FILE = "workload.json"
PATH = f"{FOLDER}/{FILE}"
#: For the user of any image, who is not known here. No other container mounts it.
MODE = 0o444


class PodIdentity(Protocol):
    """Which pod it is, among all that ever had its name."""

    namespace: str
    name: str
    uid: str


def arguments(payload: str | None) -> list[str]:
    """Where its program finds the workload; ``payload`` is None where it is in the Secret."""
    return ["--json-path", PATH] if payload is None else ["--json-string", payload]


def mount(pod: dict[str, Any]) -> None:
    """Have the container that runs the task, and no other, mount the pod's Secret. Changes ``pod``."""
    spec = pod["spec"]
    volumes = [volume for volume in spec.get("volumes") or () if volume.get("name") != VOLUME]
    secret = {"secretName": pod["metadata"]["name"], "defaultMode": MODE}
    spec["volumes"] = [*volumes, {"name": VOLUME, "secret": secret}]
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        _unmount(container)
    task = _task_container(spec)
    mounted = {"name": VOLUME, "mountPath": FOLDER, "readOnly": True}
    task["volumeMounts"] = [*(task.get("volumeMounts") or ()), mounted]


def _unmount(container: dict[str, Any]) -> None:
    mounts = container.get("volumeMounts") or ()
    if any(mount["name"] == VOLUME for mount in mounts):
        container["volumeMounts"] = [mount for mount in mounts if mount["name"] != VOLUME]


def _task_container(spec: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` wherever a hook has put it; the first, if it was renamed."""
    containers: list[dict[str, Any]] = spec["containers"]
    return next((c for c in containers if c.get("name") == BASE), containers[0])


def mounts_workload(pod: Mapping[str, Any]) -> bool:
    """Whether a pod can't start without the Secret of its name."""
    return any(volume.get("name") == VOLUME for volume in (pod.get("spec") or {}).get("volumes") or ())


def workload_secret(pod: PodIdentity, labels: Mapping[str, str], payload: str) -> dict[str, Any]:
    """The Secret of a pod that the API server has made: it goes when the pod goes.

    ``blockOwnerDeletion`` stays unset: it would need a right over pods'
    finalizers, and nothing waits for the Secret's end.
    """
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
    metadata = {"name": pod.name, "namespace": pod.namespace, "labels": dict(labels)}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {**metadata, "ownerReferences": [owner]},
        "data": {FILE: base64.b64encode(_ascii(payload)).decode("ascii")},
    }


def _ascii(payload: str) -> bytes:
    """The reader opens the file with the encoding of the image's locale, whatever that is."""
    return (payload if payload.isascii() else json.dumps(json.loads(payload))).encode("ascii")
