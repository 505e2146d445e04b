"""The layers of images: built once for every version of what is in them, then found in the cache.

Kinds, each with a key of its own: ``tiny`` (the distribution's static busybox),
``base`` (the distribution's Python and shell), ``dependencies``
(requirements.lock for that Python), ``project`` (this project's wheel), ``dns``,
``trial`` (the least of the public images of servers that the chart embeds),
``git`` (the distribution's git).
A change of the project's code costs a wheel and a layer of a megabyte. Every
build says its time and size. Called by ``images.py``.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster.build import tell
from tests.cluster.kubelet import python_layers
from tests.cluster.kubelet.oci import Layer, write_layer
from tests.cluster.kubelet.packages import PATH, program

#: Layers that nothing has asked for in this time are deleted when another of their kind is made.
KEPT_S = 14 * 86400
#: What a process in a pod may want of a system: Python, a shell, a first process, ports' names, time zones.
DEBIAN = (
    *("base-files", "bash", "coreutils", "dash", "dumb-init", "findutils", "grep", "libstdc++6", "netbase"),
    *("procps", "python3", "sed", "tzdata"),
)
#: Entrypoint of PostgreSQL's image, and Valkey's program, over those that requirements.lock brings.
TRIAL = Path(__file__).parent / "trial_servers"
#: As in the public images of both servers.
SERVER_USER = 999
#: As in Airflow's own image: this user, in the group of root.
AIRFLOW_USER = 50000
PASSWD = f"""\
root:x:0:0:root:/root:/bin/sh
airflow:x:{AIRFLOW_USER}:0:airflow:/home/airflow:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""
GROUP = "root:x:0:\nnogroup:x:65534:\n"


def cache() -> Path:
    """Where layers are kept. Deleting it costs the time to build them again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hybrid-executor" / "images"


def cached(kind: str, content: str | bytes, fill: Callable[[Path], None], *flags: str) -> Layer:
    """The layer of this kind and content; ``fill`` puts its files into a folder if nobody has before."""
    recipe = content.encode() if isinstance(content, str) else content
    file = cache() / f"{kind}-{hashlib.sha256(recipe).hexdigest()[:16]}.tar"
    file.parent.mkdir(parents=True, exist_ok=True)
    with (file.parent / f"{kind}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            _build(file, kind, fill, flags)
            _forget_old(kind)
    os.utime(file)
    return Layer.of(file)


def _build(file: Path, kind: str, fill: Callable[[Path], None], flags: tuple[str, ...]) -> None:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{kind}-") as folder:
        tree = Path(folder, "tree")
        tree.mkdir()
        fill(tree)
        tree.chmod(0o755)
        layer = write_layer(tree, file, *flags)
    tell(f"image layer {kind}: {time.monotonic() - begin:.1f} s, {layer.size / 1e6:.1f} MB")


def _forget_old(kind: str) -> None:
    for file in cache().glob(f"{kind}-*.tar"):
        if time.time() - file.stat().st_mtime > KEPT_S:
            file.unlink()
            file.with_suffix(".sha256").unlink(missing_ok=True)


def tiny() -> Layer:
    """A shell and some three hundred commands in one static file."""
    path = program("busybox")
    assert path is not None
    binary = Path(path).read_bytes()

    def fill(tree: Path) -> None:
        _furnish(tree)
        (tree / "bin").mkdir()
        shutil.copy(path, tree / "bin" / "busybox")
        listed = subprocess.run([path, "--list"], check=True, capture_output=True, text=True).stdout
        for applet in set(listed.split()) - {"busybox"}:
            (tree / "bin" / applet).symlink_to("busybox")

    return cached("tiny", binary, fill)


def program_layer(kind: str, binary: Path) -> Layer:
    """One static program in the root folder."""
    return cached(kind, str(binary), lambda tree: Path(shutil.copy(binary, tree / kind)).chmod(0o755))


def base() -> Layer:
    """The distribution's packages, unpacked; their scripts are not run."""
    name, suite, machine = _distribution()

    def fill(tree: Path) -> None:
        _unpack(tree, DEBIAN)
        for folder in ("home/airflow", "opt/airflow"):
            (tree / folder).mkdir(parents=True)
            (tree / folder).chmod(0o775)

    return cached("base", repr((name, suite, machine, DEBIAN, PASSWD)), fill)


