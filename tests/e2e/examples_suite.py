"""What must come of every DAG in dags/, whatever its pods run on: one suite, every cluster.

A test module subclasses ``ExamplesSuite`` as ``Test…`` and gives ``stack`` and ``examples`` fixtures.
"""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.examples import ROWS, Examples
from tests.fixtures.stack import EXAMPLES as FOLDER
from tests.fixtures.stack import RunningStack

#: The backends of a task's attempts: of its tries, and of what follows a deferral.
EXPECTED = {
    "fan_out": {
        "split": ["celery"],
        **{f"square[{index}]": ["celery"] for index in range(3)},
        **{f"cube[{index}]": ["kubernetes"] for index in range(3)},
        "join": ["celery"],
    },
    "mixed_etl": {"extract": ["celery"], "aggregate": ["kubernetes"], "report": ["celery"]},
    "pod_override": {"read_own_pod": ["kubernetes"]},
    "retry_crosses_backends": {"outgrows_its_worker": ["celery", "kubernetes"]},
    "start_pods": {
        "watched": ["celery"],
        "deferred": ["celery", "celery"],
        "from_a_pod": ["kubernetes"],
    },
    "start_python_pods": {"count": ["celery"]},
}
#: Those that the demo starts.
IN_THE_DEMO = set(EXPECTED) - {"start_python_pods"}
#: What each of its pods says.
SAID = {
    ("start_pods", "watched"): "hello from start_pods__watched__",
    ("start_pods", "deferred"): "hello from start_pods__deferred__",
    ("start_pods", "from_a_pod"): "hello from start_pods__from_a_pod__",
    ("start_python_pods", "count"): "6 by /tmp/script.py on Python 3",
}

every_dag = pytest.mark.parametrize("dag", sorted(EXPECTED))


