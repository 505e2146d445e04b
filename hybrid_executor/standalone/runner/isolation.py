"""Finds out, once, which namespaces this machine allows, by trying them.

Never guesses from kernel settings: containers, seccomp and AppArmor all have a
say. Called by ``__main__`` before the node is announced.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

#: The program that starts every container.
LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True)
class Isolation:
    """Which namespaces each container gets."""

    user: bool
    mount: bool
    uts: bool
    pid: bool

    def __str__(self) -> str:
        names = [name for name, on in asdict(self).items() if on]
        return ", ".join(names) or "none"


#: From best to least. A user namespace comes before doing without the others.
LADDER: Sequence[Isolation] = (
    Isolation(user=False, mount=True, uts=True, pid=True),
    Isolation(user=True, mount=True, uts=True, pid=True),
    Isolation(user=False, mount=True, uts=True, pid=False),
    Isolation(user=True, mount=True, uts=True, pid=False),
    Isolation(user=False, mount=False, uts=False, pid=False),
)


def allowed(ladder: Sequence[Isolation] = LADDER) -> Isolation:
    """The first rung on which a trial container runs ``true``."""
    return next((rung for rung in ladder[:-1] if _works(rung)), ladder[-1])


def _works(isolation: Isolation) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.mkdir()
        Path(folder, "scratch").mkdir()
        spec = {
            "runner_pid": os.getpid(),
            "argv": ["true"],
            "env": {"PATH": os.defpath},
            "cwd": "/",
            "hostname": "probe",
            "isolation": asdict(isolation),
            "mounts": [{"source": str(source), "target": f"{folder}/new/target", "read_only": True}],
            "scratch": f"{folder}/scratch",
        }
        return run_launcher(spec)


def run_launcher(spec: dict[str, object]) -> bool:
    """Whether a container made from ``spec`` starts and exits with 0."""
    reader, writer = os.pipe()
    spec_fd = in_memory(json.dumps(spec))
    try:
        done = subprocess.run(
            [*launcher_command(), str(spec_fd), str(writer)],
            pass_fds=(spec_fd, writer),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )
        return done.returncode == 0
    finally:
        for descriptor in (reader, writer, spec_fd):
            os.close(descriptor)


def launcher_command() -> list[str]:
    return [sys.executable, "-I", "-S", str(LAUNCHER)]


def in_memory(text: str) -> int:
    """A file descriptor to read ``text`` from, which never touches a disk."""
    descriptor = os.memfd_create("container-spec")
    os.write(descriptor, text.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
