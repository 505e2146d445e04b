"""The first process of a stack: holds its folder, runs the demo, and leaves no process behind.

It is the nearest *subreaper* of everything in the stack: whatever loses its
parent becomes its child, so that after a SIGKILL of the demo, or of any part,
it still finds and ends all. If it is itself killed, the kernel tells the demo
(see :mod:`.launch`), which then stops everything in order.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hybrid_executor.standalone.stack.process import LAUNCH, POLL_S, descendants, is_running, kill_all
from hybrid_executor.standalone.stack.state import held

PR_SET_CHILD_SUBREAPER = 36
#: How long orphans may take to end by themselves.
ORPHANS_S = 2.0
MODULE = "hybrid_executor.standalone.stack.demo"


def run(state: Path, arguments: Sequence[str]) -> int:
    """Run the demo on ``state``; its exit code. Raises :class:`.state.StateInUse`."""
    with held(state):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        command = [
            sys.executable,
            "-I",
            "-S",
            str(LAUNCH),
            "SIGTERM",
            sys.executable,
            "-m",
            MODULE,
            *arguments,
        ]
        child = subprocess.Popen(command, start_new_session=True)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: _forward(child.pid))
        code = _wait_for(child.pid)
        _sweep()
        return code


def _forward(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return


def _wait_for(pid: int) -> int:
    """Reap whatever ends until ``pid`` does; its exit code as a shell gives it."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _sweep() -> None:
    """End every process that is left: by SIGTERM, then by SIGKILL until none is found, be it a dead one."""
    for pid in _left():
        _forward(pid)
    deadline = time.monotonic() + ORPHANS_S
    while _left() and time.monotonic() < deadline:
        _reap()
        time.sleep(POLL_S)
    # Whoever looks after our own end must not find those that have ended and were reaped by nobody.
    while descendants(os.getpid()):
        kill_all(_left())
        _reap()
        time.sleep(POLL_S)


def _left() -> set[int]:
    return {pid for pid in descendants(os.getpid()) if is_running(pid)}


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return
