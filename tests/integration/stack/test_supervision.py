"""Nothing of a stack outlives it, and what dies comes back: with small processes instead of Airflow."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_executor.standalone.stack.process import Command, Process, ProcessFailed, is_running
from hybrid_executor.standalone.stack.state import StateInUse, held
from hybrid_executor.standalone.stack.supervisor import Event, Service, Supervisor
from tests.fixtures.stack import wait_until

#: Starts a child of its own in another session, writes both ids, ignores SIGTERM, sleeps.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; "
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], start_new_session=True)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""
#: Generous: a busy machine makes it slow, not wrong.
START_S = 60.0
#: The guard around a demo that supervises one stubborn service.
GUARDED = """
import sys
from pathlib import Path
from hybrid_executor.standalone.stack import guard
guard.MODULE = "tests.integration.stack.small_demo"
sys.exit(guard.run(Path(sys.argv[1]), [sys.argv[1]]))
"""
#: Runs a guard, and has become the parent of whatever that leaves behind; exits with how many these are.
BEHIND_IT = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
subprocess.Popen([sys.executable, "-c", *sys.argv[1:]]).wait()
sys.exit(len(open(f"/proc/self/task/{os.getpid()}/children").read().split()))
"""


def stubborn(folder: Path, **options: object) -> Command:
    argv = [sys.executable, "-c", STUBBORN, str(folder / "pids")]
    return Command(name="stubborn", argv=argv, log=folder / "stubborn.log", **options)


def pids(folder: Path) -> list[int]:
    path = folder / "pids"
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def wait_gone(found: list[int], deadline_s: float) -> None:
    wait_until(
        lambda: not any(is_running(pid) for pid in found),
        deadline_s,
        lambda: f"still there: {[pid for pid in found if is_running(pid)]}",
    )


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A guard with its demo and a stubborn service, up."""
    process = subprocess.Popen([sys.executable, "-c", GUARDED, str(tmp_path)])
    wait_until(lambda: len(pids(tmp_path)) == 2, START_S, lambda: "not started")
    yield process
    if process.poll() is None:
        process.terminate()
        process.wait(START_S)
    wait_gone(pids(tmp_path), START_S)


def demo_pid(guard: subprocess.Popen[bytes]) -> int:
    return only_child(guard.pid)


def only_child(pid: int) -> int:
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_process_and_waits_for_none_that_does_not_obey(
    guarded: subprocess.Popen[bytes], tmp_path: Path, number: int
) -> None:
    everything = [*pids(tmp_path), demo_pid(guarded)]
    begin = time.monotonic()
    guarded.send_signal(number)
    assert guarded.wait(START_S) == 0
    # Three for a service that does not obey: unless it is killed, it lives for ten minutes.
    assert time.monotonic() - begin < 20
    assert not any(is_running(pid) for pid in everything)


def test_a_kill_of_the_demo_leaves_no_process(guarded: subprocess.Popen[bytes], tmp_path: Path) -> None:
    os.kill(demo_pid(guarded), signal.SIGKILL)
    assert guarded.wait(START_S) == 128 + signal.SIGKILL
    assert not any(is_running(pid) for pid in pids(tmp_path))


def test_what_a_guard_has_ended_is_not_found_dead_by_whoever_looks_after_it(tmp_path: Path) -> None:
    outer = subprocess.Popen([sys.executable, "-c", BEHIND_IT, GUARDED, str(tmp_path)])
    wait_until(lambda: len(pids(tmp_path)) == 2, 60, lambda: "not started")
    os.kill(only_child(only_child(outer.pid)), signal.SIGKILL)
    assert outer.wait(60) == 0
    assert not any(is_running(pid) for pid in pids(tmp_path))


def test_a_kill_of_the_guard_leaves_no_process(guarded: subprocess.Popen[bytes], tmp_path: Path) -> None:
    everything = [*pids(tmp_path), demo_pid(guarded)]
    guarded.kill()
    wait_gone(everything, START_S)


def test_a_second_stack_on_the_same_folder_is_told_who_holds_it(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(StateInUse, match=f"process {os.getpid()}.* runs on"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_a_process_ends_with_what_descends_from_it(tmp_path: Path) -> None:
    process = Process(stubborn(tmp_path, stop_s=0.5))
    process.start()
    wait_until(lambda: len(pids(tmp_path)) == 2, START_S, process.tail)
    process.stop()
    assert not any(is_running(pid) for pid in pids(tmp_path))


def test_what_dies_is_started_again(tmp_path: Path) -> None:
    events: list[Event] = []
    sleeper = Command(name="sleeper", argv=["sleep", "600"], log=tmp_path / "sleeper.log")
    supervisor = Supervisor(
        [Service(name="sleeper", command=lambda: sleeper)], lambda event, _name, _note: events.append(event)
    )
    supervisor.start()
    try:
        first = supervisor.pid("sleeper")
        assert first
        os.kill(first, signal.SIGKILL)
        wait_until(
            lambda: tick(supervisor) and supervisor.pid("sleeper") not in (None, first), START_S, lambda: ""
        )
        wait_until(lambda: tick(supervisor) and supervisor.is_ready(), START_S, lambda: str(events))
    finally:
        supervisor.stop(1)
    assert events == [Event.READY, Event.DIED, Event.RESTARTED]


def tick(supervisor: Supervisor) -> bool:
    supervisor.tick()
    return True


def test_what_is_killed_and_held_stays_down_until_it_is_restarted(tmp_path: Path) -> None:
    supervisor = Supervisor([Service(name="stubborn", command=lambda: stubborn(tmp_path))])
    supervisor.start()
    try:
        supervisor.kill("stubborn", hold=True)
        supervisor.tick()
        supervisor.tick()
        assert supervisor.not_ready() == ["stubborn"]
        supervisor.restart("stubborn")
        wait_until(lambda: tick(supervisor) and supervisor.is_ready(), START_S, lambda: "")
    finally:
        supervisor.stop(1)


def test_a_start_that_fails_shows_the_end_of_the_log_and_where_it_is(tmp_path: Path) -> None:
    log = tmp_path / "broken.log"
    argv = [sys.executable, "-c", "raise SystemExit('no such table')"]
    broken = Command(name="broken", argv=argv, log=log)
    supervisor = Supervisor([Service(name="broken", command=lambda: broken, ready=lambda _: False)])
    with pytest.raises(
        ProcessFailed, match=f"broken ended with exit code 1; its log is {log}:\n.*no such table"
    ):
        supervisor.start()
    supervisor.stop(1)


def test_a_step_that_runs_once_comes_before_what_needs_it(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    step = Command(
        name="step", argv=[sys.executable, "-c", f"open({str(marker)!r}, 'w')"], log=tmp_path / "1.log"
    )
    order: list[str] = []

    def second() -> Command:
        assert marker.exists()
        return stubborn(tmp_path)

    services = [
        Service(name="second", command=second, after=("step",)),
        Service(name="step", command=lambda: step, once=True, done=lambda: order.append("done")),
    ]
    supervisor = Supervisor(services)
    supervisor.start()
    supervisor.stop(1)
    assert order == ["done"]
