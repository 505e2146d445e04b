"""The Node object and its Lease, from what the command line and the machine say. Pure but for ``machine``."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hybrid_executor.standalone.runner.podstatus import instant

#: A kubelet's; kube-controller-manager calls a node lost some time after it.
LEASE_S = 40
LEASE_NAMESPACE = "kube-node-lease"


@dataclass(frozen=True)
class NodeDescription:
    """What this node is and offers."""

    name: str
    address: str
    allocatable: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    log_port: int = 0


def machine(max_pods: int) -> dict[str, str]:
    """What this machine offers, as Kubernetes quantities."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory // 1024}Ki",
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


def node_status(node: NodeDescription, now: datetime, *, since: datetime, ready: bool) -> dict[str, Any]:
    """The status of the node; ``since`` is when its readiness last changed."""
    good = {"reason": "KubeletReady", "message": "the runner is posting ready status"}
    bad = {"reason": "KubeletNotReady", "message": "the runner is shutting down"}
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "lastHeartbeatTime": instant(now),
        "lastTransitionTime": instant(since),
        **(good if ready else bad),
    }
    return {
        "addresses": [
            {"type": "InternalIP", "address": node.address},
            {"type": "Hostname", "address": node.name},
        ],
        "allocatable": dict(node.allocatable),
        "capacity": dict(node.allocatable),
        "conditions": [condition],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": node.log_port}},
        "nodeInfo": {
            "architecture": node.labels["kubernetes.io/arch"],
            "bootID": "",
            "containerRuntimeVersion": "process://1",
            "kernelVersion": platform.release(),
            "kubeProxyVersion": "",
            "kubeletVersion": "v1.36.0-processes",
            "machineID": "",
            "operatingSystem": "linux",
            "osImage": "this machine's own file system",
            "systemUUID": "",
        },
    }


def lease(name: str, now: datetime) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
        "spec": lease_spec(name, now),
    }


def lease_spec(name: str, now: datetime) -> dict[str, Any]:
    renewed = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"holderIdentity": name, "leaseDurationSeconds": LEASE_S, "renewTime": renewed}
