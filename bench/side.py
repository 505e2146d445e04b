"""One side of one figure, in a process of its own: ``python -m bench.side FIGURE SIDE CASE``.

``CASE`` is JSON. It says ``{}`` on standard output when it is ready, and then
the readings of one round for each line that it reads; it ends with its
standard input. What Airflow prints goes to standard error.
"""

import json
import os
import sys
from importlib import import_module

from hybrid_executor.standalone.stack.process import descendants, kill_all


def main(figure: str, side: str, case: str) -> None:
    """Never returns: what the side still does is not waited for."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    turn = getattr(import_module(f"bench.figures.{figure}"), side)(**json.loads(case))
    print("{}", file=told, flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), file=told, flush=True)
    kill_all(descendants(os.getpid()))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
