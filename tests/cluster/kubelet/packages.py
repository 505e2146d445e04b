"""What a node needs of the machine: root, a few of the distribution's programs, features of the kernel.

    python -m tests.cluster.kubelet.packages     install the programs that are missing (apt-get, as root)

Looks for programs, not for packages: those of another vendor will do, and are
left alone. Never touches a package source. Called by ``make test-cluster``,
``.ci/run`` and the plugin that says which tests cannot run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fixtures.debian import install

#: Program → Debian's package of it.
PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "mmdebstrap": "mmdebstrap",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
}
CNI_PACKAGE = "containernetworking-plugins"
CNI = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
#: Many shells of ordinary users leave the last two out.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def program(name: str) -> str | None:
    """Where a program is."""
    return shutil.which(name, path=PATH)


def cni_folder() -> str | None:
    """Where the plugins for pod networks are."""
    return next((folder for folder in CNI if Path(folder, "bridge").exists()), None)


def missing() -> list[str]:
    """The packages to install, without doubles."""
    wanted = [package for name, package in PACKAGES.items() if program(name) is None]
    if program("busybox") and not _is_static("busybox"):
        wanted.append(PACKAGES["busybox"])
    if cni_folder() is None:
        wanted.append(CNI_PACKAGE)
    return list(dict.fromkeys(wanted))


def _is_static(name: str) -> bool:
    """Whether it runs in an image that has no library."""
    path = program(name)
    return (
        path is not None and subprocess.run(["ldd", path], capture_output=True, check=False).returncode != 0
    )


def obstacles() -> list[str]:
    """Why no node can run here, each in a few words; empty where one can."""
    if os.geteuid() != 0:
        return ["not root"]
    found = [f"no {package} (python -m tests.cluster.kubelet.packages)" for package in missing()]
    if not Path("/sys/fs/cgroup").is_mount():
        found.append("no control groups in /sys/fs/cgroup")
    if not Path("/dev/kmsg").exists():
        found.append("no /dev/kmsg, which kubelet reads OOM kills from")
    found += _hidden_folders()
    if not found:
        said = {reason: _fault(command) for reason, command in TRIALS.items()}
        found += [f"{reason} ({fault})" for reason, fault in said.items() if fault]
    return found


def _hidden_folders() -> list[str]:
    """Folders that servers read and that lie where a node has empty ones of its own."""
    # Imported here: installing needs nothing of the enclosure.
    from tests.cluster.kubelet.inside import EMPTY
    from tests.cluster.kubelet.leftovers import state_root

    wanted = {"XDG_CACHE_HOME": state_root(), "TMPDIR": Path(tempfile.gettempdir())}
    return [
        f"{folder} is below {hidden}: set {name}"
        for name, folder in wanted.items()
        for hidden in EMPTY
        if folder.resolve().is_relative_to(hidden)
    ]


#: What the kernel must be able to do; tried in namespaces of their own, which take everything along.
TRIALS = {
    "no network, mount and process namespaces": "true",
    "no bridges or veth pairs": "ip link add name br0 type bridge"
    " && ip link add name veth0 type veth peer name veth1",
    "no nf_tables": "nft add table ip t && nft add chain ip t c '{ type nat hook prerouting priority 0; }'",
    "no overlay file system on the folder for images": "mkdir l u w m"
    " && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w overlay m",
}


def _fault(command: str) -> str:
    """What goes wrong with a command in namespaces of its own; "" if nothing does."""
    from tests.cluster.kubelet.leftovers import state_root

    state_root().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=state_root().parent, prefix="trial-") as folder:
        trial = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", command]
        done = subprocess.run(
            trial, cwd=folder, env=os.environ | {"PATH": PATH}, capture_output=True, text=True, check=False
        )
    return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else ""


def main() -> int:
    """Install what is missing, and say so, and what else is in the way."""
    wanted = missing()
    if not wanted:
        print("kubelet node: all programs are here")
    elif os.geteuid() != 0:
        print(f"kubelet node: missing {' '.join(wanted)}; only root can install them")
    elif program("apt-get") is None:
        print(f"kubelet node: missing {' '.join(wanted)}, and there is no apt-get here to install them")
    else:
        begin = time.monotonic()
        print(f"kubelet node: installing {' '.join(wanted)} …", flush=True)
        install(wanted)
        print(f"kubelet node: installed in {time.monotonic() - begin:.0f} s")
    for reason in obstacles():
        print(f"kubelet node: cannot run here: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
