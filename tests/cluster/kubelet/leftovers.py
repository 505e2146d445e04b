"""What an enclosure is called outside of its namespaces, and the removal of what dead ones left.

A link, a control group and a folder bear its number. The number is held by a
name of an abstract socket, which the kernel frees when its holder dies in
whatever way; so what bears a number that nobody holds is a leftover. Never
touches what bears a number that somebody holds. Called by the enclosure.
"""

import ipaddress
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.kubelet import cgroups
from tests.cluster.kubelet.packages import PATH

NAME = "hexnode"
#: The range that is set aside for tests of network devices (RFC 2544): nobody lives there.
RANGE = "198.18"
NUMBERS = range(1, 250)


@dataclass(frozen=True)
class Number:
    """What an enclosure is called outside."""

    n: int

    @property
    def name(self) -> str:
        """Of the link and of the control group."""
        return f"{NAME}{self.n}"

    @property
    def folder(self) -> Path:
        """For large files: images and containers. Not in /tmp, which may be memory."""
        return state_root() / self.name

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"{RANGE}.{self.n}.0/24")

    def hold(self) -> socket.socket | None:
        """Take the number until the socket is closed; None if somebody has it."""
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            holder.bind(f"\0{self.name}")
        except OSError:
            holder.close()
            return None
        return holder

    def sweep(self) -> None:
        """Remove what bears the number. Only for who holds it."""
        if Path("/sys/class/net", self.name).exists():
            # It goes by itself with the namespace that it leads to, if a little later.
            subprocess.run(
                ["ip", "link", "delete", self.name],
                check=False,
                capture_output=True,
                env=os.environ | {"PATH": PATH},
            )
        cgroups.remove(self.name)
        shutil.rmtree(self.folder, ignore_errors=True)


def state_root() -> Path:
    """The folder with the folders of all numbers."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hybrid-executor" / "nodes"


def leftovers() -> set[str]:
    """What stands outside of namespaces for any enclosure, of the living as well."""
    links = {f"link {path.name}" for path in Path("/sys/class/net").glob(f"{NAME}*")}
    groups = {f"control group {name}" for name in cgroups.names(NAME)}
    folders = {f"folder {path}" for path in state_root().glob("*")}
    return links | groups | folders


def sweep() -> None:
    """Remove what was left by enclosures whose owner was killed."""
    found = {int(item.rpartition(NAME)[2]) for item in leftovers()}
    for number in map(Number, sorted(found)):
        holder = number.hold()
        if holder is not None:
            with holder:
                number.sweep()
