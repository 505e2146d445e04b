"""How much memory a tree of processes uses, and whether that is too much.

Sampled from /proc, without cgroups: a spike between two samples escapes the
limit. The cheap figure (RSS, which counts shared pages once per process) is read
each time; the fair one (PSS) only when the cheap one has grown. Used by
``container``.
"""

import os
from pathlib import Path

from hybrid_executor.standalone.runner.launcher import descendants

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


class Meter:
    """The memory of everything below one process, the process itself left out."""

    def __init__(self, root: int, limit_bytes: int | None) -> None:
        self._root, self._limit = root, limit_bytes
        self._highest_rss = 0.0
        self.peak_bytes: int | None = None

    def sample(self) -> bool:
        """Look once; whether the limit is exceeded."""
        pids = list(descendants(self._root))
        rss = sum(map(rss_bytes, pids))
        if rss <= self._highest_rss * GROWTH and not self._may_exceed(rss):
            return False
        self._highest_rss = max(self._highest_rss, rss)
        pss = sum(map(pss_bytes, pids))
        self.peak_bytes = max(self.peak_bytes or 0, pss)
        return self._limit is not None and pss > self._limit

    def _may_exceed(self, rss: int) -> bool:
        return self._limit is not None and rss > self._limit
