"""``python -m bench.load``: run, and write ``bench/results/load.*``; ``… page``: make the model's page anew.

A whole run is the newest: it goes to ``bench/results``, and the page of the
model is made anew from it. A small one, and one of amounts of one's own, goes to
``bench/results/part``, unless it is to be kept. Ends with 1 where a task was
lost or anything was left.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from bench.load import page
from bench.load.picture import draw
from bench.load.plan import SIZES, Plan
from bench.load.report import faults, markdown, series, summary
from bench.load.run import Stuck, run
from bench.machine import in_words, machine
from bench.page import RESULTS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "page"), default="run")
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--pods", type=int, help="in flight")
    parser.add_argument("--tasks-an-hour", type=int, help="to Celery")
    parser.add_argument("--minutes", type=float, help="of the load itself")
    parser.add_argument("--keep", action="store_true", help="it is the newest, whatever its size")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.command == "page":
        page.write()
        return 0
    asked = {name: getattr(given, name) for name in ("pods", "tasks_an_hour", "minutes")}
    asked = {name: value for name, value in asked.items() if value is not None}
    plan = Plan(replace(SIZES[given.size], **asked))
    where, began_s = machine(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        try:
            found = run(plan, Path(folder), lambda said: print(said, flush=True))
        except Stuck as stuck:
            print(stuck, file=sys.stderr)
            return 1
    where["minutes"] = round((time.monotonic() - began_s) / 60, 1)
    said, shown = summary(plan, found), series(found)
    name = "load"
    is_newest = given.keep or (given.size != "small" and not asked)
    target = RESULTS if is_newest else RESULTS / "part"
    target.mkdir(parents=True, exist_ok=True)
    content = {
        "size": given.size,
        "api": "embedded",
        "machine": where,
        "plan": asdict(plan.amounts),
        **said,
    }
    (target / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    rows = ",\n".join(json.dumps(row) for row in shown)
    (target / f"{name}-series.json").write_text(f"[\n{rows}\n]\n")
    text = f"{markdown(plan, said)}\n{in_words(where)}"
    (target / f"{name}.md").write_text(text)
    begin = found["phases"][0]["from"]
    draw(shown, {phase["name"]: phase["began"] - begin for phase in found["phases"]}, target, name)
    if is_newest:
        page.write()
    print("\n" + text)
    for wrong in (wrongs := faults(said["checks"])):
        print(f"wrong: {wrong}", file=sys.stderr)
    return 1 if wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
