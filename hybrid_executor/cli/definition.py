"""The command group ``airflow hybrid``, as Airflow's command line reads it from the provider metadata.

Says what there is; the commands themselves are imported when one is run,
because Airflow loads this for every ``airflow`` command.
"""

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
ARG_JSON = _arg("--json", action="store_true", help="Print the checks as JSON")

HYBRID_COMMANDS = (
    ActionCommand(
        name="explain",
        help="Show where each task of a DAG runs and which rule says so",
        description=(
            "Show the route of every task of a DAG as the scheduler would choose it: from the serialized DAG"
            " in the metadata database and after task_instance_mutation_hook. Shows mapped tasks once."
        ),
        func=lazy_load_command("hybrid_executor.cli.explain.explain"),
        args=(ARG_DAG_ID, ARG_TASK_ID, ARG_TRY_NUMBER, ARG_RUN_ID, ARG_OUTPUT, ARG_VERBOSE),
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
)


def get_cli_commands() -> list[CLICommand]:
    """Return the group; the provider metadata names this function."""
    return [
        GroupCommand(
            name="hybrid", help="Routes and health of the hybrid executor", subcommands=HYBRID_COMMANDS
        )
    ]