class ExamplesSuite:
    """Green, each task where its queue says, and nothing left behind."""

    def test_every_dag_of_the_folder_is_run_here(self, examples: Examples, stack: RunningStack) -> None:
        assert {path.stem for path in FOLDER.glob("*.py")} == set(EXPECTED)
        assert set(stack.client.dags("demo")) == IN_THE_DEMO
        assert set(examples.runs) == set(EXPECTED)

    @every_dag
    def test_every_task_succeeds_in_the_metadata_database(self, examples: Examples, dag: str) -> None:
        assert examples.runs[dag].states == dict.fromkeys(EXPECTED[dag], "success")

    @every_dag
    def test_every_task_succeeds_in_the_rest_api(self, examples: Examples, dag: str) -> None:
        run = examples.runs[dag]
        assert run.stack.client.run_state(dag, run.run_id) == "success"
        instances = run.task_instances()
        assert len(instances) == len(EXPECTED[dag])
        assert {one["state"] for one in instances} == {"success"}

    @every_dag
    def test_the_ledger_knows_which_backend_ran_every_try_and_how_it_ended(
        self, examples: Examples, dag: str
    ) -> None:
        submissions = examples.runs[dag].submissions()
        assert {task: [row.backend for row in rows] for task, rows in submissions.items()} == EXPECTED[dag]
        for task, rows in submissions.items():
            numbers = [1, 1] if task == "deferred" else list(range(1, len(rows) + 1))
            assert [row.try_number for row in rows] == numbers
            for row in rows:
                assert (row.outcome, row.submission) == ("succeeded", 1)
                assert row.queued_at <= row.submitted_at
                # A Celery task that ends between two reads of the result store is known by its host alone,
                # and by nothing once the next try has begun.
                if row is rows[-1] or row.started_at:
                    assert row.started_at <= row.ended_at
                    assert row.ran_on
                if row.backend == "kubernetes":
                    assert row.ran_on.startswith(pod_of(row))
                assert row.queue == ("default" if row.backend == "celery" else "kubernetes")

    @every_dag
    def test_every_pod_is_in_the_ledger_and_gone_after_success(self, examples: Examples, dag: str) -> None:
        run, pods = examples.runs[dag], examples.pods
        recorded = {
            pod_of(row) for rows in run.submissions().values() for row in rows if row.backend == "kubernetes"
        }
        assert set(pods.of_run(run.run_id)) == recorded
        assert bool(recorded) == any("kubernetes" in backends for backends in EXPECTED[dag].values())
        assert recorded <= pods.deleted
        assert not recorded & pods.living()

    def test_no_pod_shows_a_secret_of_the_stack(self, examples: Examples, stack: RunningStack) -> None:
        setup = stack.stack.setup
        secrets = {
            setup.password, setup.jwt_secret, setup.fernet_key, setup.session_key,
            stack.stack.postgres.password, stack.stack.valkey.password,
        }  # fmt: skip
        shown = json.dumps(examples.pods.pods)
        assert not [secret for secret in secrets if secret in shown]

    def test_the_heavy_step_finds_the_sum_that_the_test_wrote(self, examples: Examples) -> None:
        found = examples.runs["mixed_etl"].result("aggregate")
        sums = examples.sums
        assert sums.rows == ROWS >= 1_000_000
        assert [found[name] for name in ("rows", "keys", "total", "median")] == [
            sums.rows, sums.keys, sums.total, sums.median,
        ]  # fmt: skip
        assert f"total {sums.total:,}" in examples.runs["mixed_etl"].result("report")

    def test_the_heavy_step_needs_a_pod_of_its_own(self, examples: Examples) -> None:
        run = examples.runs["mixed_etl"]
        assert run.result("aggregate")["peak_mib"] > constant("mixed_etl", "SLOT_MEMORY_MIB")
        [pod] = examples.pods.of_run(run.run_id).values()
        [container] = pod["spec"]["containers"]
        assert container["resources"]["requests"]["memory"] == constant("mixed_etl", "POD_MEMORY")

    def test_mapped_tasks_on_both_backends_are_joined(self, examples: Examples) -> None:
        run = examples.runs["fan_out"]
        assert [run.result("cube", index) for index in range(3)] == [1, 8, 27]
        assert run.result("join") == 1 + 4 + 9 + 1 + 8 + 27

    def test_an_override_reaches_the_pod_and_the_task(self, examples: Examples) -> None:
        run = examples.runs["pod_override"]
        assert run.result("read_own_pod") == {"greeting": "hello from the override", "team": "billing"}
        [pod] = examples.pods.of_run(run.run_id).values()
        assert pod["metadata"]["labels"]["team"] == "billing"

    def test_a_retry_runs_on_the_other_backend(self, examples: Examples) -> None:
        assert examples.runs["retry_crosses_backends"].result("outgrows_its_worker") == "pod"

    @pytest.mark.parametrize(("dag", "task"), sorted(SAID))
    def test_a_pod_that_a_task_starts_is_heard_and_gone(
        self, examples: Examples, dag: str, task: str
    ) -> None:
        """Whoever started it: a worker, one that is free meanwhile, or a pod."""
        run, pods = examples.runs[dag], examples.pods
        assert SAID[dag, task] in run.log(task)
        [name] = pods.started_by(run.run_id, task)
        assert name in pods.deleted
        assert not [label for label in pods.pods[name]["metadata"]["labels"] if "hybrid-executor" in label]

    @pytest.mark.parametrize(
        ("dag", "task", "words"),
        [
            ("mixed_etl", "report", "total "),
            ("mixed_etl", "aggregate", "rows of"),
            ("retry_crosses_backends", "outgrows_its_worker", "this worker slot is too small"),
        ],
    )
    def test_the_log_of_an_ended_task_is_shown(
        self, examples: Examples, dag: str, task: str, words: str
    ) -> None:
        assert words in examples.runs[dag].log(task)


def pod_of(row: Any) -> str:
    """The name of a submission's pod."""
    return str(row.external_name).partition("/")[2]


def constant(dag: str, name: str) -> Any:
    """A constant of a DAG file, read without importing Airflow into the test."""
    tree = ast.parse(Path(FOLDER, f"{dag}.py").read_text())
    [value] = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    ]
    return ast.literal_eval(value)
