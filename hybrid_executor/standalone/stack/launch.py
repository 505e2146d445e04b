"""Become another program that dies with its parent: ``python -I -S launch.py SIGNAL PROGRAM [ARGUMENT ...]``.

Run as a script of its own, before any import of the package, because a
function run between fork and exec is unsafe in a parent that has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for SIGNAL at the parent's end, then exec; the process keeps its id."""
    parent = os.getppid()
    number = signal.Signals[sys.argv[1]]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606


if __name__ == "__main__":
    main()
