"""KEDA on a control plane: its operator and its metrics adapter as local processes.

They have the rights that KEDA's own manifests give them and no more: the
ServiceAccount ``keda-operator``, by a token. The API server finds the adapter
through an APIService over a Service of type ExternalName ``localhost``, since
endpoints refuse loopback addresses. Needs no node: what it scales are numbers
of replicas. Used by ``fixture`` and by ``python -m tests.cluster keda``.
"""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from hybrid_executor.standalone.stack.ports import LOOPBACK, choose_port
from hybrid_executor.standalone.stack.secret import write_private
from tests.cluster import build
from tests.cluster.access import Access
from tests.cluster.certificates import Pair
from tests.cluster.servers import Servers, answer, on_free_ports

Part = Literal["operator", "adapter"]
NAMESPACE = "keda"
ACCOUNT = "keda-operator"
SERVICE = "keda-metrics-apiserver"
API = "v1beta1.external.metrics.k8s.io"
_REGISTERED = f"/apis/apiregistration.k8s.io/v1/apiservices/{API}"
#: Of KEDA's manifests: what there is before its two programs start.
MANIFESTS = (
    "general/namespace.yaml",
    "crd/bases",
    "service_account/service_account.yaml",
    "rbac/role.yaml",
    "rbac/role_binding.yaml",
    "metrics-server/role.yaml",
    "metrics-server/role_binding.yaml",
)
#: As long as the certificates.
TOKEN_HOURS = 720


class Keda:
    """Operator and adapter; each can be killed and started again."""

    def __init__(self, plane: Access, folder: Path) -> None:
        self.plane = plane
        self.servers = Servers(folder)
        self.folder = folder.resolve()
        self._programs = build.keda()
        taken: list[int] = []
        for _ in range(5):
            taken.append(choose_port(taken=frozenset(taken)))
        self._grpc, self._metrics, self._probes, self._adapter, self._adapter_metrics = taken
        self._identity = self._certificates()
        #: Who KEDA is; written by ``start``.
        self.kubeconfig = plane.admin

    @classmethod
    @contextmanager
    def started(cls, plane: Access, folder: Path) -> Iterator[Self]:
        """KEDA that scales what is on the plane."""
        keda = on_free_ports(lambda: cls._begun(plane, folder))
        try:
            yield keda
        finally:
            keda.withdraw()
            keda.close()

    @classmethod
    def _begun(cls, plane: Access, folder: Path) -> Self:
        keda = cls(plane, folder)
        try:
            keda.start()
        except BaseException:
            keda.close()
            raise
        return keda

    def start(self, *parts: Part) -> None:
        """Install KEDA if it is not, start these parts or both; returns when metrics are served."""
        if not parts:
            self._install()
        self.kubeconfig = self.plane.account_kubeconfig(ACCOUNT, NAMESPACE, TOKEN_HOURS)
        commands = {"operator": self._operator, "adapter": self._serve_metrics}
        for part in parts or commands:
            self.servers.start(f"keda-{part}", *commands[part]())
        if "keda-operator" in self.servers.pids:
            self.servers.wait("keda-operator", self._operator_is_ready)
        if "keda-adapter" in self.servers.pids:
            self.servers.wait("keda-adapter", self._is_available)

    def heal(self) -> None:
        """Start whatever does not run."""
        parts: tuple[Part, ...] = ("operator", "adapter")
        if missing := [part for part in parts if f"keda-{part}" not in self.servers.pids]:
            self.start(*missing)

    def kill(self, part: Part) -> None:
        """End one part without a word."""
        self.servers.kill(f"keda-{part}")

    def logs(self, part: Part) -> Path:
        return self.servers.log(f"keda-{part}")

    def withdraw(self) -> None:
        """Take its metrics off the API: while a part of that has no server, no namespace ends."""
        self.plane.request("DELETE", _REGISTERED)

    def close(self) -> None:
        """Kill both. What was installed stays."""
        self.servers.close()

    # --- inside ----------------------------------------------------------------------------

    def _install(self) -> None:
        for manifest in MANIFESTS:
            path = self._programs / "config" / manifest
            self.plane.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={path}")
        self.plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        self.plane.apply(*self._registration())

    def _registration(self) -> list[dict[str, Any]]:
        service = {"name": SERVICE, "namespace": NAMESPACE, "port": self._adapter}
        return [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": SERVICE, "namespace": NAMESPACE},
                "spec": {"type": "ExternalName", "externalName": "localhost"},
            },
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": API},
                "spec": {
                    "group": "external.metrics.k8s.io",
                    "version": "v1beta1",
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                    "service": service,
                    "caBundle": b64encode(self.plane.ca.read_bytes()).decode(),
                },
            },
        ]

    def _certificates(self) -> Pair:
        """One certificate for both parts, in a folder with the names that KEDA expects."""
        names = ["localhost", LOOPBACK, f"{SERVICE}.{NAMESPACE}.svc"]
        issued = self.plane.server_certificate("keda", names)
        folder = self.folder / "certs"
        folder.mkdir(exist_ok=True, mode=0o700)
        expected = {"tls.crt": issued.certificate, "tls.key": issued.key, "ca.crt": self.plane.ca}
        for name, file in expected.items():
            write_private(folder / name, file.read_text())
        return Pair(folder / "tls.crt", folder / "tls.key")

    def _environment(self) -> dict[str, str]:
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE,
            "POD_NAMESPACE": NAMESPACE,
            "WATCH_NAMESPACE": "",
        }

    def _operator(self) -> tuple[list[str], dict[str, str]]:
        command = [
            str(self._programs / "keda-operator"),
            f"--cert-dir={self._identity.key.parent}",
            f"--metrics-bind-address={LOOPBACK}:{self._metrics}",
            f"--health-probe-bind-address={LOOPBACK}:{self._probes}",
            f"--metrics-service-bind-address={LOOPBACK}:{self._grpc}",
            "--zap-log-level=info",
            "--zap-encoder=console",
        ]
        return command, self._environment()

    def _serve_metrics(self) -> tuple[list[str], dict[str, str]]:
        command = [
            str(self._programs / "keda-adapter"),
            f"--cert-dir={self._identity.key.parent}",
            f"--tls-cert-file={self._identity.certificate}",
            f"--tls-private-key-file={self._identity.key}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={self._adapter}",
            f"--port={self._adapter_metrics}",
            f"--metrics-service-address=localhost:{self._grpc}",
            f"--kubeconfig={self.kubeconfig}",
            f"--lister-kubeconfig={self.kubeconfig}",
            f"--authentication-kubeconfig={self.kubeconfig}",
            f"--authorization-kubeconfig={self.kubeconfig}",
        ]
        return command, self._environment()

    def _operator_is_ready(self) -> bool:
        return answer(f"http://{LOOPBACK}:{self._probes}/readyz")[0] == 200

    def _is_available(self) -> bool:
        """Whether the API server reaches the adapter."""
        code, service = self.plane.request("GET", _REGISTERED)
        conditions = service.get("status", {}).get("conditions", []) if code == 200 else []
        return any(one["type"] == "Available" and one["status"] == "True" for one in conditions)
