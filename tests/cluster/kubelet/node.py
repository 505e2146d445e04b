"""A node with a real kubelet: containers, images, networks, OOM kills and probes as anywhere.

    with enclosure.opened(logs) as place, ControlPlane.started(folder, **plane_options(place)) as plane:
        with KubeletNode.started(plane, place) as node:
            plane.kubectl("run", "x", f"--image={images.TINY}", "--", "true")

or, all of that in one, ``running_cluster(folder)``. Needs root and what
``packages.obstacles`` asks for. The plane is started by the caller, since tests
differ in that; it listens where pods reach it, on the enclosure's ``host``.
Nothing of it outlives its owner, however that ends (see ``enclosure``).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any, Literal, Self

from tests.cluster.kubelet import containerd, dns, enclosure, images, servers, store
from tests.cluster.kubelet.enclosure import Enclosure
from tests.cluster.plane import ControlPlane

Server = Literal["containerd", "kubelet", "kube-proxy"]
#: In the order in which they are started.
SERVERS: tuple[Server, ...] = ("containerd", "kubelet", "kube-proxy")


@dataclass(frozen=True)
class KubeletNode:
    """A node of a plane, Ready; with names of Services."""

    plane: ControlPlane
    place: Enclosure
    name: str

    @classmethod
    @contextmanager
    def started(
        cls,
        plane: ControlPlane,
        place: Enclosure,
        *,
        name: str = "kubelet",
        airflow: bool = False,
    ) -> Iterator[Self]:
        """A Ready node with the tiny images; if asked for also with Python's, Airflow's and a trial's."""
        have = images.python_images() if airflow else []
        if airflow:
            store.furnish(place, have)
        wanted = images.tiny_images()
        if airflow:
            wanted += [images.airflow_image(), *images.trial_images()]
        containerd.start(place, images.PAUSE)
        containerd.import_images(place, wanted, have)
        servers.start_kubelet(place, plane, name)
        servers.start_proxy(place, plane, name)
        dns.start(plane)
        try:
            yield cls(plane, place, name)
        finally:
            for server in ("kube-proxy", "kubelet"):
                place.kill(server)

    @property
    def address(self) -> str:
        """Where node ports are, for this machine and for pods."""
        return self.place.node

    def kill(self, server: Server, signal: int = SIGKILL) -> None:
        """End one of its servers; returns when it is gone. Containers run on."""
        self.place.kill(server, signal)

    def start(self, server: Server) -> None:
        """Start a server again, as it was; returns when it is ready."""
        self.place.start(server)
        if server == "containerd":
            containerd.wait_ready(self.place)
        if server == "kubelet":
            servers.wait_node(self.place, self.plane, self.name)

    def heal(self) -> None:
        """Start whatever of the plane and of the node does not run."""
        self.plane.heal()
        for server in SERVERS:
            if self.place.code(server) is not None:
                self.start(server)

    def log(self, server: Server) -> Path:
        """The log of all its starts."""
        return self.place.log(server)


def plane_options(place: Enclosure) -> dict[str, Any]:
    """What a plane must be told for a node in this place."""
    return {"host": place.host}


@contextmanager
def running_cluster(folder: Path, *, airflow: bool = False, **options: Any) -> Iterator[KubeletNode]:
    """An enclosure, a plane with these options, and its node."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        enclosure.opened(folder) as place,
        ControlPlane.started(folder / "plane", **plane_options(place) | options) as plane,
        KubeletNode.started(plane, place, airflow=airflow) as node,
    ):
        yield node
