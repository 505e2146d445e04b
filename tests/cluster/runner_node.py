"""A node of processes on a real control plane: the product's own runner, as ``system:node:<name>``.

    with ControlPlane.started(folder) as plane, RunnerNode.started(plane) as node:
        plane.kubectl("run", "x", "--image=any", "--restart=Never", "--command", "--", "true")

Needs neither root nor images: a container is its command, run on this machine's
file system with this virtual environment's programs. The runner knows nothing
of tests and is told here how a cluster's administrator would: by its command line.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any, Self

from tests.cluster.access import Access
from tests.cluster.servers import READY_S, NotReady, Servers, until

NAME = "runner"


class RunnerNode:
    """One runner, which can be killed and started again. Its folder lies in the plane's unless given."""

    def __init__(
        self, plane: Access, name: str = NAME, options: Sequence[str] = (), folder: Path | None = None
    ) -> None:
        self.plane, self.name = plane, name
        self.folder = folder or plane.folder / "nodes" / name
        self._servers = Servers(self.folder)
        self._options = list(options)
        self._kubeconfig = plane.node_kubeconfig(name)

    @classmethod
    @contextmanager
    def started(
        cls, plane: Access, name: str = NAME, options: Sequence[str] = (), folder: Path | None = None
    ) -> Iterator[Self]:
        """A Ready node, which leaves the cluster afterwards; ``options`` are the runner's."""
        node = cls(plane, name, options, folder)
        try:
            node.start()
            yield node
        finally:
            node.close()

    def start(self) -> None:
        """Start it; returns when the scheduler may use it."""
        command = [
            *(sys.executable, "-m", "hybrid_executor.standalone.runner", "--name", self.name),
            *("--kubeconfig", str(self._kubeconfig), "--state", str(self.folder / "state")),
            *("--client-ca", str(self.plane.ca), "--prefix", sys.prefix),
            *self._options,
        ]
        self._servers.start(self.name, command)
        self._servers.wait(self.name, self.is_usable)

    def kill(self, signal: Signals = SIGKILL) -> None:
        """End it, by default without a word; returns when it and its containers are gone."""
        self._servers.kill(self.name, signal)

    def restart(self, signal: Signals = SIGKILL) -> None:
        """``kill``, then ``start`` with the same state."""
        self.kill(signal)
        self.start()

    def close(self) -> None:
        """End it, and take its Node out of the cluster, with what was bound to it."""
        if self.is_running:
            self.kill(SIGTERM)
        self._servers.close()
        code, answer = self.plane.request("DELETE", f"/api/v1/nodes/{self.name}")
        # No answer: the control plane has gone before its node, and nobody is left to be told.
        assert code in {0, 200, 404}, answer

    @property
    def is_running(self) -> bool:
        return self.name in self._servers.pids

    @property
    def state(self) -> Path:
        """Where volumes and logs of its pods lie."""
        return self.folder / "state"

    @property
    def log(self) -> Path:
        """What it said, in all its starts."""
        return self._servers.log(self.name)

    def object(self) -> dict[str, Any]:
        """Its Node, as the API shows it."""
        code, answer = self.plane.request("GET", f"/api/v1/nodes/{self.name}")
        return dict(answer) if code == 200 else {}

    def ready(self) -> str:
        """Whether the API holds it for Ready: True, False or Unknown."""
        conditions = (self.object().get("status") or {}).get("conditions") or []
        return str(next((c["status"] for c in conditions if c["type"] == "Ready"), "Unknown"))

    def is_usable(self) -> bool:
        """Ready, and no taint says otherwise to the scheduler any more."""
        spec = self.object().get("spec") or {}
        return self.ready() == "True" and not spec.get("taints") and not spec.get("unschedulable")

    def until_usable(self, deadline_s: float = READY_S) -> None:
        """Wait until pods can be bound to it."""
        until(self.is_usable, deadline_s, lambda: NotReady(f"{self.name} takes no pods: {self.object()}"))

    def until_ready_is(self, status: str, deadline_s: float = READY_S) -> None:
        """Wait for a word of ``ready``."""
        until(
            lambda: self.ready() == status,
            deadline_s,
            lambda: NotReady(f"{self.name} is {self.ready()}, not {status}; its log is {self.log}"),
        )
