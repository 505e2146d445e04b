"""kubelet and kube-proxy in an enclosure: their configuration, their start, what says that they are ready.

What is not set here is upstream's default. Called by ``node.py``.
"""

import json
from pathlib import Path
from typing import Any

from tests.cluster.kubelet import containerd
from tests.cluster.kubelet.enclosure import Enclosure
from tests.cluster.plane import ControlPlane
from tests.cluster.servers import NotReady, until

DNS_ADDRESS = "10.96.0.10"
DOMAIN = "cluster.local"
READY_S = 60.0


def kubelet_configuration(enclosure: Enclosure, ca: Path, certificate: Path, key: Path) -> dict[str, Any]:
    """A node that trusts the API server's CA, asks it who may do what, and keeps out of the machine's way."""
    folder = enclosure.folder
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": enclosure.node,
        "readOnlyPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(ca)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "containerRuntimeEndpoint": f"unix://{containerd.SOCKET}",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": DOMAIN,
        # Empty: pods know the names of their cluster and no others.
        "resolvConf": str(folder / "resolv.conf"),
        "podLogsDir": str(folder / "pods"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "staticPodPath": "",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{enclosure.number.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        # Unlike upstream's shares these leave a developer's full disk out of it; memory stays as it is.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "200Mi",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "200Mi",
        },
        # No image may be collected: none can be pulled again.
        "imageGCHighThresholdPercent": 100,
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "10s",
        "shutdownGracePeriod": "0s",
    }


def start_kubelet(enclosure: Enclosure, plane: ControlPlane, name: str) -> None:
    """Start kubelet and wait until the API server calls the node Ready."""
    folder = enclosure.folder
    (folder / "resolv.conf").touch()
    serving = plane.server_certificate(name, [name, enclosure.node])
    config = folder / "kubelet.json"
    config.write_text(
        json.dumps(kubelet_configuration(enclosure, plane.ca, serving.certificate, serving.key), indent=1)
    )
    enclosure.start(
        "kubelet",
        *(str(plane.binary), "kubelet"),
        f"--config={config}",
        f"--kubeconfig={plane.node_kubeconfig(name)}",
        f"--hostname-override={name}",
        f"--node-ip={enclosure.node}",
        f"--root-dir={folder / 'kubelet'}",
        f"--cert-dir={folder / 'kubelet' / 'pki'}",
    )
    wait_node(enclosure, plane, name)


def wait_node(enclosure: Enclosure, plane: ControlPlane, name: str) -> None:
    """Wait until kubelet answers and the node is Ready, after ``start_kubelet`` or a start anew."""

    def ready() -> bool:
        enclosure.check("kubelet")
        if plane.request("GET", f"/api/v1/nodes/{name}/proxy/healthz") != (200, "ok"):
            return False
        code, node = plane.request("GET", f"/api/v1/nodes/{name}")
        conditions = node["status"].get("conditions", []) if code == 200 else []
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    until(ready, READY_S, lambda: NotReady(f"node {name}:\n{enclosure.log('kubelet').read_text()[-4000:]}"))


def proxy_configuration(enclosure: Enclosure, kubeconfig: Path, name: str) -> dict[str, Any]:
    """Rules in nftables, within the enclosure; no setting of the machine's connection tracking."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "bindAddress": enclosure.node,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "hostnameOverride": name,
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": str(enclosure.number.network),
        "detectLocalMode": "ClusterCIDR",
        "nodePortAddresses": [f"{enclosure.node}/32"],
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        # Pods share one bridge: an answer would go straight from pod to pod, past the rule that must turn the
        # address back, unless a kernel shows bridged packets to the rules. This needs no such kernel.
        "nftables": {"masqueradeAll": True, "minSyncPeriod": "0.2s"},
    }


def start_proxy(enclosure: Enclosure, plane: ControlPlane, name: str) -> None:
    """Start kube-proxy and wait until its rules are there."""
    config = enclosure.folder / "proxy.json"
    kubeconfig = plane.user_kubeconfig("system:kube-proxy")
    config.write_text(json.dumps(proxy_configuration(enclosure, kubeconfig, name), indent=1))
    enclosure.start("kube-proxy", str(plane.binary), "kube-proxy", f"--config={config}")

    def has_rules() -> bool:
        enclosure.check("kube-proxy")
        return "kube-proxy" in enclosure.run("nft", "list", "tables")

    until(has_rules, READY_S, lambda: NotReady(enclosure.log("kube-proxy").read_text()[-4000:]))
