"""``python -m tests.cluster up|keda|status|down|build``: a real Kubernetes here, in the background.

State is in ``.cluster/`` of the working folder. ``up`` and ``keda`` leave one
process each, which owns what it started: when it ends, all of that ends.
``down`` ends both and removes the folder. Used by the Makefile.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.cluster import build
from tests.cluster.access import Access
from tests.cluster.background import Background, end_left_behind
from tests.cluster.build import CannotBuild, tell
from tests.cluster.keda import Keda
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.cluster.servers import NotReady

STATE = Path(".cluster").absolute()
PLANE, KEDA = Background(STATE, "plane"), Background(STATE, "keda")
#: The plane keeps what it needs below this; the folder itself is for people.
FOLDER = STATE / "plane"


def up() -> int:
    """Start the cluster, unless it is up."""
    if PLANE.owner() is None:
        end_left_behind(STATE)
        shutil.rmtree(STATE, ignore_errors=True)
        build.kubernetes()
        if not PLANE.start(["tests.cluster", "hold-plane"]):
            tell(f"the cluster did not start; its logs are in {FOLDER}")
            return 1
    tell(f"up: export KUBECONFIG={STATE}/kubeconfig PATH={STATE}/bin:$PATH")
    return 0


def keda() -> int:
    """Start KEDA on the cluster that is up."""
    if PLANE.owner() is None:
        tell("no cluster is up: make cluster")
        return 1
    if KEDA.owner() is None:
        build.keda()
        if not KEDA.start(["tests.cluster", "hold-keda"]):
            tell(f"KEDA did not start; its logs are in {STATE / 'keda'}")
            return 1
    tell("KEDA is up")
    return 0


def down() -> int:
    """End everything and remove its folder."""
    KEDA.end()
    PLANE.end()
    end_left_behind(STATE)
    shutil.rmtree(STATE, ignore_errors=True)
    tell("nothing of the cluster is left")
    return 0


def status() -> int:
    """Say what runs, and with how much memory."""
    if PLANE.owner() is None:
        tell("down")
        return 1
    for record in sorted(STATE.rglob("processes.json")):
        for name, (pid, _) in json.loads(record.read_text()).items():
            tell(f"{name:20} {pid:>8} {_resident_mib(pid):>6} MiB   {record.parent / name}.log")
    return up()


def hold_plane() -> int:
    PLANE.hold(_cluster(), lambda: True)
    return 0


def hold_keda() -> int:
    KEDA.hold(_keda(), lambda: PLANE.owner() is not None)
    return 0


def build_all() -> int:
    """Build what is not in the cache."""
    build.kubernetes()
    build.keda()
    build.crds()
    return 0


@contextmanager
def _cluster() -> Iterator[None]:
    with ExitStack() as stack:
        with _timed("etcd, API server, controller-manager and scheduler"):
            plane = stack.enter_context(ControlPlane.started(FOLDER))
        with _timed("a node of local processes"):
            stack.enter_context(RunnerNode.started(plane))
        _furnish(plane)
        yield


@contextmanager
def _keda() -> Iterator[None]:
    with ExitStack() as stack:
        with _timed("KEDA's operator and metrics adapter"):
            stack.enter_context(Keda.started(Access(FOLDER), STATE / "keda"))
        yield


def _furnish(plane: Access) -> None:
    """A kubeconfig, and a kubectl of the cluster's version."""
    shutil.copy(plane.admin, STATE / "kubeconfig")
    kubectl = STATE / "bin" / "kubectl"
    kubectl.parent.mkdir(exist_ok=True)
    kubectl.write_text(f'#!/bin/sh\nexec "{plane.binary}" kubectl "$@"\n')
    kubectl.chmod(0o755)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    tell(f"{time.monotonic() - begin:5.1f} s   {what}")


def _resident_mib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS:")), 0)


COMMANDS = {
    "up": up,
    "keda": keda,
    "status": status,
    "down": down,
    "build": build_all,
    "hold-plane": hold_plane,
    "hold-keda": hold_keda,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("command", choices=COMMANDS, metavar="up|keda|status|down|build")
    try:
        return COMMANDS[parser.parse_args().command]()
    except (CannotBuild, NotReady) as error:
        tell(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
