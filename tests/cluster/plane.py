"""A real Kubernetes control plane on this machine: etcd, API server, controllers, scheduler.

Needs neither root nor containers. With a CA of its own, RBAC and Node
authorization, bound service-account tokens, the aggregation layer and priority
and fairness, as any cluster has them. Each server can be killed and started
again on its port with its data. It has no node: ``system:node`` kubeconfigs
are given to those that bring one. Nothing outlives its owner (see ``servers``).

    with ControlPlane.started(folder) as plane:
        plane.kubectl("create", "namespace", "x")
        plane.restart("apiserver")

Used by ``fixture``, by ``python -m tests.cluster`` and by the nodes.
"""

import hashlib
import json
import os
import re
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any, Literal, Self

from hybrid_executor.standalone.stack.ports import LOOPBACK, choose_port
from tests.cluster import build, flags
from tests.cluster.certificates import Authority, Pair, signing_key, write_kubeconfig
from tests.cluster.servers import READY_S, NotReady, Servers, answer, until

Server = Literal["etcd", "apiserver", "controller-manager", "scheduler"]
#: In the order in which they are started.
SERVERS: tuple[Server, ...] = ("etcd", "apiserver", "controller-manager", "scheduler")
MASTERS = "system:masters"


class KubectlFailed(Exception):
    """kubectl ended with an error; the message is what it said."""


