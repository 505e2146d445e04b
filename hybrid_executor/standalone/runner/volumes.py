"""Puts a pod's volumes and its few own files on disk, and removes them.

    <state>/pods/<uid>/started      the pod's first container was about to start
                      /volumes/<name>  /home  /hosts  /scratch  /logs

Decides nothing about what they hold (``volumeplan`` does); called by ``podworker``
and ``agent``. The state folder is 0700, so modes inside it are the pod's affair.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hybrid_executor.standalone.runner.container import Mount
from hybrid_executor.standalone.runner.volumeplan import (
    MountPlan,
    VolumeFile,
    VolumePlan,
    VolumeUnavailable,
)

HOSTS = "/etc/hosts"


class PodFolder:
    """The folder of one pod."""

    def __init__(self, state: Path, uid: str) -> None:
        self.path = state / "pods" / uid

    @property
    def home(self) -> Path:
        return self.path / "home"

    @property
    def scratch(self) -> Path:
        return self.path / "scratch"

    @property
    def hosts(self) -> Path:
        return self.path / "hosts"

    @property
    def has_started(self) -> bool:
        """Whether a container of this pod was ever about to start, in this process or an earlier one."""
        return (self.path / "started").exists()

    def mark_started(self) -> None:
        (self.path / "started").touch()

    def prepare(self, hostname: str) -> None:
        """The files that every container of the pod shares."""
        for folder in (self.home, self.scratch):
            folder.mkdir(parents=True, exist_ok=True)
        known = Path(HOSTS).read_text() if Path(HOSTS).exists() else "127.0.0.1 localhost\n"
        # First, so that the pod's address resolves back to its name.
        self.hosts.write_text(f"127.0.0.1 {hostname}\n{known}")

    def fill(self, plans: Iterable[VolumePlan]) -> dict[str, Path]:
        """Write the volumes; where each lies."""
        places = {}
        for plan in plans:
            try:
                places[plan.name] = self._fill(plan)
            except OSError as error:
                words = f'MountVolume.SetUp failed for volume "{plan.name}" : {error}'
                raise VolumeUnavailable(words) from error
        return places

    def _fill(self, plan: VolumePlan) -> Path:
        if plan.host_path is not None:
            return host_path(plan.name, Path(plan.host_path), plan.host_type)
        folder = self.path / "volumes" / plan.name
        if not plan.read_only:
            _make_scratch(folder)
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in plan.files.items():
            _replace(folder / name, file)
        for path in folder.rglob("*"):
            if not path.is_dir() and str(path.relative_to(folder)) not in plan.files:
                path.unlink()
        return folder

    def clear(self) -> None:
        """Remove all but the logs and the mark: the pod is over."""
        for folder in (self.home, self.scratch, self.path / "volumes"):
            shutil.rmtree(folder, ignore_errors=True)
        self.hosts.unlink(missing_ok=True)

    def remove(self) -> None:
        """The pod's object is gone: nothing stays."""
        shutil.rmtree(self.path, ignore_errors=True)


def _make_scratch(folder: Path) -> None:
    """A folder that belongs to the pod's containers from then on, its mode included."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(0o777)


def _replace(target: Path, file: VolumeFile) -> None:
    """Write a file so that a container that reads it meanwhile sees the old or the new one."""
    if (
        target.is_file()
        and target.read_bytes() == file.content
        and target.stat().st_mode & 0o7777 == file.mode
    ):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_bytes(file.content)
    draft.chmod(file.mode)
    draft.replace(target)


def host_path(name: str, path: Path, kind: str) -> Path:
    """A path of the host, checked as the kubelet checks its type."""
    if kind == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch(mode=0o644)
    checks = {
        "DirectoryOrCreate": path.is_dir,
        "Directory": path.is_dir,
        "FileOrCreate": path.is_file,
        "File": path.is_file,
        "Socket": path.is_socket,
        "": path.exists,
    }
    if kind not in checks or not checks[kind]():
        wanted = f"is not a {kind.removesuffix('OrCreate').lower()}" if kind else "does not exist"
        raise VolumeUnavailable(
            f'MountVolume.SetUp failed for volume "{name}" : hostPath type check failed: {path} {wanted}'
        )
    return path


def mounts(plans: Sequence[MountPlan], places: Mapping[str, Path], *, possible: bool) -> list[Mount]:
    """The bind mounts of one container.

    Where this machine allows no mounts (not ``possible``), only a path that is
    already in its place can be given.
    """
    found = []
    for plan in plans:
        source = _sub_path(places[plan.volume], plan)
        if possible:
            found.append(Mount(str(source), plan.target, plan.read_only))
        elif source.resolve() != Path(plan.target).resolve():
            raise VolumeUnavailable(
                f'MountVolume.SetUp failed for volume "{plan.volume}" : this machine allows no mount '
                f"namespaces, so nothing can be mounted at {plan.target}"
            )
    return found


def _sub_path(folder: Path, plan: MountPlan) -> Path:
    if not plan.sub_path:
        return folder
    path = folder / plan.sub_path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise VolumeUnavailable(f'subPath "{plan.sub_path}" leads out of volume "{plan.volume}"')
    if not path.exists():
        path.mkdir(parents=True)
    return path
