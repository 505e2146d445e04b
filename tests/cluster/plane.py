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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any, Literal, Self

from hybrid_executor.standalone.stack.ports import LOOPBACK
from tests.cluster import flags
from tests.cluster.access import MASTERS, Access
from tests.cluster.certificates import Authority, signing_key
from tests.cluster.servers import Servers, answer, on_free_ports

Server = Literal["etcd", "apiserver", "controller-manager", "scheduler"]
#: In the order in which they are started.
SERVERS: tuple[Server, ...] = ("etcd", "apiserver", "controller-manager", "scheduler")


class ControlPlane(Access):
    """The four servers, and how to reach them. What is in ``folder`` stays between starts."""

    def __init__(self, folder: Path, options: flags.Options | None = None) -> None:
        self.options = options or flags.Options()
        super().__init__(folder, self.options.host)
        self.servers = Servers(self.folder)
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
        plane = on_free_ports(lambda: cls._begun(folder, options))
        try:
            yield plane
        finally:
            plane.close()

    @classmethod
    def _begun(cls, folder: Path, options: flags.Options) -> Self:
        plane = cls(folder, options)
        try:
            plane.start()
        except BaseException:
            plane.close()
            plane.forget_ports()
            raise
        return plane

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
            self.wait_for_account("default")

    def kill(self, server: Server, signal: Signals = SIGKILL) -> None:
        """End one server, by default without a word; returns when it is gone."""
        self.servers.kill(server, signal)

    def restart(self, server: Server, signal: Signals = SIGKILL) -> None:
        """``kill``, then ``start``: the same port, the same data."""
        self.kill(server, signal)
        self.start(server)

    def heal(self) -> None:
        """Start whatever does not run."""
        if missing := [server for server in SERVERS if server not in self.servers.pids]:
            self.start(*missing)

    def close(self) -> None:
        """Kill what runs. The folder stays."""
        self.servers.close()

    def pid(self, server: Server) -> int:
        return self.servers.pid(server)

    def logs(self, server: Server) -> Path:
        """The log of all its starts."""
        return self.servers.log(server)

    # --- inside ----------------------------------------------------------------------------

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
        return [str(self.binary), *of[server](self._files, self.ports, self.options)]

    def _answers(self, server: Server) -> bool:
        urls = {
            "etcd": f"https://{LOOPBACK}:{self.ports.etcd}/health",
            "apiserver": f"{self.url}/readyz",
            "controller-manager": f"https://{LOOPBACK}:{self.ports.controllers}/healthz",
            "scheduler": f"https://{LOOPBACK}:{self.ports.scheduler}/healthz",
        }
        return answer(urls[server], self.trust)[0] == 200
