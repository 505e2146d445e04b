"""Which sockets processes listen on, as the kernel says; asks no process. Used by tests."""

import sys
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

Address = IPv4Address | IPv6Address
LISTEN = "0A"
#: A UDP socket that is bound and connected to no one has the state that TCP calls closed.
BOUND = "07"


def listeners(pids: Iterable[int]) -> set[tuple[Address, int]]:
    """The addresses and ports at which any of the processes takes connections or datagrams."""
    found: set[tuple[Address, int]] = set()
    for pid in pids:
        mine = _sockets(pid)
        for protocol, state in (("tcp", LISTEN), ("tcp6", LISTEN), ("udp", BOUND), ("udp6", BOUND)):
            found |= {place for inode, place in _table(pid, protocol, state) if inode in mine}
    return found


def _sockets(pid: int) -> set[str]:
    """Inodes of the sockets that a process has open."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(file.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            found.add(target.removeprefix("socket:[").removesuffix("]"))
    return found


def _table(pid: int, protocol: str, state: str) -> Iterator[tuple[str, tuple[Address, int]]]:
    try:
        lines = Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]
    except FileNotFoundError:  # a kernel without IPv6
        return
    for line in lines:
        fields = line.split()
        if fields[3] == state:
            address, port = fields[1].split(":")
            yield fields[9], (_address(address), int(port, 16))


def _address(text: str) -> Address:
    """The kernel prints words of four bytes in the machine's order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    return ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
