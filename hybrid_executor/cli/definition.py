"""The command group ``airflow hybrid``, as Airflow's command line reads it from the provider metadata.

Says what there is; the commands themselves are imported when one is run,
because Airflow loads this for every ``airflow`` command.
"""

import argparse

from airflow.cli.cli_config import (
    ARG_OUTPUT,
    ARG_VERBOSE,
    ActionCommand,
    Arg,
    CLICommand,
    GroupCommand,
    lazy_load_command,
)

from hybrid_executor.cli.arguments import (
    ARG_ALL,
    ARG_CLUSTER,
    ARG_CONTAINER,
    ARG_DAG,
    ARG_DAG_ID,
    ARG_DRY_RUN,
    ARG_EVERY,
    ARG_FOLLOW,
    ARG_JSON,
    ARG_MAP_INDEX,
    ARG_NAMESPACE,
    ARG_OLDER_THAN,
    ARG_ONE_INDEX,
    ARG_ONE_TASK,
    ARG_ONE_TRY,
    ARG_POD,
    ARG_POOL,
    ARG_QUERY,
    ARG_RUN_ID,
    ARG_RUN_OF_TASK,
    ARG_SINCE,
    ARG_TAIL,
    ARG_TARGET,
    ARG_TASK_ID,
    ARG_TRY,
    ARG_TRY_NUMBER,
    ARG_WAIT,
    ARG_WATCH,
    ARG_WORKER,
    FILTERS,
)


class _Below(Arg):
    """Commands below one that is itself a command, which Airflow's own two kinds don't provide for."""

    def __init__(self, *commands: ActionCommand) -> None:
        super().__init__(("command",))  # type: ignore[no-untyped-call]
        self.commands = commands

    def add_to_parser(self, parser: argparse.ArgumentParser) -> None:
        below = parser.add_subparsers(dest="command_below", metavar="COMMAND")
        for command in self.commands:
            made = below.add_parser(
                command.name, help=command.help, description=command.description or command.help
            )
            made.formatter_class = parser.formatter_class
            for arg in command.args:
                arg.add_to_parser(made)
            made.set_defaults(func=command.func)


PODS_COMMANDS = (
    ActionCommand(
        name="advise",
        help="Compare what tasks in pods asked for with what they took; propose requests",
        description=(
            "Compare what the tasks that ran in pods asked for with what they took, from the ledger, and"
            " propose requests for each. The worst guesses come first."
        ),
        func=lazy_load_command("hybrid_executor.cli.pods_advise.advise_requests"),
        args=(ARG_DAG, ARG_SINCE, ARG_JSON, ARG_VERBOSE),
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

WORKERS_COMMANDS = (
    ActionCommand(
        name="drain",
        help="Have one worker take nothing more",
        description=(
            "Tell one Celery worker to take nothing more, not even after a reconnect, and to go on with what"
            " it has. It takes tasks again when it is started anew."
        ),
        func=lazy_load_command("hybrid_executor.cli.workers.drain"),
        args=(ARG_WORKER, ARG_WAIT, ARG_VERBOSE),
    ),
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
            " who runs tasks, and what ended in the last hour. Celery workers say what they have at hand."
        ),
        func=lazy_load_command("hybrid_executor.cli.status.status"),
        args=(ARG_WATCH, ARG_EVERY, ARG_JSON, ARG_VERBOSE),
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
            ARG_JSON,
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
        name="scaling",
        help="Show how many workers each pool needs; print the query that an autoscaler asks",
        description=(
            "Show what each pool of Celery workers has in flight and how many workers an autoscaler would"
            " give it now. With --query, print the query for its trigger and nothing else."
        ),
        func=lazy_load_command("hybrid_executor.cli.scaling.scaling"),
        args=(ARG_POOL, ARG_QUERY, ARG_OUTPUT, ARG_VERBOSE),
    ),
    ActionCommand(
        name="doctor",
        help="Check settings, files, connections, permissions and migrations",
        description="Check everything that the executor needs, one line each. Fails if anything is wrong.",
        func=lazy_load_command("hybrid_executor.cli.doctor.doctor"),
        args=(ARG_JSON, ARG_VERBOSE),
    ),
    ActionCommand(
        name="workers",
        help="Show the Celery workers, their load and how they stand; drain one",
        description=(
            "Show the Celery workers: pool, queues, how many tasks of how many, whether it is live, draining,"
            " leaving (its pod is being deleted), silent, idle although messages wait, gone with tasks, or"
            " unknown, because the broker does not answer or the worker did not say all in time."
        ),
        func=lazy_load_command("hybrid_executor.cli.workers.workers"),
        args=(_Below(*WORKERS_COMMANDS), ARG_OUTPUT, ARG_VERBOSE),
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
