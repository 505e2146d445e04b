"""Names of Services: CoreDNS as a Deployment, with its account and the Service that kubelet tells pods of.

Answers for the cluster's domain from the API server, and that no other name
exists. Called by ``node.py``.
"""

from typing import Any

from tests.cluster.kubelet.images import DNS
from tests.cluster.kubelet.servers import DNS_ADDRESS, DOMAIN, READY_S
from tests.cluster.plane import ControlPlane

NAMESPACE = "kube-system"
NAME = "coredns"
LABELS = {"k8s-app": "kube-dns"}
# That other names do not exist is said in a block of its own: beside the kubernetes plugin it would hide all.
COREFILE = f"""\
{DOMAIN}:53 in-addr.arpa:53 {{
    errors
    health
    ready
    kubernetes {DOMAIN} in-addr.arpa {{
        pods insecure
        ttl 1
    }}
    loadbalance
}}
.:53 {{
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def start(plane: ControlPlane) -> None:
    """Create it and wait until it answers."""
    plane.apply(*manifests())
    plane.kubectl(
        *("rollout", "status", f"deployment/{NAME}", f"--namespace={NAMESPACE}", f"--timeout={READY_S:.0f}s")
    )


def manifests() -> list[dict[str, Any]]:
    """All objects, with the least that the account needs."""
    return [
        _object("v1", "ServiceAccount", NAME),
        _object("rbac.authorization.k8s.io/v1", "ClusterRole", NAME, rules=_rules()),
        _object(
            *("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", NAME),
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME},
            subjects=[{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
        ),
        _object("v1", "ConfigMap", NAME, data={"Corefile": COREFILE}),
        _object("v1", "Service", "kube-dns", spec=_service()),
        _object("apps/v1", "Deployment", NAME, spec=_deployment()),
    ]


def _object(version: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    metadata = {"name": name} | ({} if kind.startswith("Cluster") else {"namespace": NAMESPACE})
    return {"apiVersion": version, "kind": kind, "metadata": metadata} | more


def _rules() -> list[dict[str, Any]]:
    looks = ["list", "watch"]
    return [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": looks},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": looks},
    ]


def _service() -> dict[str, Any]:
    ports = [
        {"name": f"dns-{protocol.lower()}", "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")
    ]
    return {"clusterIP": DNS_ADDRESS, "selector": LABELS, "ports": ports}


def _deployment() -> dict[str, Any]:
    container = {
        "name": NAME,
        "image": DNS,
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        },
    }
    pod = {
        "serviceAccountName": NAME,
        # Its own names are what it serves.
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": NAME}}],
    }
    return {"selector": {"matchLabels": LABELS}, "template": {"metadata": {"labels": LABELS}, "spec": pod}}
