"""The arguments of ``airflow hybrid``; ``definition`` says which command takes which.

Airflow loads this for every ``airflow`` command: what turns a word into a
value is imported when there is one.
"""

import argparse
from datetime import timedelta
from typing import Any

from airflow.cli.cli_config import Arg, positive_int

POSITIVE = positive_int(allow_zero=False)  # type: ignore[no-untyped-call]
NOT_NEGATIVE = positive_int(allow_zero=True)  # type: ignore[no-untyped-call]


def _arg(*flags: str, **options: Any) -> Arg:
    return Arg(flags, **options)  # type: ignore[no-untyped-call]


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


ARG_DAG_ID = _arg("dag_id", help="The id of the DAG")
ARG_TASK_ID = _arg("task_id", nargs="?", help="The id of one task; all tasks without it")
ARG_TRY_NUMBER = _arg(
    "--try-number",
    type=POSITIVE,
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
ARG_JSON = _arg("--json", action="store_true", help="Print it as JSON, for programs")
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
ARG_WORKER = _arg("worker", help="The worker's name, celery@..., or that of its pod")
ARG_WAIT = _arg("--wait", action="store_true", help="Return when it has nothing at hand any more")
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
ARG_TARGET = _arg(
    "target",
    nargs="+",
    metavar="POD | ATTEMPT | DAG_ID RUN_ID TASK_ID",
    help="A pod's name, an attempt's id (external_executor_id), or a task of a run",
)
ARG_MAP_INDEX = _arg("--map-index", type=int, default=-1, help="The map index of the task (default: none)")
ARG_TRY = _arg(
    "--try-number",
    type=POSITIVE,
    help="The try of the task (default: the newest that has a pod)",
)
ARG_FOLLOW = _arg(
    "-f", "--follow", action="store_true", help="Wait for the pod to start, follow it to its end"
)
ARG_TAIL = _arg(
    "--tail",
    type=NOT_NEGATIVE,
    help="So many last lines (default: all)",
)
ARG_CONTAINER = _arg("-c", "--container", help="Another container than the one that runs the task")

ARG_RUN_OF_TASK = _arg("run_id", help="The id of the run")
ARG_ONE_TASK = _arg("task_id", help="The id of the task")
ARG_ONE_INDEX = _arg(
    "--map-index", type=int, help="One instance of a mapped task (default: all of them, one line each)"
)
ARG_ONE_TRY = _arg(
    "--try-number",
    type=POSITIVE,
    help="One try of the task (default: all)",
)
ARG_POOL = _arg("--pool", metavar="NAME", help="This pool alone (default: all)")
ARG_QUERY = _arg(
    "--query",
    action="store_true",
    help="Print the query that an autoscaler asks for the pool, and ask nothing",
)
ARG_WATCH = _arg("-w", "--watch", action="store_true", help="Show it again and again, until Ctrl-C")
ARG_EVERY = _arg(
    "--every",
    type=POSITIVE,
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
        type=POSITIVE,
        default=50,
        help="So many on a page (default: 50)",
    ),
    _arg("--after", metavar="PLACE", help="The page after this place, as the page before has named it"),
)
