"""A submission's story is told in order, from whatever the ledger holds."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.model.attempt import BackendName, SubmissionId, TaskAddress, WorkloadKind
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, Stage, SubmissionRecord
from hybrid_executor.timeline import Event, advice, headline, story

START = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
NOW = START + timedelta(hours=1)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def record(**values: Any) -> SubmissionRecord:
    given = {
        "id": SubmissionId("8cde6fc8-0000-4000-8000-000000000000", 1),
        "kind": WorkloadKind.TASK,
        "workload_id": "w",
        "address": TaskAddress(dag_id="etl", task_id="load", run_id="r"),
        "queue": "gpu-1",
        "backend": BackendName.KUBERNETES,
        "rule": "routes.yaml rule 2: queue gpu-*",
        "scheduler_job": "1",
        "queued_at": START,
    }
    return SubmissionRecord(**(given | values))


ENDED = record(
    submitted_at=at(0.19),
    waits_for=Reason.IMAGE_PULL,
    waits_message="registry is away",
    waits_since=at(1),
    started_at=at(60),
    ended_at=at(308),
    external_name="airflow/etl-load-1",
    where="etl-load-1 on node-7",
    outcome=Outcome.FAILED,
    reason=Reason.OOM_KILLED,
    message="container base: limit 512Mi",
    exit_code=137,
)


def test_the_story_of_a_failure_has_every_step_and_the_reason() -> None:
    assert [(moment.event, moment.text) for moment in story(ENDED)] == [
        (Event.QUEUED, "queued; goes to kubernetes by routes.yaml rule 2: queue gpu-*"),
        (Event.SUBMITTED, "submitted as airflow/etl-load-1"),
        (Event.WAITS, "waits for ImagePull: registry is away"),
        (Event.STARTED, "started: etl-load-1 on node-7"),
        (Event.ENDED, "failed, exit code 137: OOMKilled: container base: limit 512Mi"),
    ]
    assert advice(ENDED) == Reason.OOM_KILLED.hint


@pytest.mark.parametrize(
    ("values", "words", "what_to_do"),
    [
        ({}, "queued 1h ago, not submitted: it waits for room on its backend", "kubernetes_parallelism"),
        (
            {"waits_for": Reason.QUOTA, "waits_message": "pods, used 10 of 10"},
            "queued 1h ago, not submitted: QuotaExceeded: pods, used 10 of 10",
            Reason.QUOTA.hint,
        ),
        ({"submitted_at": at(0)}, "submitted 1h ago, not started", ""),
        (
            {"submitted_at": at(0), "backend": BackendName.CELERY},
            "submitted 1h ago, not started",
            "start workers for queue gpu-1",
        ),
        (
            {"submitted_at": at(0), "started_at": at(60), "where": "celery@w1", "waits_for": Reason.IN_QUEUE},
            "running for 59m on celery@w1",
            "",
        ),
        ({"ended_at": at(1), "outcome": Outcome.SUCCEEDED}, "succeeded (its process ended well)", ""),
    ],
)
def test_how_it_stands_is_one_line_with_what_to_do(
    values: dict[str, Any], words: str, what_to_do: str
) -> None:
    line = headline(record(**values), NOW)
    assert words in line
    assert what_to_do in advice(record(**values))
    assert bool(what_to_do) == bool(advice(record(**values)))


def test_a_wait_that_was_over_at_once_is_no_part_of_the_story() -> None:
    started = record(
        submitted_at=at(0),
        waits_for=Reason.POD_PENDING,
        waits_since=at(1),
        started_at=at(1.9),
        where="p on n",
    )
    assert [moment.event for moment in story(started)] == ["queued", "submitted", "started"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ""),
        (
            {"memory_peak_bytes": 300 << 20, "cpu_peak_m": 80},
            "300Mi memory, 80m of cpu in its busiest minute",
        ),
        ({"memory_peak_bytes": 1 << 29, "memory_limit_bytes": 1 << 29}, "512Mi of 512Mi memory"),
    ],
)
def test_the_story_ends_with_what_the_task_took(values: dict[str, Any], words: str) -> None:
    end = story(replace(ENDED, **values))[-1].text
    assert end.endswith(f"limit 512Mi; took up to {words}" if words else "limit 512Mi")


def test_a_message_is_submitted_to_its_queue_and_a_pod_by_its_name() -> None:
    message = record(submitted_at=at(1), external_name="uuid", backend=BackendName.CELERY)
    assert story(message)[-1].text == "submitted to queue gpu-1"


def test_a_wait_that_was_over_before_the_start_is_no_reason_of_what_runs() -> None:
    running = record(submitted_at=at(0), started_at=at(5), waits_for=Reason.QUOTA, waits_since=at(1))
    assert running.diagnosis is None
    assert running.state is Stage.RUNNING


times = st.none() | st.integers(0, 4000).map(at)


@given(
    st.fixed_dictionaries(
        {
            "id": st.integers(1, 3).map(lambda number: SubmissionId("a", number)),
            "backend": st.sampled_from(BackendName),
            "submitted_at": times,
            "started_at": times,
            "ended_at": times,
            "waits_since": times,
            "waits_for": st.none() | st.sampled_from(Reason),
            "outcome": st.sampled_from(Outcome),
        }
    )
)
def test_every_row_has_a_story_in_the_order_of_time(values: dict[str, Any]) -> None:
    row = record(**values | {"outcome": values["outcome"] if values["ended_at"] else None})
    told = story(row)
    assert [moment.at for moment in told] == sorted(moment.at for moment in told)
    assert told[0].event is Event.QUEUED
    assert headline(row, NOW)


def test_the_cluster_is_named_where_it_has_a_name() -> None:
    assert "goes to kubernetes in cluster eu by" in story(record(cluster="eu"))[0].text
