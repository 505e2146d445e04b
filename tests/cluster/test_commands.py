"""``make cluster``, ``make keda`` and ``make cluster-down``, as someone at a keyboard uses them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_executor.standalone.stack.process import descendants, wait_gone
from tests.cluster.background import Background

ROOT = Path(__file__).parents[2]
#: Beside the tests of the session plane: two planes at once would be slow on two cores.
pytestmark = [pytest.mark.xdist_group("plane"), pytest.mark.usefixtures("built_programs")]


class Desk:
    """A working folder at which the commands are given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / ".cluster"

    def give(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.cluster", command],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def kubectl(self, *args: str) -> str:
        environment = os.environ | {"KUBECONFIG": str(self.state / "kubeconfig"), "HOME": str(self.folder)}
        command = [str(self.state / "bin" / "kubectl"), *args]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def owner(self, name: str) -> int | None:
        return Background(self.state, name).owner()

    def recorded(self) -> set[int]:
        """What the records say that runs."""
        records = self.state.rglob("processes.json")
        return {pid for record in records for pid, _ in json.loads(record.read_text()).values()}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.give("down")


def test_a_cluster_comes_up_runs_a_pod_and_goes_without_a_trace(desk: Desk) -> None:
    said = desk.give("up")
    assert said.returncode == 0, said.stdout + said.stderr
    assert f"export KUBECONFIG={desk.state}/kubeconfig" in said.stderr
    assert " s   a node of local processes" in said.stdout
    desk.kubectl("run", "hello", "--image=any", "--restart=Never", "--command", "--", "echo", "hello")
    desk.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/hello", "--timeout=60s")
    assert desk.kubectl("logs", "hello") == "hello\n"
    family = desk.recorded() | {desk.owner("plane") or 0}
    assert len(family) == 6
    assert desk.give("down").returncode == 0
    assert wait_gone(family, 1)
    assert not desk.state.exists()


def test_what_is_up_is_not_started_twice_and_keda_joins_it(desk: Desk) -> None:
    assert desk.give("keda").returncode == 1
    desk.give("up")
    owner = desk.owner("plane")
    assert desk.give("up").returncode == 0
    assert desk.owner("plane") == owner
    joined = desk.give("keda")
    assert joined.returncode == 0, joined.stdout + joined.stderr
    assert "keda-operator" in desk.give("status").stderr
    assert desk.kubectl("get", "scaledobjects", "--all-namespaces", "--output=name") == ""
    keda = desk.owner("keda")
    assert owner is not None
    assert keda is not None
    everything = desk.recorded() | {owner, keda}
    desk.give("down")
    assert wait_gone(everything, 1)


def test_after_a_kill_of_its_owner_nothing_is_left_and_the_next_one_starts_anew(desk: Desk) -> None:
    desk.give("up")
    desk.kubectl("create", "configmap", "old")
    owner = desk.owner("plane")
    assert owner is not None
    family = descendants(owner)
    os.kill(owner, signal.SIGKILL)
    assert wait_gone(family, 10)
    assert desk.give("status").returncode == 1
    assert desk.give("up").returncode == 0
    assert "old" not in desk.kubectl("get", "configmaps", "--output=name")
