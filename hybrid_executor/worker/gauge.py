"""Measures what the container that it runs in takes, and leaves that where the kubelet reads it.

Memory is the working set, as the kubelet counts it: what the container's control
group holds without file cache that nobody touches. It is looked at every second,
and a process that grew and shrank in between is known by its own highest mark;
the sum never exceeds what the kernel says was held at most. CPU is the control
group's own count. So nothing is asked of anybody, and no right is needed.

The line goes behind whatever the task wrote into its termination message, and
only where the process ends well: of one that does not, the kubelet may show the
end of the log instead, which is worth more. Without a control group of its own
or without a kubelet, nothing is measured and nothing is wrong. Called by ``task``.
"""

import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hybrid_executor.model.resources import Resources, Tally, to_line

CGROUPS = Path("/sys/fs/cgroup")
#: The default of ``terminationMessagePath``.
MESSAGE = Path("/dev/termination-log")
#: What kubelet reads of it.
MESSAGE_MAX = 4096
SAMPLE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a version of control groups keeps its numbers, from the group's folder."""

    memory: str
    memory_stat: str
    #: In ``memory_stat``: file cache that is reclaimed first.
    idle_cache: str
    memory_peak: str
    cpu: str
    #: The word before the number in ``cpu``; empty where there is nothing else.
    cpu_key: str
    cpu_unit_s: float


VERSION_2 = Layout(
    memory="memory.current",
    memory_stat="memory.stat",
    idle_cache="inactive_file",
    memory_peak="memory.peak",
    cpu="cpu.stat",
    cpu_key="usage_usec",
    cpu_unit_s=1e-6,
)
VERSION_1 = Layout(
    memory="memory/memory.usage_in_bytes",
    memory_stat="memory/memory.stat",
    idle_cache="total_inactive_file",
    memory_peak="memory/memory.max_usage_in_bytes",
    cpu="cpuacct/cpuacct.usage",
    cpu_key="",
    cpu_unit_s=1e-9,
)


class Group:
    """The control group of this container."""

    def __init__(self, root: Path, layout: Layout) -> None:
        self._root = root
        self._layout = layout

    def working_set_bytes(self) -> int:
        held = int((self._root / self._layout.memory).read_text())
        return max(held - self._value(self._layout.memory_stat, self._layout.idle_cache), 0)

    def cpu_s(self) -> float:
        if self._layout.cpu_key:
            return self._value(self._layout.cpu, self._layout.cpu_key) * self._layout.cpu_unit_s
        return int((self._root / self._layout.cpu).read_text()) * self._layout.cpu_unit_s

    def most_held_bytes(self) -> int | None:
        """The kernel's own peak, all file cache included; None before Linux 5.19."""
        try:
            return int((self._root / self._layout.memory_peak).read_text())
        except OSError:
            return None

    def _value(self, file: str, key: str) -> int:
        for line in (self._root / file).read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == key:
                return int(number)
        raise ValueError(f"{file} has no {key}")


def own_group(root: Path) -> Group | None:
    """This container's group; None where its numbers can't be read."""
    for layout in (VERSION_2, VERSION_1):
        group = Group(root, layout)
        try:
            group.working_set_bytes(), group.cpu_s()
        except (OSError, ValueError):
            continue
        return group
    return None


def highest_mark_bytes() -> int:
    """The most memory that one process of the task ever had, as the kernel noted it."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


class Gauge:
    """Samples a group from ``watching`` on."""

    def __init__(self, group: Group, age_s: Callable[[], float]) -> None:
        """``age_s`` is for how long the container lives."""
        self._group = group
        self._age_s = age_s
        self._tally = Tally()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Sample in a thread of its own, since a supervisor may hang in a request.

        To be entered when no process will be forked any more.
        """
        over = threading.Event()
        sampler = threading.Thread(target=self._run, args=(over,), name="resource-gauge", daemon=True)
        sampler.start()
        try:
            yield
        finally:
            over.set()
            sampler.join(SAMPLE_S)

    def used(self) -> Resources:
        """All that was seen, and a last look; to be asked when the task's processes have ended."""
        self._sample(highest_mark_bytes())
        return self._tally.used()

    def _run(self, over: threading.Event) -> None:
        try:
            while not over.wait(SAMPLE_S):
                self._sample()
        except (OSError, ValueError):
            return  # What was seen stays; the last look says whether there is more.

    def _sample(self, at_least_bytes: int = 0) -> None:
        memory = max(self._group.working_set_bytes(), at_least_bytes)
        most = self._group.most_held_bytes()
        self._tally.add(self._age_s(), self._group.cpu_s(), memory if most is None else min(memory, most))


def own_gauge(message: Path, root: Path) -> Gauge | None:
    """For this container; None if there is nothing to read, or nobody to tell."""
    group = own_group(root) if message.is_file() and os.access(message, os.W_OK) else None
    if group is None:
        return None
    began_s = _began_s()
    return Gauge(group, lambda: time.clock_gettime(time.CLOCK_BOOTTIME) - began_s)


def _began_s() -> float:
    """When this process was started, in seconds since the machine was."""
    fields_behind_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields_behind_name[19]) / os.sysconf("SC_CLK_TCK")


def leave(used: Resources, message: Path) -> None:
    """Write the line behind what stands there; a message that it would push out stays alone."""
    there = message.read_bytes()
    line = (b"\n" if there and not there.endswith(b"\n") else b"") + to_line(used).encode() + b"\n"
    if len(there) + len(line) <= MESSAGE_MAX:
        with message.open("ab") as file:
            file.write(line)
