"""``python -m bench``: run figures and write their table; ``… readme``: put the newest into README.md.

A whole run (all figures, full size, none failed) is the newest: it goes to ``bench/results``.
Any other goes to ``bench/results/part``, which is nobody's newest.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from bench import page
from bench.figure import Size
from bench.figures import ALL
from bench.machine import machine
from bench.plan import chosen, is_whole
from bench.run import Incomplete, run
from bench.table import markdown, missed
from bench.world import World


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "readme", "list"), default="run")
    parser.add_argument("--figures", default="", help="names, with commas; all without it")
    parser.add_argument("--size", type=Size, choices=list(Size), default=Size.FULL)
    parser.add_argument("--rounds", type=int, default=None, help="of each side; the figure's own without it")
    parser.add_argument("--check", action="store_true", help="fail where something counted misses its target")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.command == "readme":
        page.write_readme()
        return 0
    if given.command == "list":
        for figure in ALL:
            print(f"{figure.name:18} {figure.title}")
        return 0
    try:
        figures = chosen(ALL, [name for name in given.figures.split(",") if name])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    where, began_s, failed = machine(), time.monotonic(), False
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, World(Path(folder)) as world:
        try:
            table = run(world, figures, given.size, given.rounds, lambda said: print(said, flush=True))
        except Incomplete as failure:
            print(failure, file=sys.stderr)
            table, failed = failure.table, True
    where["minutes"] = round((time.monotonic() - began_s) / 60, 1)
    whole = is_whole(figures, ALL, given.size, failed=failed)
    page.write_results(table, where, page.RESULTS if whole else page.RESULTS / "part")
    if whole:
        page.write_readme()
    print("\n" + markdown(table))
    for line in (faults := missed(table)) if given.check else []:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if failed or (given.check and faults) else 0


if __name__ == "__main__":
    sys.exit(main())
