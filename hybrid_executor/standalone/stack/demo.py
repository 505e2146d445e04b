"""``python -m …standalone.stack.demo``: bring the stack up, run the example DAGs, show where each task ran.

Started by :mod:`.guard` alone, which holds the state folder. Says what happens
one line a step; with ``--once`` its exit code tells whether every task
succeeded on the backend that its queue asks for.
"""

import argparse
import platform
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape

from hybrid_executor.standalone.stack.client import FINISHED, AirflowClient, ApiRefused
from hybrid_executor.standalone.stack.cluster import ClusterUnusable
from hybrid_executor.standalone.stack.process import ProcessFailed
from hybrid_executor.standalone.stack.stack import NAMESPACE, Options, Stack
from hybrid_executor.standalone.stack.supervisor import Event
from hybrid_executor.standalone.stack.view import Line, Run, read_lines, read_states, table, verdict

TAG = "demo"
REFRESH_S = 0.5
PARSED_S = 60.0
PIPE_WIDTH = 160
#: All example runs together; a newcomer's machine may be slow.
RUNS_S = 600.0
MARKS = {
    Event.READY: "[green]up[/]  ",
    Event.DIED: "[red]died[/]",
    Event.RESTARTED: "[yellow]up[/]  ",
    Event.DOUBTED: "[yellow]note[/]",
}


def make_console() -> Console:
    """The terminal, or lines wide enough for the table where output goes to a file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


class Stopped(Exception):
    """The user asked for the end."""


@dataclass
class Demo:
    """One start of the stack, from the first line to the last."""

    options: Options
    once: bool
    console: Console = field(default_factory=make_console)
    stop_asked: bool = field(default=False, init=False)
    began: float = field(default_factory=time.monotonic, init=False)

    def run(self) -> int:
        """Everything; the exit code."""
        version = platform.python_version()
        self.say(f"Python {version}, state in {self.options.state}, DAGs in {self.options.dags}")
        stack = Stack(self.options, self.tell)
        for note in stack.moved:
            self.say(note)
        try:
            stack.start(lambda: self.stop_asked)
            return self.show(stack)
        except Stopped:
            return 0
        except (ProcessFailed, ClusterUnusable) as failure:
            self.say(f"[red]failed[/] {escape(str(failure))}")
            return 1
        finally:
            self.stop(stack)

    def show(self, stack: Stack) -> int:
        """Run the examples on the stack that is up, and show them."""
        self.check()
        since = datetime.now(UTC) - timedelta(seconds=1)
        client = AirflowClient(stack.setup.api_port, stack.setup.user, stack.setup.password)
        runs = self.trigger_all(stack, client)
        broken = broken_files(client, runs)
        self.introduce(stack, runs)
        for problem in broken:
            self.say(f"[red]wrong[/] {escape(problem)}")
        states = dict.fromkeys(runs, "queued")
        with self.live() as live:
            deadline = time.monotonic() + RUNS_S
            while not all(state in FINISHED for state in states.values()):
                self.refresh(stack, since, live)
                states = self.states(stack, runs)
                if time.monotonic() > deadline:
                    break
            self.refresh(stack, since, live)
            lines = self.lines(stack, since)
            problems = [*(verdict(lines, states) if runs else ()), *broken]
            if not self.once:
                if not self.console.is_terminal:
                    self.console.print(table(lines))
                self.judge(problems)
            while not self.once:
                self.refresh(stack, since, live)
        self.console.print(table(lines, width=self.console.width))
        return self.judge(problems)

    def trigger_all(self, stack: Stack, client: AirflowClient) -> list[Run]:
        """Wait until every DAG file has been read, then start a run of each example."""
        wanted = dag_files(self.options.dags)
        deadline = time.monotonic() + PARSED_S
        while time.monotonic() < deadline and not wanted <= read_files(stack.engine):
            self.check(stack)
            time.sleep(REFRESH_S)
        return [(dag, client.trigger(dag)) for dag in client.dags(TAG)]

    def introduce(self, stack: Stack, runs: Sequence[Run]) -> None:
        """The short screen of a stack that is up."""
        setup = stack.setup
        self.console.print()
        self.console.print(
            f"  Airflow   [bold]{setup.airflow_url}[/]   user {setup.user}   password {setup.password}"
        )
        self.console.print(f"  Flower    [bold]{setup.flower_url}[/]   the same user and password")
        self.console.print(f"  Commands  [bold]{near(setup.command)} hybrid status[/]", soft_wrap=True)
        self.console.print(
            f"  Started   {', '.join(dag for dag, _ in runs) or 'no DAG: none bears the tag ' + TAG}"
        )
        if not self.once:
            self.console.print("  Ctrl-C stops everything.")
        self.console.print()

    def live(self) -> Live:
        """A table that is drawn again in place on a terminal, and once elsewhere."""
        return Live(Group(), console=self.console, auto_refresh=False, transient=self.once)

    def refresh(self, stack: Stack, since: datetime, live: Live) -> None:
        """Look after the services, then draw what runs where."""
        self.check(stack)
        if self.console.is_terminal and (lines := self.lines(stack, since)):
            live.update(table(lines, max(5, self.console.height - 6), self.console.width), refresh=True)
        time.sleep(REFRESH_S)

    def lines(self, stack: Stack, since: datetime) -> list[Line]:
        """What ran; nothing while the database is being restarted."""
        try:
            return read_lines(stack.engine, since)
        except sa.exc.DBAPIError:
            return []

    def states(self, stack: Stack, runs: Sequence[Run]) -> dict[Run, str]:
        """How far the runs are; ``unknown`` while the database is being restarted."""
        try:
            return read_states(stack.engine, runs)
        except sa.exc.DBAPIError:
            return dict.fromkeys(runs, "unknown")

    def judge(self, problems: Sequence[str]) -> int:
        """Say what is wrong, or that nothing is; the exit code."""
        for problem in problems:
            self.say(f"[red]wrong[/] {escape(problem)}")
        if not problems:
            self.say("[green]every task succeeded on the backend that its queue asks for[/]")
        return 1 if problems else 0

    def tell(self, event: Event, name: str, note: str) -> None:
        """One line for what happened to a service."""
        self.say(f"{MARKS[event]} {name} ({escape(note)})")

    def say(self, text: str) -> None:
        """A line with the seconds since the start."""
        self.console.print(f"[dim]{time.monotonic() - self.began:6.1f} s[/]  {text}")

    def check(self, stack: Stack | None = None) -> None:
        """Look after the services; raises :class:`Stopped` if the user wants the end."""
        if self.stop_asked:
            raise Stopped
        if stack:
            stack.supervisor.tick()

    def stop(self, stack: Stack) -> None:
        """End every process, and say so."""
        begin = time.monotonic()
        self.say("stopping")
        for problem in stack.stop():
            self.say(f"[red]left[/] {escape(problem)}")
        self.say(f"everything stopped ({time.monotonic() - begin:.1f} s)")


def near(path: Path) -> str:
    """As a person at this folder would type it."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def broken_files(client: AirflowClient, runs: Sequence[Run]) -> list[str]:
    """What keeps example DAGs from running at all."""
    try:
        errors = client.import_errors()
    except (OSError, ApiRefused) as error:
        return [f"the API server does not answer: {error}"]
    problems = [f"{file}: {error}" for file, error in errors.items()]
    return problems if runs or problems else [f"no DAG bears the tag {TAG}"]


