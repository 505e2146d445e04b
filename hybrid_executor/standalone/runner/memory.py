"""How much a tree of processes uses, and whether that is too much memory.

Sampled from /proc, without cgroups: a spike between two samples escapes the
limit. The cheap figure (RSS, which counts shared pages once per process) is read
each time; the fair one (PSS) only when the cheap one has grown. What the tree
did with the processor since the last sample escapes as well. Used by ``container``.
"""

import os
import time
from pathlib import Path

from hybrid_executor.model.resources import Resources, Tally
from hybrid_executor.standalone.runner.launcher import descendants

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
#: How much the cheap figure must grow before the fair one is read again.
GROWTH = 1.02


def rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_SIZE
    except (OSError, IndexError, ValueError):
        return 0


def pss_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def cpu_s(pid: int, *, itself: bool = True) -> float:
    """Processor time of a process, and of those of its children that it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11 if itself else 13 : 15])) * TICK_S
    except (OSError, ValueError):
        return 0.0


class Meter:
    """What everything below one process uses, the process itself left out."""

    def __init__(self, root: int, limit_bytes: int | None) -> None:
        self._root, self._limit = root, limit_bytes
        self._highest_rss = 0.0
        self._peak_bytes = 0
        self._began_s = time.monotonic()
        self._tally = Tally()
        self._cpu_s = 0.0

    def used(self) -> Resources | None:
        """All samples in three numbers; None before the first."""
        return self._tally.used() if self._peak_bytes else None

    def sample(self) -> bool:
        """Look once; whether the limit is exceeded."""
        pids = list(descendants(self._root))
        exceeded = self._weigh(pids)
        # A process that ends while this is read is counted once more or not at all: time never goes back.
        cpu = cpu_s(self._root, itself=False) + sum(map(cpu_s, pids))
        self._cpu_s = max(self._cpu_s, cpu)
        self._tally.add(time.monotonic() - self._began_s, self._cpu_s, self._peak_bytes)
        return exceeded

    def _weigh(self, pids: list[int]) -> bool:
        rss = sum(map(rss_bytes, pids))
        if rss <= self._highest_rss * GROWTH and not self._may_exceed(rss):
            return False
        self._highest_rss = max(self._highest_rss, rss)
        pss = sum(map(pss_bytes, pids))
        self._peak_bytes = max(self._peak_bytes, pss)
        return self._limit is not None and pss > self._limit

    def _may_exceed(self, rss: int) -> bool:
        return self._limit is not None and rss > self._limit
