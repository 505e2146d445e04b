"""The Node object and its Lease, from what the command line and the machine say. Pure but for ``machine``."""

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hybrid_executor.standalone.runner.podstate import instant

#: A kubelet's; kube-controller-manager calls a node lost some time after it.
LEASE_S = 40
LEASE_NAMESPACE = "kube-node-lease"
#: Tells a node of processes from one with images.
CONTAINER_RUNTIME = "process://1"


@dataclass(frozen=True)
class NodeDescription:
    """What this node is and offers."""

    name: str
    address: str
    allocatable: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    log_port: int = 0
    #: How long its Lease is good for; it is renewed four times as often.
    lease_s: int = LEASE_S


def machine(max_pods: int, state: Path) -> dict[str, str]:
    """What this machine offers, as Kubernetes quantities; volumes and logs lie under ``state``."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = os.statvfs(state)
    return {
        "cpu": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory // 1024}Ki",
        "ephemeral-storage": f"{disk.f_blocks * disk.f_frsize // 1024}Ki",
        "pods": str(max_pods),
    }


def labels(name: str, extra: Mapping[str, str]) -> dict[str, str]:
    """The well-known ones, and those from the command line."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture,
        **extra,
    }


def node_object(node: NodeDescription) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": dict(node.labels)},
        "spec": {},
    }


def conditions(before: Iterable[Mapping[str, Any]], now: datetime, *, ready: bool) -> list[dict[str, Any]]:
    """The four that a control plane expects of every node; each keeps the time of its last change."""
    words = ("KubeletReady", "the runner is posting ready status")
    if not ready:
        words = ("KubeletNotReady", "the runner is shutting down")
    known = {condition["type"]: condition for condition in before}
    made = [_condition("Ready", ready, words, known, now)]
    return made + [_condition(kind, False, text, known, now) for kind, text in _PRESSURES.items()]


#: Not measured: memory is watched for each container, disks and process ids are not.
_PRESSURES = {
    "MemoryPressure": ("KubeletHasSufficientMemory", "the runner watches the memory of each container"),
    "DiskPressure": ("KubeletHasNoDiskPressure", "the runner does not measure disks"),
    "PIDPressure": ("KubeletHasSufficientPID", "the runner does not count processes"),
}


def _condition(
    kind: str,
    holds: bool,
    words: tuple[str, str],
    known: Mapping[str, Mapping[str, Any]],
    now: datetime,
) -> dict[str, Any]:
    status = "True" if holds else "False"
    old = known.get(kind) or {}
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    return {
        "type": kind,
        "status": status,
        "reason": words[0],
        "message": words[1],
        "lastHeartbeatTime": instant(now),
        "lastTransitionTime": since or instant(now),
    }


def node_status(
    node: NodeDescription, now: datetime, *, before: Iterable[Mapping[str, Any]] = (), ready: bool
) -> dict[str, Any]:
    """The status of the node, as a strategic merge; ``before`` are its conditions as they stand."""
    return {
        # Pods, logs and API are on one machine; a name that only we know would reach nobody.
        "addresses": [
            {"type": "InternalIP", "address": node.address},
            {"type": "Hostname", "address": "localhost"},
        ],
        "allocatable": dict(node.allocatable),
        "capacity": dict(node.allocatable),
        "conditions": conditions(before, now, ready=ready),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": node.log_port}},
        "nodeInfo": {
            "architecture": node.labels["kubernetes.io/arch"],
            "bootID": "",
            "containerRuntimeVersion": CONTAINER_RUNTIME,
            "kernelVersion": platform.release(),
            "kubeProxyVersion": "",
            "kubeletVersion": "v1.36.0-processes",
            "machineID": "",
            "operatingSystem": "linux",
            "osImage": "this machine's own file system",
            "systemUUID": "",
        },
    }


def lease(name: str, uid: str, now: datetime, lease_s: int) -> dict[str, Any]:
    """The Lease of a node; it goes when its Node object goes."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]},
        "spec": lease_spec(name, now, lease_s),
    }


def lease_spec(name: str, now: datetime, lease_s: int) -> dict[str, Any]:
    renewed = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"holderIdentity": name, "leaseDurationSeconds": lease_s, "renewTime": renewed}


def service_environment(server: str) -> dict[str, str]:
    """The variables by which clients inside a pod find the API, which is where the node itself finds it."""
    place = urlsplit(server)
    if place.scheme != "https" or not place.hostname:
        return {}
    port = str(place.port or 443)
    return {
        "KUBERNETES_SERVICE_HOST": place.hostname,
        "KUBERNETES_SERVICE_PORT": port,
        "KUBERNETES_SERVICE_PORT_HTTPS": port,
    }
