"""The command group ``airflow hybrid``, as Airflow's command line reads it from the provider metadata.

Says what there is; the commands themselves are imported when one is run,
because Airflow loads this for every ``airflow`` command.
"""

import argparse
from datetime import timedelta
from typing import Any

from airflow.cli.cli_config import (
    ARG_OUTPUT,
    ARG_VERBOSE,
    ActionCommand,
    Arg,
    CLICommand,
    GroupCommand,
    lazy_load_command,
    positive_int,
)


def _arg(*flags: str, **options: Any) -> Arg:
    return Arg(flags, **options)  # type: ignore[no-untyped-call]


ARG_DAG_ID = _arg("dag_id", help="The id of the DAG")
ARG_TASK_ID = _arg("task_id", nargs="?", help="The id of one task; all tasks without it")
ARG_TRY_NUMBER = _arg(
    "--try-number",
    type=positive_int(allow_zero=False),  # type: ignore[no-untyped-call]
    default=1,
    help="The try to explain, because task_instance_mutation_hook may look at it (default: 1)",
)
ARG_RUN_ID = _arg(
    "--run-id",
    help="The run to explain, because task_instance_mutation_hook may look at it; no run without it",
)
ARG_POD = _arg(
    "--pod",
    action="store_true",
    help="Print the pod of the task, each field with the layer that set it (--output json: as a mapping)",
)
ARG_JSON = _arg("--json", action="store_true", help="Print the checks as JSON")


def _duration(text: str) -> timedelta:
    from hybrid_executor.durations import parse_duration  # noqa: PLC0415 - only this command needs it

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _reason(text: str) -> str:
    from hybrid_executor.model.reason import Reason  # noqa: PLC0415 - as above

    known = {reason.lower(): str(reason) for reason in Reason}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is no reason; there are {', '.join(Reason)}")
    return known[text.lower()]


class _Below(Arg):
    """Commands below one that is itself a command, which Airflow's own two kinds don't provide for."""

    def __init__(self, *commands: ActionCommand) -> None:
        super().__init__(("command",))  # type: ignore[no-untyped-call]
        self._commands = commands

    def add_to_parser(self, parser: argparse.ArgumentParser) -> None:
        below = parser.add_subparsers(dest="command_below", metavar="COMMAND")
        for command in self._commands:
            made = below.add_parser(
                command.name, help=command.help, description=command.description or command.help
            )
            made.formatter_class = parser.formatter_class
            for arg in command.args:
                arg.add_to_parser(made)
            made.set_defaults(func=command.func)


ARG_NAMESPACE = _arg(
    "-n",
    "--namespace",
    action="append",
    help="A namespace to look in, may be repeated (default: those that the executor watches)",
)
ARG_CLUSTER = _arg(
    "--cluster",
    action="append",
    help="A cluster to look in, as the clusters file names it, or default; may be repeated (default: all)",
)
ARG_ALL = _arg("--all", action="store_true", help="Finished pods too")
ARG_OLDER_THAN = _arg(
    "--older-than", type=_duration, required=True, help="How long ago they ended at the least: 90m, 12h, 7d"
)
ARG_DRY_RUN = _arg("--dry-run", action="store_true", help="Say what would be removed, and remove nothing")
ARG_DAG = _arg("--dag", metavar="DAG_ID", help="Tasks of this DAG alone")
ARG_SINCE = _arg(
    "--since",
    type=_duration,
    default=timedelta(days=7),
    help="How long ago runs were queued at the most: 12h, 30d (default: 7d)",
)
ARG_ADVICE_JSON = _arg("--json", action="store_true", help="Print numbers, for programs, as JSON")
ARG_TARGET = _arg(
    "target",
    nargs="+",
    metavar="POD | ATTEMPT | DAG_ID RUN_ID TASK_ID",
    help="A pod's name, an attempt's id (external_executor_id), or a task of a run",
)
ARG_MAP_INDEX = _arg("--map-index", type=int, default=-1, help="The map index of the task (default: none)")
ARG_TRY = _arg(
    "--try-number",
    type=positive_int(allow_zero=False),  # type: ignore[no-untyped-call]
    help="The try of the task (default: the newest that has a pod)",
)
ARG_FOLLOW = _arg(
    "-f", "--follow", action="store_true", help="Wait for the pod to start, follow it to its end"
)
ARG_TAIL = _arg(
    "--tail",
    type=positive_int(allow_zero=True),  # type: ignore[no-untyped-call]
    help="So many last lines (default: all)",
)
ARG_CONTAINER = _arg("-c", "--container", help="Another container than the one that runs the task")