class ControlPlane:
    """The four servers, and how to reach them. What is in ``folder`` stays between starts."""

    def __init__(self, folder: Path, options: flags.Options | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder.resolve()
        self.options = options or flags.Options()
        self.binary = build.kubernetes()
        self.servers = Servers(self.folder)
        self.authority = Authority(self.folder / "pki", "ca")
        self._ports = self._kept_ports()
        self.url = f"https://{self.options.host}:{self._ports.apiserver}"
        self.ca = self.authority.pair.certificate
        admin = self.authority.issue("admin", "admin", groups=[MASTERS])
        self.admin = self._kubeconfig("admin", admin)
        self._trust = _context(self.ca, admin)
        self._files = self._make_files()

    @classmethod
    @contextmanager
    def started(
        cls,
        folder: Path,
        *,
        host: str = LOOPBACK,
        extra_hosts: Sequence[str] = (),
        apiserver_flags: Sequence[str] = (),
        controllers: str = "*,-nodeipam",
        **more: Any,
    ) -> Iterator[Self]:
        """A running control plane; ``more`` are the other fields of ``flags.Options``."""
        options = flags.Options(
            host=host,
            extra_hosts=extra_hosts,
            apiserver_flags=apiserver_flags,
            controllers=controllers,
            **more,
        )
        plane = cls(folder, options)
        try:
            plane.start()
            yield plane
        finally:
            plane.close()

    # --- life ------------------------------------------------------------------------------

    def start(self, *servers: Server) -> None:
        """Start these servers, or all; returns when they answer and pods can be created."""
        wanted = servers or SERVERS
        for server in wanted:
            self.servers.start(server, self._command(server))
            if server in {"etcd", "apiserver"}:  # the next one needs it
                self.servers.wait(server, partial(self._answers, server))
        for server in wanted:
            self.servers.wait(server, partial(self._answers, server))
        if {"apiserver", "controller-manager"} <= set(self.servers.pids):
            until(self._accepts_pods, READY_S, lambda: NotReady("no ServiceAccount appeared in default"))

    def kill(self, server: Server, signal: Signals = SIGKILL) -> None:
        """End one server, by default without a word; returns when it is gone."""
        self.servers.kill(server, signal)

    def restart(self, server: Server, signal: Signals = SIGKILL) -> None:
        """``kill``, then ``start``: the same port, the same data."""
        self.kill(server, signal)
        self.start(server)

    def close(self) -> None:
        """Kill what runs. The folder stays."""
        self.servers.close()

    def pid(self, server: Server) -> int:
        return self.servers.pid(server)

    def logs(self, server: Server) -> Path:
        """The log of all its starts."""
        return self.servers.log(server)

    # --- identities ------------------------------------------------------------------------

    def user_kubeconfig(self, name: str, groups: Sequence[str] = (), namespace: str = "default") -> Path:
        """For a user by client certificate; RBAC alone says what it may do."""
        file = _file_name(name, groups)
        return self._kubeconfig(file, self.authority.issue(file, name, groups=groups), namespace=namespace)

    def node_kubeconfig(self, name: str) -> Path:
        """For the node of this name: Node authorization and NodeRestriction apply."""
        return self.user_kubeconfig(f"system:node:{name}", ["system:nodes"])

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

    def _kubeconfig(self, name: str, identity: Pair, namespace: str = "default") -> Path:
        path = self.folder / "kubeconfigs" / name
        return write_kubeconfig(path, self.url, self.ca, identity=identity, namespace=namespace)

    # --- requests --------------------------------------------------------------------------

    def kubectl(self, *args: str, kubeconfig: Path | None = None, stdin: str | None = None) -> str:
        """What kubectl prints; as admin unless told otherwise. Raises ``KubectlFailed``."""
        command = [str(self.binary), "kubectl", *args]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "KUBECONFIG": str(kubeconfig or self.admin),
            "KUBECACHEDIR": str(self.folder / "kubectl"),
        }
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, check=False, timeout=300
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
        headers = {"Content-Type": content_type}
        code, text = answer(self.url + path, self._trust, method, data, headers)
        try:
            return code, json.loads(text)
        except ValueError:
            return code, text.decode(errors="replace")

    # --- inside ----------------------------------------------------------------------------

    def _kept_ports(self) -> flags.Ports:
        file = self.folder / "ports.json"
        if not file.exists():
            chosen: dict[str, int] = {}
            for name in flags.Ports.__dataclass_fields__:
                chosen[name] = choose_port(taken=frozenset(chosen.values()))
            file.write_text(json.dumps(chosen))
        return flags.Ports(**json.loads(file.read_text()))

    def _make_files(self) -> flags.Files:
        authority, pki = self.authority, self.folder / "pki"
        front_proxy = Authority(pki, "front-proxy-ca")
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        names += ["kubernetes.default.svc.cluster.local", LOOPBACK, flags.SERVICE_ADDRESS]
        hosts = dict.fromkeys([*names, self.options.host, *self.options.extra_hosts])
        return flags.Files(
            data=self.folder / "etcd",
            ca=authority.pair,
            etcd=authority.issue("etcd", "etcd", hosts=[LOOPBACK]),
            apiserver=authority.issue("apiserver", "kube-apiserver", hosts=list(hosts)),
            kubelet_client=authority.issue(
                "kubelet-client", "kube-apiserver-kubelet-client", groups=[MASTERS]
            ),
            front_proxy=front_proxy.issue("front-proxy", flags.FRONT_PROXY),
            front_proxy_ca=front_proxy.pair,
            tokens=signing_key(pki, "service-accounts"),
            loopback=authority.issue("loopback", "loopback", hosts=[LOOPBACK]),
            controllers=self.user_kubeconfig("system:kube-controller-manager"),
            scheduler=self.user_kubeconfig("system:kube-scheduler"),
        )

    def _command(self, server: Server) -> list[str]:
        of = {
            "etcd": flags.etcd,
            "apiserver": flags.apiserver,
            "controller-manager": flags.controller_manager,
            "scheduler": flags.scheduler,
        }
        return [str(self.binary), *of[server](self._files, self._ports, self.options)]

    def _answers(self, server: Server) -> bool:
        urls = {
            "etcd": f"https://{LOOPBACK}:{self._ports.etcd}/health",
            "apiserver": f"{self.url}/readyz",
            "controller-manager": f"https://{LOOPBACK}:{self._ports.controllers}/healthz",
            "scheduler": f"https://{LOOPBACK}:{self._ports.scheduler}/healthz",
        }
        return answer(urls[server], self._trust)[0] == 200

    def _accepts_pods(self) -> bool:
        """Without its ServiceAccount a namespace refuses pods; the controller-manager makes it."""
        return self.request("GET", "/api/v1/namespaces/default/serviceaccounts/default")[0] == 200


def _context(ca: Path, identity: Pair) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(identity.certificate, identity.key)
    return context


def _file_name(name: str, more: Sequence[str]) -> str:
    """Distinct for distinct users, and readable."""
    digest = hashlib.sha256(json.dumps([name, *more]).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}-{digest}"
