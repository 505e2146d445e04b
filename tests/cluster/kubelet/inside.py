"""Process 1 of a node's namespaces: starts the node's servers, and takes them along when it ends.

It ends when its standard input does, that is when whoever opened the enclosure
closes it or dies; the kernel then kills whatever else is in the process
namespace, and with the last process go its mounts, links and packet rules.
Reads a JSON request a line, answers with a JSON object a line. Uses the standard
library alone and knows nothing of Kubernetes. Started by ``enclosure.py``.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Folders that servers write to under fixed names: the node gets empty ones.
EMPTY = ("/run", "/var/lib", "/var/log")
#: kubelet sets these for the whole machine unless they are so already: it is shown that they are.
KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
#: These belong to the network namespace.
NETWORK = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
}


def furnish() -> None:
    """Give the new namespaces their own /proc, /sys and empty folders, and kernel settings to look at."""
    _mount("--make-rprivate", "/")
    _mount("-t", "proc", "proc", "/proc")
    _own_sys()
    for folder in EMPTY:
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    shown = Path("/run/kernel")
    shown.mkdir()
    for name, value in KERNEL.items():
        file = shown / name.replace("/", ".")
        file.write_text(f"{value}\n")
        _mount("--bind", str(file), f"/proc/sys/{name}")
    for name, value in NETWORK.items():
        setting = Path("/proc/sys/net", name)
        if setting.exists():
            setting.write_text(value)
    # Volumes that a pod mounts are to be seen by the pods beside it.
    _mount("--make-rshared", "/")


def _own_sys() -> None:
    """A view of /sys with the links of this network namespace; control groups stay those of the machine."""
    # Not below /run: mount itself keeps a file there, and would write it among the control groups.
    kept = "/var/lib"
    _mount("--rbind", "/sys/fs/cgroup", kept)
    _mount("-t", "sysfs", "sysfs", "/sys")
    _mount("--rbind", kept, "/sys/fs/cgroup")
    subprocess.run(["umount", "--recursive", kept], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


class Servers:
    """The processes started here, by name, and how they ended."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._codes: dict[int, int] = {}

    def start(self, name: str, argv: list[str], log: str) -> dict[str, Any]:
        """Start a program in a session of its own."""
        with Path(log).open("ab") as output:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._pids[name] = process.pid
        # It is reaped here like any orphan.
        process.returncode = 0
        return {}

    def signal(self, name: str, number: int) -> dict[str, Any]:
        """Signal a program, if it still runs."""
        if self._pids[name] not in self._codes:
            os.kill(self._pids[name], number)
        return {}

    def poll(self, name: str) -> dict[str, Any]:
        """How it ended; None while it runs."""
        return {"code": self._codes.get(self._pids[name])}

    def reap(self) -> None:
        """Take notice of all that ended: children, and orphans of all the namespace."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._pids.values():
                self._codes[pid] = os.waitstatus_to_exitcode(status)


def main() -> None:
    """Furnish, say the process id that others know this by, and serve until the input ends."""
    known_as = int(Path("/proc/self").readlink().name)
    furnish()
    servers = Servers()
    actions: dict[str, Callable[..., dict[str, Any]]] = {
        "start": servers.start,
        "signal": servers.signal,
        "poll": servers.poll,
    }
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _answer({"pid": known_as})
    while True:
        ready, _, _ = select.select([sys.stdin, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
        servers.reap()
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            request = json.loads(line)
            _answer(actions[request.pop("do")](**request))


def _answer(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