PODS_COMMANDS = (
    ActionCommand(
        name="advise",
        help="Compare what tasks in pods asked for with what they took; propose requests",
        description=(
            "Compare what the tasks that ran in pods asked for with what they took, from the ledger, and"
            " propose requests for each. The worst guesses come first."
        ),
        func=lazy_load_command("hybrid_executor.cli.pods_advise.advise_requests"),
        args=(ARG_DAG, ARG_SINCE, ARG_ADVICE_JSON, ARG_VERBOSE),
    ),
    ActionCommand(
        name="cleanup",
        help="Remove finished pods that are kept, or were left behind",
        description=(
            "Remove finished pods of this Airflow whose ends are recorded. Never touches a pod that lives, or"
            " whose end no scheduler has recorded yet."
        ),
        func=lazy_load_command("hybrid_executor.cli.pods_cleanup.cleanup"),
        args=(ARG_OLDER_THAN, ARG_DRY_RUN, ARG_CLUSTER, ARG_NAMESPACE, ARG_VERBOSE),
    ),
    ActionCommand(
        name="logs",
        help="Show the log of a pod, or follow it",
        description="Show what the task's container prints, of a pod that is there.",
        func=lazy_load_command("hybrid_executor.cli.pods_logs.logs"),
        args=(
            ARG_TARGET,
            ARG_FOLLOW,
            ARG_TAIL,
            ARG_CONTAINER,
            ARG_MAP_INDEX,
            ARG_TRY,
            ARG_CLUSTER,
            ARG_NAMESPACE,
            ARG_VERBOSE,
        ),
    ),
)

ARG_RUN_OF_TASK = _arg("run_id", help="The id of the run")
ARG_ONE_TASK = _arg("task_id", help="The id of the task")
ARG_ONE_INDEX = _arg(
    "--map-index", type=int, help="One instance of a mapped task (default: all of them, one line each)"
)
ARG_ONE_TRY = _arg(
    "--try-number",
    type=positive_int(allow_zero=False),  # type: ignore[no-untyped-call]
    help="One try of the task (default: all)",
)
ARG_STORY_JSON = _arg("--json", action="store_true", help="Print all that is known as JSON")
ARG_WATCH = _arg("-w", "--watch", action="store_true", help="Show it again and again, until Ctrl-C")
ARG_EVERY = _arg(
    "--every",
    type=positive_int(allow_zero=False),  # type: ignore[no-untyped-call]
    default=2,
    metavar="SECONDS",
    help="With --watch: how often (default: 2)",
)
#: What an option may say: the words of ``Stage`` and ``Outcome``.
STATES = ("queued", "submitted", "running", "succeeded", "failed", "replaced", "revoked", "restarted")
FILTERS = (
    _arg("--dag", help="Of this DAG"),
    _arg("--run", help="Of this run"),
    _arg("--task", help="Of this task"),
    _arg("--queue", help="On this queue"),
    _arg("--backend", choices=("celery", "kubernetes"), help="On this backend"),
    _arg("--state", choices=STATES, help="In this state: " + ", ".join(STATES), metavar="STATE"),
    _arg(
        "--reason",
        type=_reason,
        help="That ended for this reason, or wait for it, e.g. OOMKilled or QuotaExceeded",
    ),
    _arg(
        "--since",
        type=_duration,
        default=timedelta(days=1),
        metavar="DURATION",
        help="Queued no longer ago than this: 90m, 12h, 7d (default: 1d)",
    ),
    _arg(
        "--limit",
        type=positive_int(allow_zero=False),  # type: ignore[no-untyped-call]
        default=50,
        help="So many on a page (default: 50)",
    ),
    _arg("--after", metavar="PLACE", help="The page after this place, as the page before has named it"),
)

