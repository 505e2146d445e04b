"""The control groups of a node: made before its kubelet starts, removed when nothing runs in them any more.

A group of one name in every hierarchy that is mounted (one of version 2, or
about ten of version 1). Touches no group of another name. Called by the
enclosure.
"""

import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
DEADLINE_S = 20.0


def hierarchies() -> Iterator[Path]:
    """Where a hierarchy is mounted."""
    if (ROOT / "cgroup.procs").exists():
        yield ROOT
        return
    for folder in sorted(ROOT.iterdir()):
        if (folder / "cgroup.procs").exists() and not folder.is_symlink():
            yield folder


def make(name: str) -> None:
    """Make the group in every hierarchy."""
    for hierarchy in hierarchies():
        (hierarchy / name).mkdir()


def names(prefix: str) -> set[str]:
    """The groups whose names begin so, directly below the root of any hierarchy."""
    return {found.name for hierarchy in hierarchies() for found in hierarchy.glob(f"{prefix}*")}


def remove(name: str) -> None:
    """Remove the group and all below it, as soon as the last of its processes is gone."""
    deadline = time.monotonic() + DEADLINE_S
    for hierarchy in hierarchies():
        while (hierarchy / name).exists():
            _remove_empty(hierarchy / name)
            assert time.monotonic() < deadline, f"{hierarchy / name} is still in use"
            time.sleep(0.02)


def _remove_empty(group: Path) -> None:
    for below in sorted(group.rglob("*/"), key=lambda path: len(path.parts), reverse=True):
        _rmdir(below)
    _rmdir(group)


def _rmdir(group: Path) -> None:
    try:
        group.rmdir()
    except (OSError, NotADirectoryError):
        # Something in it is still ending, or it is gone already: the caller looks again.
        return
