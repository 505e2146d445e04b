"""What the scheduler's log says of attempts, and in how many records: one costs more than a step."""

import logging

import pytest

from hybrid_executor.attemptlog import LINES_MAX
from hybrid_executor.backends.kubernetes.backend import KubernetesBackend
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Accepted, Diagnosis, Ended, How, Started, Waiting
from hybrid_executor.model.reason import Reason
from tests.fixtures.rig import CELERY, Rig


@pytest.fixture
def rig(caplog: pytest.LogCaptureFixture) -> Rig:
    caplog.set_level(logging.INFO, "hybrid_executor")
    return Rig()


def steps_told(caplog: pytest.LogCaptureFixture) -> list[list[str]]:
    """The lines of each record about attempts."""
    records = [record.getMessage() for record in caplog.records]
    return [text.splitlines() for text in records if text.startswith("attempt_id=")]


def test_steps_that_go_well_share_records(rig: Rig, caplog: pytest.LogCaptureFixture):
    rig.controller.inflight._parallelism = 10 * LINES_MAX
    flights = [rig.queue(task_id=f"task-{number}") for number in range(LINES_MAX + 1)]
    rig.steps(count=2)
    for flight in flights:
        rig.run(flight)
    rig.steps()
    caplog.clear()
    for flight in flights:
        rig.row(flight).state = "success"
        rig.worlds[CELERY].end(flight.id, How.SUCCEEDED)
    rig.steps()
    told = steps_told(caplog)
    assert [len(lines) for lines in told] == [LINES_MAX, 1]
    for line, flight in zip([line for lines in told for line in lines], flights, strict=True):
        said = f"attempt_id={flight.attempt.id} submission=1 backend=celery phase=succeeded"
        assert line.strip() == said, "one line for each, in the order of what happened"


def test_what_does_not_go_well_is_a_record_of_its_own_behind_what_came_before(
    rig: Rig, caplog: pytest.LogCaptureFixture
):
    fine, broken = rig.queue(task_id="fine"), rig.queue(task_id="broken")
    rig.steps(count=2)
    for flight in (fine, broken):
        rig.run(flight)
    rig.steps()
    caplog.clear()
    rig.row(fine).state = "success"
    rig.worlds[CELERY].end(fine.id, How.SUCCEEDED)
    rig.worlds[CELERY].end(broken.id, How.FAILED, Diagnosis(reason=Reason.ERROR, message="100 % of it"))
    rig.steps()
    (well,), (badly,) = steps_told(caplog)
    assert "phase=succeeded" in well
    assert badly.endswith("phase=failed Error: 100 % of it")


def test_a_line_of_a_step_that_was_told_between_heartbeats_comes_with_the_next(
    rig: Rig, caplog: pytest.LogCaptureFixture
):
    """Or at the executor's end, which flushes."""
    flight = rig.queue()
    rig.steps(count=2)
    caplog.clear()
    rig.controller._log.note(flight, "started", "somewhere")
    assert not steps_told(caplog)
    rig.controller.flush()
    assert [line.split(" phase=")[1] for (line,) in steps_told(caplog)] == ["started somewhere"]
    rig.controller.flush()
    assert len(steps_told(caplog)) == 1


def test_nothing_is_kept_where_the_log_does_not_want_it(rig: Rig, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, "hybrid_executor")
    rig.controller._log.note(rig.queue(), "started")
    assert rig.controller._log._lines == []


def test_what_a_pod_does_is_no_record_of_its_backend(caplog: pytest.LogCaptureFixture):
    """The controller's line says it. A second one would be made in the thread that makes the pods."""
    caplog.set_level(logging.INFO, "hybrid_executor")
    backend = KubernetesBackend(KubernetesConfig(), lambda _: {}, owner="1")
    pod = SubmissionId("8a1c54a0-1111-4222-8333-444455556666", 1)
    seen = [
        Accepted(pod, "airflow/pod"),
        Waiting(pod, Reason.POD_PENDING, "no node yet"),
        Started(pod, "pod on node"),
        Ended(pod, How.SUCCEEDED),
    ]
    for observation in seen:
        backend._say(observation)
    assert caplog.records == []
    caplog.set_level(logging.DEBUG, "hybrid_executor")
    for observation in seen:
        backend._say(observation)
    words = ["phase=accepted pod=", "phase=waiting reason=PodPending", "phase=started where=", "phase=ended"]
    for record, phase in zip(caplog.records, words, strict=True):
        assert f"attempt_id={pod.attempt_id} submission=1 backend=kubernetes {phase}" in record.getMessage()
    assert backend.poll() == seen + seen