LEDGER_COMMANDS = (
    ActionCommand(
        name="trim",
        help="Remove rows of attempts that ended long ago",
        description=(
            "Remove rows of attempts that ended long ago, in batches. Never touches an attempt that is open."
        ),
        func=lazy_load_command("hybrid_executor.cli.ledger_trim.trim"),
        args=(ARG_OLDER_THAN, ARG_DRY_RUN, ARG_VERBOSE),
    ),
)

HYBRID_COMMANDS = (
    ActionCommand(
        name="status",
        help="Show what is queued, waits, runs and has ended, on one screen",
        description=(
            "Show what the ledger knows: submissions by backend and queue, what has not started and why,"
            " where tasks run, and what ended in the last hour."
        ),
        func=lazy_load_command("hybrid_executor.cli.status.status"),
        args=(ARG_WATCH, ARG_EVERY, ARG_STORY_JSON, ARG_VERBOSE),
    ),
    ActionCommand(
        name="why",
        help="Tell where a task is, what became of each of its tries, and what to do about it",
        description=(
            "Tell the story of one task of a run: when it was queued, by which rule it went where, what it"
            " waited for, where it ran, why it ended, and what to do about it."
        ),
        func=lazy_load_command("hybrid_executor.cli.why.why"),
        args=(
            ARG_DAG_ID,
            ARG_RUN_OF_TASK,
            ARG_ONE_TASK,
            ARG_ONE_INDEX,
            ARG_ONE_TRY,
            ARG_STORY_JSON,
            ARG_VERBOSE,
        ),
    ),
    ActionCommand(
        name="ledger",
        help="Show the state of the ledger's table; trim it",
        description="Show the ledger's revision, how much is open, and how far back it goes.",
        func=lazy_load_command("hybrid_executor.cli.ledger.ledger"),
        args=(_Below(*LEDGER_COMMANDS), ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="attempts",
        help="List submissions from the ledger, newest first",
        description=(
            "List what was handed to a backend, newest first, with how it stands or ended. JSON and YAML have"
            " more columns than the table."
        ),
        func=lazy_load_command("hybrid_executor.cli.attempts.attempts"),
        args=(*FILTERS, ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="explain",
        help="Show where each task of a DAG runs and which rule says so",
        description=(
            "Show the route of every task of a DAG as the scheduler would choose it: from the serialized DAG"
            " in the metadata database and after task_instance_mutation_hook. Shows mapped tasks once."
            " With --pod, print the manifest that the scheduler would send, after pod_mutation_hook."
        ),
        func=lazy_load_command("hybrid_executor.cli.explain.explain"),
        args=(ARG_DAG_ID, ARG_TASK_ID, ARG_POD, ARG_TRY_NUMBER, ARG_RUN_ID, ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="routes",
        help="Show the routing table and what is wrong with it",
        description="Show every routing rule in the order of asking. Fails if the routes file is wrong.",
        func=lazy_load_command("hybrid_executor.cli.routes.routes"),
        args=(ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="doctor",
        help="Check settings, files, connections, permissions and migrations",
        description="Check everything that the executor needs, one line each. Fails if anything is wrong.",
        func=lazy_load_command("hybrid_executor.cli.doctor.doctor"),
        args=(ARG_JSON, ARG_VERBOSE),
    ),
    ActionCommand(
        name="pods",
        help="Show the pods of this Airflow with their tasks; clean up, show logs, advise",
        description=(
            "Show the live pods of this Airflow: task, phase, age, why they wait, node. JSON and YAML have"
            " more columns than the table."
        ),
        func=lazy_load_command("hybrid_executor.cli.pods.pods"),
        args=(_Below(*PODS_COMMANDS), ARG_ALL, ARG_CLUSTER, ARG_NAMESPACE, ARG_OUTPUT, ARG_VERBOSE),
    ),
)


def get_cli_commands() -> list[CLICommand]:
    """Return the group; the provider metadata names this function."""
    return [
        GroupCommand(
            name="hybrid",
            help="Where tasks are and why: routes, attempts, pods and health of the hybrid executor",
            subcommands=HYBRID_COMMANDS,
        )
    ]
