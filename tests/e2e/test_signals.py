"""What the running stack tells to an operator's monitoring: metrics, spans, and a line for each step."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import kubernetes
import pytest
import sqlalchemy as sa

from hybrid_executor.naming import LABEL_ATTEMPT, LABEL_DEPLOYMENT, LABEL_POOL
from tests.e2e.examples import Examples, Run
from tests.e2e.test_running import TOKEN
from tests.fixtures.collector import Collector
from tests.fixtures.logshipping import worker_expressions
from tests.fixtures.monitoring import expressions, grouped, selectors
from tests.fixtures.stack import TRANSITIONS, RunningStack, wait_until

#: Until everything is told: an export of metrics every two seconds, of spans every second, on a busy machine.
PATIENCE_S = 60
ENDS = "airflow_hybrid_executor_ends_total"


@dataclass(frozen=True)
class Eventful:
    """What happened on the stack: the examples, and a run of which a user has ended a task that waited."""

    examples: Examples
    withdrawn: Run

    def rows(self) -> Iterator[Any]:
        """The ledger's, of all of it."""
        for run in (*self.examples.runs.values(), self.withdrawn):
            for rows in run.submissions().values():
                yield from rows


@pytest.fixture(scope="module")
def eventful(stack: RunningStack, examples: Examples) -> Iterator[Eventful]:
    """Beside the examples: a worker that is a pod, and a task that waits until a user marks it as failed."""
    stack.wait_healthy()
    with a_workers_pod(stack, examples):
        run = Run(stack, "withdrawn", stack.trigger("withdrawn"), {})
        wait_until(lambda: waits(run), 90, lambda: str(run.submissions()))
        stack.client.call("PATCH", f"{run.path}/taskInstances/never_starts", {"new_state": "failed"})
        wait_until(lambda: is_over(run), 90, lambda: str(run.submissions()))
        yield Eventful(examples, run)


def waits(run: Run) -> bool:
    return any(row.waits_for for row in run.submissions().get("never_starts", ()))


def is_over(run: Run) -> bool:
    return all(row.ended_at for row in run.submissions()["never_starts"])


@contextmanager
def a_workers_pod(stack: RunningStack, examples: Examples) -> Iterator[None]:
    """A pod with the labels of a pool's worker; what it runs is nobody's concern."""
    pods = examples.pods.of_run(examples.runs["mixed_etl"].run_id)
    deployment = next(iter(pods.values()))["metadata"]["labels"][LABEL_DEPLOYMENT]
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "light-0", "labels": {LABEL_POOL: "light", LABEL_DEPLOYMENT: deployment}},
        "spec": {"containers": [{"name": "worker", "image": "none", "command": ["sleep", "600"]}]},
    }
    with kubernetes.config.new_client_from_config(str(stack.kubeconfig)) as client:
        core = kubernetes.client.CoreV1Api(client)
        core.create_namespaced_pod(stack.namespace, body)
        try:
            yield
        finally:
            core.delete_namespaced_pod("light-0", stack.namespace, grace_period_seconds=0)


# --- metrics ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "query"), [*expressions()])
def test_every_metric_and_label_of_dashboard_and_alerts_comes_from_the_stack(
    eventful: Eventful, signals: Collector, where: str, query: str
) -> None:
    named = selectors(query)
    for name, asked in named:
        if name.endswith("_seconds_bucket"):
            # As StatsD's exporter names a time: the query must ask for that of OpenTelemetry as well.
            assert name.replace("_seconds_bucket", "_milliseconds") in {other for other, _ in named}
            continue
        wait_until(
            lambda name=name, asked=asked: any(asked <= labels for labels in signals.metrics.get(name, ())),
            PATIENCE_S,
            lambda name=name: f"{where}: {name} came with {signals.metrics.get(name)}",
        )
    came = {label for name, _ in named for labels in signals.metrics.get(name, ()) for label in labels}
    assert grouped(query) <= came | {"le"}, where


def test_the_ends_that_are_counted_are_those_of_the_ledger(eventful: Eventful, signals: Collector) -> None:
    """Those of a queue that only the withdrawn task has, since the stack is not this module's alone."""
    [row] = eventful.withdrawn.submissions()["never_starts"]
    ends = {"queue": "nobody-serves-it", "outcome": row.outcome, "backend": "celery"}
    wait_until(lambda: signals.count(ENDS, **ends) > 0, PATIENCE_S, lambda: str(signals.counts))
    assert signals.count(ENDS, queue="nobody-serves-it") == signals.count(ENDS, **ends) == 1


# --- spans -----------------------------------------------------------------------------------


def test_every_submission_is_a_span_from_queued_to_ended(eventful: Eventful, signals: Collector) -> None:
    rows = {(row.attempt_id, row.submission): row for row in eventful.rows()}
    assert {row.backend for row in rows.values()} == {"celery", "kubernetes"}
    wait_until(
        lambda: rows.keys() <= told(signals).keys(), PATIENCE_S, lambda: f"{rows.keys() - told(signals)}"
    )
    for key, row in rows.items():
        [span] = told(signals)[key]
        assert values(span)["hybrid_executor.backend"] == row.backend
        assert seconds(span) == pytest.approx((row.ended_at - row.queued_at).total_seconds(), abs=1.0)
        legs = [one for one in list(signals.spans) if one.parent_span_id == span.span_id]
        assert {"queued"} <= {leg.name for leg in legs} <= {"queued", "waiting", "starting", "running"}
        assert {leg.trace_id for leg in legs} == {span.trace_id}