def _distribution() -> tuple[str, str, str]:
    """This machine's, its release, and what machine it is for."""
    release = platform.freedesktop_os_release()
    return release["ID"], release["VERSION_CODENAME"], platform.machine()


def _unpack(tree: Path, include: Sequence[str]) -> None:
    """These packages and what they need, and a root file system's usual files."""
    _, suite, _ = _distribution()
    command = [
        "mmdebstrap",
        "--quiet",
        "--variant=extract",
        f"--include={','.join(include)}",
        suite,
        str(tree),
    ]
    subprocess.run(command, check=True, env=os.environ | {"PATH": PATH})
    for name in ("etc/resolv.conf", "etc/hostname"):
        (tree / name).unlink(missing_ok=True)
    for name in ("usr/share/doc", "usr/share/locale", "usr/share/man"):
        shutil.rmtree(tree / name, ignore_errors=True)
    _furnish(tree)
    shell = tree / "bin" / "sh"
    if not shell.exists():
        shell.symlink_to("dash")


def dependencies(base_layer: Layer) -> Layer:
    """What requirements.lock pins, compiled, in a virtual environment of the base's Python."""
    lock = python_layers.ROOT / "requirements.lock"

    def fill(tree: Path) -> None:
        with python_layers.compiled(base_layer, tree) as target:
            python_layers.make_environment(tree, target.version)
            target.install("--requirement", str(lock), "--require-hashes")

    return cached("dependencies", base_layer.digest.encode() + lock.read_bytes(), fill, python_layers.MODE)


def project(base_layer: Layer) -> Layer:
    """This project's wheel, compiled, for the same environment."""
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        wheel = python_layers.build_wheel(Path(folder))

        def fill(tree: Path) -> None:
            with python_layers.compiled(base_layer, tree) as target:
                target.install("--no-deps", str(wheel))

        return cached("project", base_layer.digest.encode() + wheel.read_bytes(), fill, python_layers.MODE)


def trial_servers() -> Layer:
    """Programs and a user for the servers that the chart embeds; the servers are in the dependencies."""
    programs = sorted(TRIAL.iterdir())
    passwd = f"{PASSWD}server:x:{SERVER_USER}:{SERVER_USER}:server:/:/bin/sh\n"

    def fill(tree: Path) -> None:
        target = tree / "usr" / "local" / "bin"
        target.mkdir(parents=True)
        for program_file in programs:
            Path(shutil.copy(program_file, target)).chmod(0o755)
        (tree / "etc").mkdir()
        (tree / "etc" / "passwd").write_text(passwd)

    content = repr([passwd, *((file.name, file.read_text()) for file in programs)])
    return cached("trial", content, fill, python_layers.MODE)


def git() -> Layer:
    """The distribution's git, alone, and a shell."""
    include = ("base-files", "bash", "coreutils", "dash", "git", "grep", "sed")

    def fill(tree: Path) -> None:
        _unpack(tree, include)
        (tree / "git").mkdir()

    return cached("git", repr((*_distribution(), include, PASSWD)), fill)


def git_sync(program_file: Path) -> Layer:
    """Somebody's git-sync, by its content."""
    content = program_file.read_bytes()
    return cached(
        "git-sync", content, lambda tree: Path(shutil.copy(program_file, tree / "git-sync")).chmod(0o755)
    )


def _furnish(tree: Path) -> None:
    """Give a root file system the names of users and a folder for everybody."""
    for name in ("etc", "tmp", "root"):
        (tree / name).mkdir(exist_ok=True)
    (tree / "tmp").chmod(0o1777)
    (tree / "etc" / "passwd").write_text(PASSWD)
    (tree / "etc" / "group").write_text(GROUP)
    (tree / "etc" / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
