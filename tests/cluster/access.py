"""Reaching a control plane: kubeconfigs for whoever is to use it, kubectl, and requests as admin.

Starts and stops nothing, so that a second process can use the folder of a
plane that runs. ``plane.ControlPlane`` is one with servers.
"""

import hashlib
import json
import os
import re
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_executor.standalone.stack.ports import LOOPBACK, choose_port
from tests.cluster import build, flags
from tests.cluster.certificates import Authority, Pair, write_kubeconfig
from tests.cluster.servers import NotReady, answer, until

MASTERS = "system:masters"
RBAC = "rbac.authorization.k8s.io"
#: Where the API server was away several times in a row, the controller-manager looks for new namespaces up to
#: a minute after its return: client-go's reflector waits 30 s at most, and as much again by chance
#: (tools/cache/reflector.go, 0.36).
ACCOUNT_S = 120.0


class KubectlFailed(Exception):
    """kubectl ended with an error; the message is what it said."""


class Access:
    """The control plane whose folder this is, which need not run."""

    def __init__(self, folder: Path, host: str = LOOPBACK) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder.resolve()
        self.binary = build.kubernetes()
        self.authority = Authority(self.folder / "pki", "ca")
        self.ports = kept_ports(self._ports_file)
        self.url = f"https://{host}:{self.ports.apiserver}"
        self.ca = self.authority.pair.certificate
        admin = self.authority.issue("admin", "admin", groups=[MASTERS])
        self.admin = self._kubeconfig("admin", admin, "default")
        self.trust = ssl.create_default_context(cafile=str(self.ca))
        self.trust.load_cert_chain(admin.certificate, admin.key)

    @property
    def _ports_file(self) -> Path:
        return self.folder / "ports.json"

    def forget_ports(self) -> None:
        """The next start in this folder chooses anew."""
        self._ports_file.unlink(missing_ok=True)

    # --- identities ------------------------------------------------------------------------

    def user_kubeconfig(self, name: str, groups: Sequence[str] = (), namespace: str = "default") -> Path:
        """For a user by client certificate; RBAC alone says what it may do."""
        file = _file_name(name, groups)
        return self._kubeconfig(file, self.authority.issue(file, name, groups=groups), namespace)

    def node_kubeconfig(self, name: str) -> Path:
        """For the node of this name: Node authorization and NodeRestriction apply."""
        return self.user_kubeconfig(f"system:node:{name}", ["system:nodes"])

    def role_kubeconfig(self, name: str, rules: Sequence[dict[str, Any]], namespace: str = "default") -> Path:
        """For a new user who may do in the namespace what these rules of a Role say, and nothing else."""
        meta = {"name": name, "namespace": namespace}
        role = {"apiVersion": f"{RBAC}/v1", "kind": "Role", "metadata": meta, "rules": list(rules)}
        binding = {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name},
            "subjects": [{"apiGroup": RBAC, "kind": "User", "name": name}],
        }
        self.apply(role, binding)
        return self.user_kubeconfig(name, namespace=namespace)

    def account_kubeconfig(self, name: str, namespace: str = "default", hours: int = 24) -> Path:
        """For an existing ServiceAccount, by a token of the TokenRequest API."""
        token = self.kubectl(
            "create", "token", name, f"--namespace={namespace}", f"--duration={hours}h"
        ).strip()
        path = self.folder / "kubeconfigs" / f"{namespace}.{name}.account"
        return write_kubeconfig(path, self.url, self.ca, token=token, namespace=namespace)

    def server_certificate(self, name: str, hosts: Sequence[str]) -> Pair:
        """For a server that clients of this cluster's CA are to trust, a kubelet's log port say."""
        return self.authority.issue(_file_name(name, hosts), name, hosts=hosts)

    def _kubeconfig(self, name: str, identity: Pair, namespace: str) -> Path:
        path = self.folder / "kubeconfigs" / name
        return write_kubeconfig(path, self.url, self.ca, identity=identity, namespace=namespace)

    # --- requests --------------------------------------------------------------------------

    def kubectl(self, *args: str, kubeconfig: Path | None = None, stdin: str | None = None) -> str:
        """What kubectl prints; as admin unless told otherwise. Raises ``KubectlFailed``."""
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "KUBECONFIG": str(kubeconfig or self.admin),
            "KUBECACHEDIR": str(self.folder / "kubectl"),
        }
        done = subprocess.run(
            [str(self.binary), "kubectl", *args],
            input=stdin,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        if done.returncode:
            raise KubectlFailed(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Server-side apply, as admin."""
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=listed)

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        """One request as admin; the code (0: no answer), and the JSON or else the text."""
        data = None if body is None else json.dumps(body).encode()
        code, text = answer(self.url + path, self.trust, method, data, {"Content-Type": content_type})
        try:
            return code, json.loads(text)
        except ValueError:
            return code, text.decode(errors="replace")

    def make_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Make a namespace; returns when pods can be created in it."""
        meta = {"name": name, "labels": dict(labels or {})}
        code, answer = self.request("POST", "/api/v1/namespaces", {"metadata": meta})
        assert code == 201, answer
        self.wait_for_account(name)

    def wait_for_account(self, namespace: str) -> None:
        """Without its ServiceAccount a namespace refuses pods; the controller-manager makes it."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        until(
            lambda: self.request("GET", path)[0] == 200,
            ACCOUNT_S,
            lambda: NotReady(f"no ServiceAccount appeared in namespace {namespace}"),
        )


def kept_ports(file: Path) -> flags.Ports:
    """The ports in the file, chosen at the first call."""
    if not file.exists():
        chosen: dict[str, int] = {}
        for name in flags.Ports.__dataclass_fields__:
            chosen[name] = choose_port(taken=frozenset(chosen.values()))
        file.write_text(json.dumps(chosen))
    return flags.Ports(**json.loads(file.read_text()))


def _file_name(name: str, more: Sequence[str]) -> str:
    """Distinct for distinct users, and readable."""
    digest = hashlib.sha256(json.dumps([name, *more]).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}-{digest}"
