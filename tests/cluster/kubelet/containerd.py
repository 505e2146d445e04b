"""containerd and runc in an enclosure: configuration, pod network, start, import of images.

Uses the distribution's programs; its own folders, its own socket, in namespaces
of its own. Pulls nothing: images are imported, and the enclosure has no way out.
Called by ``node.py``.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.flags import SERVICE_RANGE
from tests.cluster.kubelet import oci
from tests.cluster.kubelet.enclosure import Enclosure
from tests.cluster.kubelet.packages import cni_folder
from tests.cluster.servers import NotReady, until

SOCKET = "/run/containerd/containerd.sock"
READY_S = 20.0

CONFIG = """\
version = 2
root = "{root}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
stream_server_address = "127.0.0.1"
# A profile would be loaded into the kernel, and stay there.
disable_apparmor = true
# Root may lack CAP_SYS_RESOURCE, in a virtual machine of a CI service say. Without this, runc then ends with
# "can't get final child's PID from pipe: EOF" whenever a container is to be spared by the OOM killer.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "{folder}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def start(enclosure: Enclosure, pause: str) -> None:
    """Write the configuration, start, and wait until the socket answers."""
    place = enclosure.folder
    config = place / "containerd.toml"
    config.write_text(
        CONFIG.format(folder=place, root=folder(enclosure), socket=SOCKET, pause=pause, cni=cni_folder())
    )
    (place / "cni").mkdir()
    (place / "cni" / "pods.conflist").write_text(json.dumps(pod_network(enclosure), indent=1))
    enclosure.start("containerd", "containerd", "--config", str(config))
    wait_ready(enclosure)


def wait_ready(enclosure: Enclosure) -> None:
    """Wait until the socket answers, after ``start`` or a start anew."""

    def answers() -> bool:
        enclosure.check("containerd")
        return (
            subprocess.run(enclosure.command(*ctr("version")), capture_output=True, check=False).returncode
            == 0
        )

    until(answers, READY_S, lambda: NotReady(enclosure.log("containerd").read_text()[-3000:]))


def ctr(*arguments: str) -> list[str]:
    """A command of containerd's own client, among the images and containers of Kubernetes."""
    return ["ctr", f"--address={SOCKET}", "--namespace=k8s.io", *arguments]


def folder(enclosure: Enclosure) -> Path:
    """Where it keeps images and containers."""
    return enclosure.folder / "containerd"


def import_images(enclosure: Enclosure, images: Sequence[oci.Image], have: Sequence[oci.Image] = ()) -> None:
    """Import images; their archive is made as it is read, without the layers of those that are there."""
    command = enclosure.command(*ctr("images", "import", "-"))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for piece in oci.archive(images, have):
            process.stdin.write(piece)
        process.stdin.close()
        said = process.stdout.read().decode(errors="replace")
    assert process.returncode == 0, f"ctr images import: {process.returncode}\n{said}"


def pod_network(enclosure: Enclosure) -> dict[str, object]:
    """Addresses on the enclosure's bridge, a route to Services by way of the node, and no other route."""
    ranges = {
        "subnet": str(enclosure.number.network),
        "rangeStart": str(enclosure.number.network[10]),
        "rangeEnd": str(enclosure.number.network[250]),
        "gateway": enclosure.node,
    }
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": False,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(enclosure.folder / "addresses"),
            "ranges": [[ranges]],
            "routes": [{"dst": SERVICE_RANGE, "gw": enclosure.node}],
        },
    }
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}