def dag_files(folder: Path) -> set[str]:
    """The files in the folder itself that Airflow takes for DAGs, relative to it."""
    found = {
        path for path in folder.glob("*.py") if "dag" in (text := path.read_text()) and "airflow" in text
    }
    return {path.name for path in found}


def read_files(engine: sa.Engine) -> set[str]:
    """The files that the DAG processor has read, with or without success."""
    query = "SELECT relative_fileloc FROM dag WHERE NOT is_stale UNION SELECT filename FROM import_error"
    with engine.connect() as connection:
        return {Path(file).name for (file,) in connection.execute(sa.text(query)) if file}


def file(text: str) -> Path:
    """A file that is there; argparse says the rest."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is no file")
    return path


def folder(text: str) -> Path:
    """A folder that is there; argparse says the rest."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return path


def parser() -> argparse.ArgumentParser:
    """The command line, shared with ``hybrid-executor standalone``."""
    made = argparse.ArgumentParser(
        prog="hybrid-executor standalone", description="The whole product on this machine."
    )
    made.add_argument(
        "--state",
        type=Path,
        default=Path(".demo"),
        help="the one folder that everything is kept in (.demo)",
    )
    made.add_argument("--dags", type=folder, default=None, help="DAG folder; the examples by default")
    made.add_argument("--once", action="store_true", help="run the DAGs tagged 'demo', print where, and end")
    made.add_argument(
        "--queues", default="default", help="queues that the Celery worker takes, comma separated (default)"
    )
    made.add_argument("--slots", type=int, default=4, help="tasks that the Celery worker runs at once (4)")
    made.add_argument(
        "--kubeconfig",
        type=file,
        default=None,
        help="run pods in this cluster instead of the embedded one; tasks succeed there only on a node of"
        " processes on this machine, as 'make cluster' has it: others reach no address of the demo",
    )
    made.add_argument(
        "--namespace", default=NAMESPACE, help=f"with --kubeconfig: made if it is not there ({NAMESPACE})"
    )
    return made


def example_dags() -> Path:
    """The example DAGs: inside an installed package, or in the clone beside it."""
    package = Path(__file__).parents[2]
    shipped = package / "example_dags"
    return shipped if shipped.is_dir() else package.parent / "dags"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run."""
    asked = parser().parse_args(arguments)
    options = Options(
        state=asked.state.resolve(),
        dags=(asked.dags or example_dags()).resolve(),
        queues=tuple(asked.queues.split(",")),
        worker_slots=asked.slots,
        kubeconfig=asked.kubeconfig,
        namespace=asked.namespace,
    )
    demo = Demo(options, asked.once)

    def ask_to_stop(*_: object) -> None:
        demo.stop_asked = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask_to_stop)
    return demo.run()


if __name__ == "__main__":
    sys.exit(main())
