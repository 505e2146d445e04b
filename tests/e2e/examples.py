"""Runs of the example DAGs, all at once on one stack, and all that the tests look at in them."""

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from tests.fixtures.podwatch import PodWatch, watched_pods
from tests.fixtures.stack import RunningStack, wait_until

ROWS = 1_200_000
KEYS = 30_011
EXAMPLES = (
    "fan_out",
    "mixed_etl",
    "pod_override",
    "retry_crosses_backends",
    "start_pods",
    "start_python_pods",
)


@dataclass(frozen=True)
class Sums:
    """What the heavy task must find in the file that the test wrote."""

    rows: int
    keys: int
    total: int
    median: int


@dataclass(frozen=True)
class Run:
    """A finished DAG run."""

    stack: RunningStack
    dag_id: str
    run_id: str
    #: By ``task`` or ``task[index]``.
    states: Mapping[str, str | None]

    @property
    def path(self) -> str:
        return f"/dags/{self.dag_id}/dagRuns/{quote(self.run_id)}"

    def submissions(self) -> dict[str, list[Any]]:
        """The ledger's rows by task, in the order of tries."""
        query = sa.text(
            "SELECT * FROM hybrid_submission WHERE dag_id = :dag AND run_id = :run"
            " ORDER BY try_number, submission"
        )
        found: dict[str, list[Any]] = {}
        with self.stack.db.connect() as connection:
            for row in connection.execute(query, {"dag": self.dag_id, "run": self.run_id}):
                name = row.task_id + (f"[{row.map_index}]" if row.map_index >= 0 else "")
                found.setdefault(name, []).append(row)
        return found

    def task_instances(self) -> list[dict[str, Any]]:
        """What Airflow's API says of the tasks."""
        answer = self.stack.client.get(f"{self.path}/taskInstances")
        instances: list[dict[str, Any]] = answer["task_instances"]
        return instances

    def result(self, task: str, map_index: int = -1) -> Any:
        """What a task returned."""
        query = {"map_index": str(map_index)}
        path = f"{self.path}/taskInstances/{task}/xcomEntries/return_value"
        return self.stack.client.get(path, query)["value"]

    def log(self, task: str, try_number: int = 1, map_index: int = -1) -> str:
        """The log of one try as Airflow's UI gets it: a JSON object a line."""
        query = {"map_index": str(map_index), "full_content": "true"}
        answer = self.stack.client.get(f"{self.path}/taskInstances/{task}/logs/{try_number}", query)
        return "\n".join(map(json.dumps, answer["content"]))


@dataclass(frozen=True)
class Examples:
    """One run of each example DAG, the pods that they made, and what must come of the test's own file."""

    runs: Mapping[str, Run]
    pods: PodWatch
    sums: Sums


@contextmanager
def ran_examples(stack: RunningStack, csv: Path) -> Iterator[Examples]:
    """Run every example at once, and wait until the executor has seen the end of every task.

    The test's own rows are written to ``csv``, which workers and pods must be able to read.
    """
    sums = write_rows(csv)
    stack.wait_healthy()
    with watched_pods(stack.kubeconfig, stack.namespace) as pods:
        conf = {"mixed_etl": {"path": str(csv)}}
        ids = {dag: stack.trigger(dag, conf.get(dag)) for dag in EXAMPLES}
        runs = {dag: Run(stack, dag, run, stack.wait_run(dag, run, 240)) for dag, run in ids.items()}
        wait_until(lambda: not open_rows(runs), 60, lambda: f"open in the ledger: {open_rows(runs)}")
        # The watch may be behind.
        made = recorded_pods(runs)
        wait_until(
            lambda: made <= pods.pods.keys() == pods.deleted,
            60,
            lambda: f"not seen: {made - pods.pods.keys()}, not deleted: {pods.pods.keys() - pods.deleted}",
        )
        yield Examples(runs, pods, sums)


def write_rows(path: Path) -> Sums:
    """Write a file of keys and amounts, adding up what is written on the way."""
    numbers = random.Random(7)
    amounts = numbers.choices(range(1_000_000), k=ROWS)
    with path.open("w") as file:
        file.write("key,amount\n")
        file.writelines(f"{row % KEYS},{amount}\n" for row, amount in enumerate(amounts))
    return Sums(ROWS, KEYS, sum(amounts), sorted(amounts)[ROWS // 2])


def recorded_pods(runs: Mapping[str, Run]) -> set[str]:
    """The names of those that the ledger knows."""
    return {
        str(row.external_name).partition("/")[2]
        for run in runs.values()
        for rows in run.submissions().values()
        for row in rows
        if row.backend == "kubernetes"
    }


def open_rows(runs: Mapping[str, Run]) -> list[str]:
    return [
        f"{dag}.{task} try {row.try_number}"
        for dag, run in runs.items()
        for task, rows in run.submissions().items()
        for row in rows
        if row.ended_at is None
    ]