def test_a_submission_is_inside_the_trace_that_airflow_gave_its_task(
    stack: RunningStack, eventful: Eventful, signals: Collector
) -> None:
    """Where there is a mutation hook, as here, Airflow 3.3 gives one to what is mapped at run time alone."""
    traced, rows = carriers(stack), list(eventful.examples.runs["fan_out"].submissions().items())
    wait_until(
        lambda: {(row.attempt_id, row.submission) for _, [row] in rows} <= told(signals).keys(),
        PATIENCE_S,
        lambda: f"{told(signals).keys()}",
    )
    joined = set()
    for name, [row] in rows:
        [span] = told(signals)[row.attempt_id, row.submission]
        carrier = traced[row.attempt_id]
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (carrier or (span.trace_id.hex(), ""))
        if carrier:
            joined.add(row.backend)
            # Airflow's own, told by the API server when the task is over.
            wait_until(
                lambda span=span: parents(signals, span), PATIENCE_S, lambda name=name: f"none: {name}"
            )
            [parent] = parents(signals, span)
            assert parent.name == f"task_run.{name}"
    assert joined == {"celery", "kubernetes"}


def carriers(stack: RunningStack) -> dict[str, tuple[str, str] | None]:
    """Trace and span that Airflow gave each task instance, by attempt."""
    query = sa.text("SELECT external_executor_id, context_carrier FROM task_instance")
    with stack.db.connect() as connection:
        found = {attempt: carrier for attempt, carrier in connection.execute(query) if attempt}
    parents = {
        attempt: (carrier["__var"]["traceparent"] if carrier else "") for attempt, carrier in found.items()
    }
    return {attempt: (one[3:35], one[36:52]) if one else None for attempt, one in parents.items()}


def told(signals: Collector) -> dict[tuple[str, int], list[Any]]:
    """Spans of submissions, by attempt and number."""
    found: defaultdict[tuple[str, int], list[Any]] = defaultdict(list)
    for span in list(signals.spans):
        if span.name.startswith("submission."):
            attributes = values(span)
            key = attributes["hybrid_executor.attempt_id"], attributes["hybrid_executor.submission"]
            found[key].append(span)
    return found


def parents(signals: Collector, span: Any) -> list[Any]:
    return [one for one in list(signals.spans) if one.span_id == span.parent_span_id]


def values(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def seconds(span: Any) -> float:
    return float(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


# --- lines -----------------------------------------------------------------------------------


def test_the_lines_tell_each_step_of_every_submission_of_both_kinds(
    stack: RunningStack, eventful: Eventful
) -> None:
    rows = {(row.attempt_id, row.submission): row for row in eventful.rows()}
    # They are written after the ledger.
    wait_until(
        lambda: all(
            any(step["to"] == row.outcome for step in lines(stack)[key]) for key, row in rows.items()
        ),
        PATIENCE_S,
        lambda: f"{rows.keys() - lines(stack).keys()}",
    )
    told = lines(stack)
    for row in rows.values():
        steps = told[row.attempt_id, row.submission]
        assert [after.get("from") for after in steps] == [None, *(before["to"] for before in steps[:-1])]
        assert steps[-1]["to"] == row.outcome
        assert {(one["backend"], one["dag_id"], one["task_id"]) for one in steps} == {
            (row.backend, row.dag_id, row.task_id)
        }


def test_the_lines_join_with_the_logs_of_workers_and_the_labels_of_pods(
    stack: RunningStack, eventful: Eventful
) -> None:
    rows = [row for row in eventful.rows() if row.started_at]
    on_workers = {row.attempt_id for row in rows if row.backend == "celery"}
    in_pods = {row.attempt_id for row in rows if row.backend == "kubernetes"}
    assert on_workers
    assert in_pods
    log = stack.log("worker")
    assert [one for one in on_workers if f"[{one}]" not in log] == []
    labels = (pod["metadata"]["labels"] for pod in list(eventful.examples.pods.pods.values()))
    assert in_pods <= {one.get(LABEL_ATTEMPT) for one in labels}
    assert on_workers | in_pods <= {attempt for attempt, _ in lines(stack)}


def test_the_guides_expressions_find_the_attempts_in_a_workers_log(
    stack: RunningStack, eventful: Eventful
) -> None:
    on_workers = {row.attempt_id for row in eventful.rows() if row.backend == "celery" and row.started_at}
    log = stack.log("worker")
    for shipper, expression in worker_expressions().items():
        assert on_workers <= set(re.findall(expression, log)), shipper


def test_nothing_that_is_told_holds_a_token(
    stack: RunningStack, eventful: Eventful, signals: Collector
) -> None:
    text = (stack.stack.setup.state / TRANSITIONS).read_text()
    assert len(text.splitlines()) > 50
    assert not TOKEN.search(text)
    assert not [span for span in list(signals.spans) if TOKEN.search(str(span))]


def lines(stack: RunningStack) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """By attempt and number."""
    found: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    # The last may be half written.
    for line in (stack.stack.setup.state / TRANSITIONS).read_text().rpartition("\n")[0].splitlines():
        step = json.loads(line)
        found[step["attempt_id"], step["submission"]].append(step)
    return found
