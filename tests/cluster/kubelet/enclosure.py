"""Where a node lives: network, mount and process namespaces of its own, and one link from here to its bridge.

    this machine                          | the node's namespaces
    hexnodeN 198.18.N.1  <--- veth --->   | uplink ─ bridge "pods" 198.18.N.2 ─ pods 198.18.N.10 …

The API server listens on ``host``, which pods reach as they reach each other;
there is no route to anything else, so no pod, and no pull of an image, gets out.
The machine's own rules, routes and settings stay as they are. All that exists
outside of the namespaces bears the number N (see ``leftovers``); whoever opens an
enclosure next removes what a dead one left. Called by ``node.py`` and the store.
"""

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.kubelet import cgroups, inside, packages
from tests.cluster.kubelet.leftovers import NUMBERS, RANGE, Number, sweep

DEADLINE_S = 20.0


class Enclosure:
    """Open namespaces, and the processes in them."""

    def __init__(self, number: Number, logs: Path) -> None:
        self.number = number
        self.folder = number.folder
        self.logs = logs
        #: This machine, as the node and its pods see it.
        self.host = str(number.network[1])
        #: The node, as this machine and its pods see it.
        self.node = str(number.network[2])
        self._argv: dict[str, list[str]] = {}
        self._first = subprocess.Popen(
            [
                *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"),
                *(sys.executable, "-I", "-S", inside.__file__),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PATH": packages.PATH},
            # Ctrl-C is for the tests; they close this when they are done.
            start_new_session=True,
        )
        #: Process 1, as this machine calls it.
        self.pid: int = self._answer()["pid"]

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Ask process 1 for something."""
        assert self._first.stdin is not None
        self._first.stdin.write(json.dumps({"do": do} | request) + "\n")
        self._first.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._first.stdout is not None
        line = self._first.stdout.readline()
        assert line, f"process 1 of {self.number.name} ended with {self._first.wait(DEADLINE_S)}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def command(self, *argv: str) -> list[str]:
        """The same command, run inside."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--wdns=/", *argv]

    def run(self, *argv: str, stdin: Any = None, text: str | None = None) -> str:
        """Run a command inside to its end; answers its output."""
        done = subprocess.run(
            self.command(*argv), stdin=stdin, input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, *argv: str) -> None:
        """Start a server inside; without a command: with the one that it had."""
        self._argv[name] = list(argv) or self._argv[name]
        self.ask("start", name=name, argv=self._argv[name], log=str(self.log(name)))

    def log(self, name: str) -> Path:
        """Where a server writes."""
        return self.logs / f"{name}.log"

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a server and wait until it has."""
        self.ask("signal", name=name, number=int(number))
        deadline = time.monotonic() + DEADLINE_S
        while self.code(name) is None:
            assert time.monotonic() < deadline, f"{name} does not end on signal {number}"
            time.sleep(0.02)

    def code(self, name: str) -> int | None:
        """How a server ended, None while it runs."""
        code: int | None = self.ask("poll", name=name)["code"]
        return code

    def check(self, name: str) -> None:
        """Tell the end of a server's log if it has ended."""
        code = self.code(name)
        assert code is None, f"{name} ended with {code}:\n{self.log(name).read_text()[-3000:]}"

    def connect(self) -> None:
        """Make the bridge, and the link to it."""
        length = self.number.network.prefixlen
        outside = self.number.name
        peer = ("type", "veth", "peer", "name", "uplink", "netns", str(self.pid))
        here: list[tuple[str, ...]] = [
            ("link", "add", outside, *peer),
            ("link", "set", outside, "addrgenmode", "none"),
            ("address", "add", f"{self.host}/{length}", "dev", outside),
            ("link", "set", outside, "up"),
        ]
        there: list[tuple[str, ...]] = [
            ("link", "set", "lo", "up"),
            ("link", "add", "pods", "type", "bridge"),
            ("link", "set", "uplink", "master", "pods", "up"),
            ("address", "add", f"{self.node}/{length}", "dev", "pods"),
            ("link", "set", "pods", "up"),
        ]
        for arguments in here:
            subprocess.run(["ip", *arguments], check=True, env=os.environ | {"PATH": packages.PATH})
        for arguments in there:
            self.run("ip", *arguments)

    def processes(self) -> set[int]:
        """Servers and containers, by their ids outside: process 1 and all that descend from it."""
        parents = {}
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
                continue
        found, more = set(), {self.pid}
        while more:
            found |= more
            more = {pid for pid, parent in parents.items() if parent in more}
        return found

    def close(self) -> None:
        """End every process inside, and with them the namespaces."""
        assert self._first.stdin is not None
        assert self._first.stdout is not None
        self._first.stdin.close()
        self._first.wait(DEADLINE_S)
        self._first.stdout.close()


@contextmanager
def opened(logs: Path) -> Iterator[Enclosure]:
    """An enclosure of a free number, with its link up; what dead owners left is removed first."""
    sweep()
    number, holder = _free_number()
    with holder:
        try:
            number.folder.mkdir(parents=True)
            cgroups.make(number.name)
            enclosure = Enclosure(number, logs)
            try:
                enclosure.connect()
                yield enclosure
            finally:
                enclosure.close()
        finally:
            number.sweep()


def _free_number() -> tuple[Number, socket.socket]:
    routes = _routes()
    for number in map(Number, NUMBERS):
        if any(number.network.overlaps(route) for route in routes):
            continue
        holder = number.hold()
        if holder is not None:
            return number, holder
    raise AssertionError(f"no network below {RANGE}.0.0/16 is free")


def _routes() -> list[ipaddress.IPv4Network]:
    told = json.loads(
        subprocess.run(["ip", "-json", "-4", "route"], check=True, capture_output=True, text=True).stdout
    )
    return [ipaddress.IPv4Network(route["dst"]) for route in told if route["dst"] != "default"]
