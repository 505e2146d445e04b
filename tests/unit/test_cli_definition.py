"""``airflow hybrid`` in Airflow's own command line, as it is parsed; nothing is run."""

from datetime import timedelta

import pytest
from airflow.cli.cli_config import Arg
from airflow.cli.cli_parser import get_parser

from hybrid_executor.cli.arguments import STATES
from hybrid_executor.cli.definition import HYBRID_COMMANDS, LEDGER_COMMANDS, PODS_COMMANDS
from hybrid_executor.model.record import Outcome, Stage


@pytest.mark.parametrize(
    ("words", "function"),
    [
        (["pods"], "pods"),
        (["pods", "--all", "-o", "json"], "pods"),
        (["pods", "cleanup", "--older-than", "12h"], "cleanup"),
        (["pods", "advise", "--dag", "etl", "--since", "30d", "--json"], "advise_requests"),
        (["pods", "logs", "-f", "etl", "r", "t"], "logs"),
        (["ledger"], "ledger"),
        (["ledger", "trim", "--older-than", "30d"], "trim"),
    ],
)
def test_a_command_may_have_commands_below_it(words: list[str], function: str) -> None:
    assert get_parser().parse_args(["hybrid", *words]).func.__name__ == function


def test_the_words_of_a_command_arrive() -> None:
    cleanup = get_parser().parse_args(
        ["hybrid", "pods", "cleanup", "--older-than", "1d12h", "--dry-run", "-n", "a", "-n", "b"]
    )
    assert (cleanup.older_than, cleanup.dry_run, cleanup.namespace) == (timedelta(hours=36), True, ["a", "b"])
    advise = get_parser().parse_args(["hybrid", "pods", "advise"])
    assert (advise.dag, advise.since, advise.json) == (None, timedelta(days=7), False)
    logs = get_parser().parse_args(["hybrid", "pods", "logs", "etl", "r", "t", "--tail", "5"])
    assert (logs.target, logs.tail, logs.follow, logs.map_index) == (["etl", "r", "t"], 5, False, -1)


def test_every_state_of_a_submission_can_be_asked_for() -> None:
    assert set(STATES) == {*Stage, *Outcome}


def test_no_help_has_brackets_which_airflow_takes_for_markup() -> None:
    commands = [*HYBRID_COMMANDS, *PODS_COMMANDS, *LEDGER_COMMANDS]
    helps = [arg.kwargs.get("help", "") for command in commands for arg in command.args if type(arg) is Arg]
    assert [text for text in map(str, helps) if "[" in text] == []
