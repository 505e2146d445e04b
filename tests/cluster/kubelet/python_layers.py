"""Python packages for an image: installed from outside for the image's interpreter, compiled by it.

The environment of an image is ``/opt/venv``. Nothing of this machine's Python
gets in, whatever its version: uv is told the interpreter's version and platform,
and the scripts are pointed at it. Called by ``layers.py``.
"""

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.kubelet.oci import Layer
from tests.cluster.kubelet.packages import PATH

ROOT = Path(__file__).parents[3]
VENV = "opt/venv"
#: tar's: whoever runs in the image may read everything, however private this user's files are.
MODE = "--mode=u+rwX,go+rX,go-w"
#: In namespaces that take the mounts along: compileall's processes need /dev/shm.
COMPILE = """\
set -e
mount -t tmpfs tmpfs "$1/dev/shm"
mkdir -p "$1/opt"
mount --bind "$2/opt" "$1/opt"
exec chroot "$1" /usr/bin/python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib
"""


class CannotInstall(Exception):
    """uv is missing or failed; the message says what to do."""


@dataclass(frozen=True)
class Target:
    """The environment below a folder, for the Python of a base."""

    tree: Path
    version: str

    @property
    def packages(self) -> Path:
        return self.tree / VENV / "lib" / f"python{self.version}" / "site-packages"

    def install(self, *what: str) -> None:
        """Install distributions, and their scripts for the image's Python."""
        self.packages.mkdir(parents=True, exist_ok=True)
        run_uv(
            *("pip", "install", "--quiet", "--target", str(self.packages)),
            *("--python-version", self.version),
            *("--python-platform", f"{platform.machine()}-manylinux_2_36"),
            *what,
        )
        scripts = self.tree / VENV / "bin"
        scripts.mkdir(exist_ok=True)
        for script in (self.packages / "bin").glob("*"):
            # A new file: this one may be a hard link into uv's cache.
            (scripts / script.name).write_bytes(_pointed(script.read_bytes()))
            (scripts / script.name).chmod(0o755)
        shutil.rmtree(self.packages / "bin", ignore_errors=True)


def _pointed(script: bytes) -> bytes:
    """The same, run by the environment's interpreter if it is a Python script."""
    first, newline, rest = script.partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        first = f"#!/{VENV}/bin/python".encode()
    return first + newline + rest


def make_environment(tree: Path, version: str) -> None:
    """What makes a folder a virtual environment."""
    programs = tree / VENV / "bin"
    programs.mkdir(parents=True)
    (tree / VENV / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for name in ("python", "python3", f"python{version}"):
        (programs / name).symlink_to(f"/usr/bin/python{version}")


@contextmanager
def compiled(base: Layer, tree: Path) -> Iterator[Target]:
    """A target below ``tree``; what was put there is compiled at the end."""
    with tempfile.TemporaryDirectory(dir=tree.parent) as folder:
        run(["tar", "--extract", f"--file={base.file}", f"--directory={folder}"])
        (python,) = Path(folder, "usr/bin").glob("python3.[0-9]*[0-9]")
        yield Target(tree, python.name.removeprefix("python"))
        run(["unshare", "--mount", "sh", "-c", COMPILE, "compile", folder, str(tree)])


def build_wheel(folder: Path) -> Path:
    """This project's wheel; the same bytes from the same sources."""
    run_uv("build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    return wheel


def run_uv(*arguments: str) -> None:
    """Run uv: the one in PATH, or the one that scripts/bootstrap got."""
    own = ROOT / ".cache" / "boot" / "bin" / "uv"
    uv = shutil.which("uv") or (str(own) if own.exists() else None)
    if uv is None:
        raise CannotInstall(f"images need uv: run {ROOT / 'scripts' / 'bootstrap'}")
    run([uv, *arguments])


def run(command: list[str]) -> None:
    done = subprocess.run(command, env=os.environ | {"PATH": PATH}, check=False)
    if done.returncode:
        raise CannotInstall(f"{' '.join(command[:3])} … ended with {done.returncode}; see above")
