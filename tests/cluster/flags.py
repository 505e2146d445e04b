"""The command line of each server of the control plane, as pure functions of where things are.

What is not set here is upstream's default. Extra flags of the caller come last
and so win. Used by ``plane``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybrid_executor.standalone.stack.ports import LOOPBACK
from tests.cluster.certificates import Pair

#: The first address is the Service ``kubernetes``. A node routes this range, so it is small.
SERVICE_RANGE = "10.96.0.0/24"
SERVICE_ADDRESS = "10.96.0.1"
ISSUER = "https://kubernetes.default.svc"
FRONT_PROXY = "front-proxy-client"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a caller may choose about a control plane."""

    #: Where the API server listens; the other servers stay on loopback.
    host: str = LOOPBACK
    #: More names and addresses for its certificate.
    extra_hosts: Sequence[str] = ()
    controllers: str = "*,-nodeipam"
    #: How long a node may be silent until it counts as dead; None leaves upstream's 50 s.
    node_grace_s: int | None = None
    #: How long pods stay on a dead node; None leaves upstream's 300 s.
    eviction_s: int | None = None
    etcd_flags: Sequence[str] = ()
    apiserver_flags: Sequence[str] = ()
    controller_flags: Sequence[str] = ()
    scheduler_flags: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Files:
    """Certificates, keys and kubeconfigs of the servers."""

    data: Path
    ca: Pair
    etcd: Pair
    apiserver: Pair
    #: What the API server shows to nodes, and to aggregated API servers.
    kubelet_client: Pair
    front_proxy: Pair
    front_proxy_ca: Pair
    tokens: Pair
    #: The certificate of whatever listens on loopback for health alone.
    loopback: Pair
    controllers: Path
    scheduler: Path


@dataclass(frozen=True, kw_only=True)
class Ports:
    etcd: int
    peer: int
    apiserver: int
    controllers: int
    scheduler: int


def etcd(files: Files, ports: Ports, options: Options) -> list[str]:
    """One member. Without fsync: what was written survives every kill, not the machine's."""
    client, peer = f"https://{LOOPBACK}:{ports.etcd}", f"https://{LOOPBACK}:{ports.peer}"
    return [
        "etcd",
        "--name=plane",
        f"--data-dir={files.data}",
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=plane={peer}",
        "--client-cert-auth",
        f"--trusted-ca-file={files.ca.certificate}",
        f"--cert-file={files.etcd.certificate}",
        f"--key-file={files.etcd.key}",
        "--peer-client-cert-auth",
        f"--peer-trusted-ca-file={files.ca.certificate}",
        f"--peer-cert-file={files.etcd.certificate}",
        f"--peer-key-file={files.etcd.key}",
        *options.etcd_flags,
    ]


def apiserver(files: Files, ports: Ports, options: Options) -> list[str]:
    """RBAC, Node authorization, bound tokens, aggregation; priority and fairness are on by default."""
    flags = [
        "kube-apiserver",
        f"--bind-address={options.host}",
        f"--advertise-address={options.host}",
        f"--secure-port={ports.apiserver}",
        f"--tls-cert-file={files.apiserver.certificate}",
        f"--tls-private-key-file={files.apiserver.key}",
        f"--client-ca-file={files.ca.certificate}",
        f"--etcd-servers=https://{LOOPBACK}:{ports.etcd}",
        f"--etcd-cafile={files.ca.certificate}",
        f"--etcd-certfile={files.etcd.certificate}",
        f"--etcd-keyfile={files.etcd.key}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={files.tokens.certificate}",
        f"--service-account-signing-key-file={files.tokens.key}",
        f"--kubelet-client-certificate={files.kubelet_client.certificate}",
        f"--kubelet-client-key={files.kubelet_client.key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={files.front_proxy_ca.certificate}",
        f"--requestheader-allowed-names={FRONT_PROXY}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={files.front_proxy.certificate}",
        f"--proxy-client-key-file={files.front_proxy.key}",
        "--profiling=false",
    ]
    if options.host == LOOPBACK:
        # Endpoints refuse loopback addresses; the Service "kubernetes" then has none.
        flags.append("--endpoint-reconciler-type=none")
    if options.eviction_s is not None:
        flags += [f"--default-{taint}-toleration-seconds={options.eviction_s}" for taint in _NODE_TAINTS]
    return [*flags, *options.apiserver_flags]


_NODE_TAINTS = ("not-ready", "unreachable")


def controller_manager(files: Files, ports: Ports, options: Options) -> list[str]:
    """All controllers but the one that hands out pod networks; autoscalers look every 2 s, not every 15."""
    flags = [
        "kube-controller-manager",
        *_beside(files, files.controllers, ports.controllers),
        f"--controllers={options.controllers}",
        "--use-service-account-credentials=true",
        # Each controller first asks for a token of its own: at 20 a second that is most of a start.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        f"--service-account-private-key-file={files.tokens.key}",
        f"--root-ca-file={files.ca.certificate}",
        f"--cluster-signing-cert-file={files.ca.certificate}",
        f"--cluster-signing-key-file={files.ca.key}",
        "--horizontal-pod-autoscaler-sync-period=2s",
    ]
    if options.node_grace_s is not None:
        flags += ["--node-monitor-period=1s", f"--node-monitor-grace-period={options.node_grace_s}s"]
    return [*flags, *options.controller_flags]


def scheduler(files: Files, ports: Ports, options: Options) -> list[str]:
    """Upstream's default profile."""
    return ["kube-scheduler", *_beside(files, files.scheduler, ports.scheduler), *options.scheduler_flags]


def _beside(files: Files, kubeconfig: Path, port: int) -> list[str]:
    """What the controller-manager and the scheduler have in common. There is one of each: no election."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        f"--tls-cert-file={files.loopback.certificate}",
        f"--tls-private-key-file={files.loopback.key}",
        "--leader-elect=false",
        "--profiling=false",
    ]
