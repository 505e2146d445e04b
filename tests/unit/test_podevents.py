"""What Flower makes of a pod's events: Celery's own ``State``, which Flower is built on, is asked."""

from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from celery.events.state import State
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.backends.celery.podevents import Told, events_of, reached, worker_of
from hybrid_executor.backends.celery.shown import argsrepr, kwargsrepr, shadow
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, SubmissionRecord
from hybrid_executor.naming import celery_task_id
from tests.contract.ledger_suite import START, a_full_record, a_record

WORKER = "kubernetes@airflow"
#: What Flower shows of each end.
STATES = {
    Outcome.SUCCEEDED: "SUCCESS",
    Outcome.FAILED: "FAILURE",
    Outcome.REPLACED: "RETRY",
    Outcome.RESTARTED: "RETRY",
    Outcome.REVOKED: "REVOKED",
}
outcomes = st.sampled_from(list(Outcome))


def life(outcome: Outcome, *, accepted: bool, started: bool) -> list[SubmissionRecord]:
    """A submission as the ledger has it after each change, in turn."""
    full = a_full_record(outcome=outcome, reason=Reason.OOM_KILLED if outcome is Outcome.FAILED else None)
    record = a_record(attempt=full.id.attempt_id)
    steps = [record]
    if accepted:
        steps.append(replace(steps[-1], submitted_at=full.submitted_at, external_name=full.external_name))
    if accepted and started:
        steps.append(replace(steps[-1], started_at=full.started_at, where=full.where))
    end = {name: getattr(full, name) for name in ("ended_at", "outcome", "reason", "message", "exit_code")}
    return [*steps, replace(steps[-1], **end)]


def told(state: State, record: SubmissionRecord, before: Told | None, clock: Any) -> Told:
    for event in events_of(record, before, WORKER):
        at = event.at.timestamp()
        state.event(
            {
                **event.fields,
                "type": event.type,
                "hostname": event.hostname,
                "timestamp": at,
                "local_received": at,
                "clock": next(clock),
            }
        )
    return reached(record)


@given(outcome=outcomes, accepted=st.booleans(), started=st.booleans(), seen=st.sets(st.integers(0, 3)))
def test_whatever_was_seen_in_between_flower_ends_with_the_ledger_s_outcome(
    outcome: Outcome, accepted: bool, started: bool, seen: set[int]
) -> None:
    steps = life(outcome, accepted=accepted, started=started)
    state, clock, before = State(), count(1), None
    for index, record in enumerate(steps):
        if index in seen or record is steps[-1]:
            before = told(state, record, before, clock)
    task = state.tasks[celery_task_id(steps[-1].id)]
    assert task.state == STATES[outcome]
    assert task.worker.hostname == WORKER
    assert (task.name, task.routing_key) == ("etl.load", "kubernetes")
    assert events_of(steps[-1], before, WORKER) == []


def test_a_pod_that_runs_is_shown_started_with_its_pod_among_its_arguments() -> None:
    state = State()
    told(state, life(Outcome.SUCCEEDED, accepted=True, started=True)[2], None, count(1))
    (task,) = state.tasks.values()
    assert task.state == "STARTED"
    assert task.started == (START + timedelta(seconds=2)).timestamp()
    assert task.args == "('etl', 'manual__2026', 'load', 3, 2)"
    assert "'pod': 'airflow/etl-load-abc-1'" in task.kwargs


def test_a_failure_has_the_diagnosis_as_exception_and_says_what_to_do() -> None:
    *_, end = events_of(a_full_record(), Told.STARTED, WORKER)
    assert end.type == "task-failed"
    assert end.fields["exception"] == "OOMKilled: container base: OOMKilled, limit 512Mi ✗"
    assert end.fields["traceback"] == Reason.OOM_KILLED.hint
    assert end.fields["runtime"] == pytest.approx(1.0)


def test_a_task_bears_the_id_that_its_celery_message_would() -> None:
    first, second = a_record(), a_record(number=2)
    assert events_of(first, None, WORKER)[0].fields["uuid"] == first.id.attempt_id
    event = events_of(second, None, WORKER)[0]
    assert event.fields["uuid"] == celery_task_id(second.id) != second.id.attempt_id
    assert f"'attempt': '{second.id.attempt_id}'" in event.fields["kwargs"]


def test_each_namespace_of_each_cluster_is_a_worker_of_its_own() -> None:
    names = {"": "airflow", "west": "jobs"}
    pod = replace(a_record(), external_name="team/pod")
    assert worker_of(a_record(), names) == "kubernetes@airflow"
    assert worker_of(pod, names) == "kubernetes@team"
    assert worker_of(replace(a_record(), cluster="west"), names) == "kubernetes@jobs.west"
    assert worker_of(replace(pod, cluster="west"), names) == "kubernetes@team.west"


@given(dag=st.text(max_size=300), run=st.text(max_size=300), index=st.integers(-1, 9999))
def test_a_message_and_a_pod_of_one_task_are_shown_alike(dag: str, run: str, index: int) -> None:
    record = a_record(attempt=str(UUID(int=7)))
    assert record.address
    record = replace(record, address=replace(record.address, dag_id=dag, run_id=run, map_index=index))
    shown = events_of(record, None, WORKER)[0].fields
    assert (shown["name"], shown["args"], shown["kwargs"]) == (
        shadow(record),
        argsrepr(record),
        kwargsrepr(record),
    )
    assert record.id == SubmissionId(shown["uuid"], 1)
