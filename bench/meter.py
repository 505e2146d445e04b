"""What a process and all below it have used: processor time, memory, processes. Linux."""

import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from hybrid_executor.standalone.stack.process import descendants


def cpu_s() -> float:
    """Processor time of every thread of this process and of all below it, ended or not."""
    return time.process_time() + _others_cpu_s()


def _others_cpu_s() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = sum(_cpu_s_of(child) for child in descendants(os.getpid()))
    return ended.ru_utime + ended.ru_stime + living


def _cpu_s_of(pid: int) -> float:
    """To the nanosecond, which ``/proc/PID/stat`` is not."""
    used_ns = 0
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                used_ns += int((thread / "schedstat").read_text().split()[0])
    return used_ns / 1e9


def memory() -> dict[str, float]:
    """Proportional set size of this process and all below it in MiB, and how many these are."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {
        "mib": sum(process.memory_full_info().pss for process in family) / 2**20,
        "processes": float(len(family)),
    }


class Watch:
    """Wall and processor time since it was made, in milliseconds; what its own looks cost is left out."""

    def __init__(self) -> None:
        self._others_s = _others_cpu_s()
        self._own_s, self._began_s = time.process_time(), time.perf_counter()

    def wall_ms(self) -> float:
        return (time.perf_counter() - self._began_s) * 1000

    def cpu_ms(self) -> float:
        own_s = time.process_time() - self._own_s
        return (own_s + _others_cpu_s() - self._others_s) * 1000


def until(met: Callable[[], bool], what: str, deadline_s: float = 120.0, pause_s: float = 0.001) -> None:
    """Poll; raises ``TimeoutError`` with ``what`` was waited for."""
    deadline = time.monotonic() + deadline_s
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {deadline_s:g} s: {what}")
        time.sleep(pause_s)
