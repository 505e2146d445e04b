"""The state machine: total, and with the right word for every end."""

from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.lifecycle import (
    Advance,
    AttemptView,
    Close,
    Fail,
    Ignore,
    Phase,
    Policy,
    Restart,
    Resubmit,
    Retry,
    Succeed,
    Witness,
    decide,
    needs_witness,
    restart_diagnosis,
    restart_text,
)
from hybrid_executor.model.attempt import BackendName, SubmissionId, TaskAddress, WorkloadKind
from hybrid_executor.model.observation import Accepted, Diagnosis, Ended, How, Rejected, Started, Waiting
from hybrid_executor.model.reason import RESTARTABLE, Reason
from hybrid_executor.model.record import Outcome
from hybrid_executor.naming import pod_name

ID = str(uuid4())
ADDRESS = TaskAddress(dag_id="dag", task_id="task", run_id="run")
POLICY = Policy(submission_limit=3)
OOM = Diagnosis(reason=Reason.OOM_KILLED, message="limit 1Gi", exit_code=137)
STATES = [
    "queued",
    "running",
    "restarting",
    "success",
    "failed",
    "up_for_retry",
    "deferred",
    "scheduled",
    None,
]


def view(**changes: object) -> AttemptView:
    values: dict = {
        "attempt_id": ID,
        "kind": WorkloadKind.TASK,
        "backend": BackendName.KUBERNETES,
        "phase": Phase.SENT,
        "number": 1,
    }
    return AttemptView(**(values | changes))


def ended(how: How, diagnosis: Diagnosis | None = None, number: int = 1) -> Ended:
    return Ended(SubmissionId(ID, number), how, diagnosis)


def witness(state: str | None, attempt_id: str = ID) -> Witness:
    return Witness(state=state, attempt_id=attempt_id)


submissions = st.builds(SubmissionId, st.sampled_from([ID, "another"]), st.integers(1, 3))
diagnoses = st.none() | st.builds(Diagnosis, reason=st.sampled_from(Reason), message=st.text(max_size=5))
observations = st.one_of(
    st.builds(Accepted, submissions, st.text(max_size=5)),
    st.builds(
        Waiting, submissions, st.sampled_from(Reason), st.text(max_size=5), st.none() | st.floats(0, 100)
    ),
    st.builds(Rejected, submissions, st.builds(Diagnosis, reason=st.sampled_from(Reason))),
    st.builds(Started, submissions, st.text(max_size=5)),
    st.builds(
        Ended,
        submissions,
        st.sampled_from(How),
        diagnoses,
        asked_as=st.sampled_from([None, "pod-1", "pod-2"]),
    ),
)
views = st.builds(
    AttemptView,
    attempt_id=st.just(ID),
    kind=st.sampled_from(WorkloadKind),
    backend=st.sampled_from(BackendName),
    phase=st.sampled_from(Phase),
    number=st.integers(1, 3),
    refusals=st.integers(0, 2000),
    revoked=st.booleans(),
    retry_on=st.sets(st.sampled_from(sorted(RESTARTABLE))).map(frozenset),
    retry_limit=st.integers(0, 2),
    restarts=st.integers(0, 3),
)
witnesses = st.none() | st.builds(
    Witness,
    state=st.sampled_from(STATES),
    attempt_id=st.sampled_from([ID, "another", None]),
    host=st.sampled_from([None, "pod-1", "pod-2"]),
    retry_reason=st.sampled_from([None, "a policy's", "hybrid executor: Evicted: node drained"]),
)


@given(views, observations, witnesses)
def test_every_observation_has_a_decision(view, observation, witness):
    assert decide(view, observation, witness, POLICY) is not None


@given(views, observations, witnesses)
def test_what_is_said_of_another_submission_changes_nothing(view, observation, witness):
    if observation.submission != (view.attempt_id, view.number):
        assert decide(view, observation, witness, POLICY) == Ignore()


@given(views, observations, witnesses)
def test_a_withdrawn_attempt_is_never_told_to_airflow(view, observation, witness):
    if view.revoked:
        told = Succeed | Fail | Resubmit | Retry | Restart
        assert not isinstance(decide(view, observation, witness, POLICY), told)


@given(views, observations, witnesses)
def test_a_task_fails_only_while_its_task_instance_carries_this_attempt(view, observation, witness):
    decision = decide(view, observation, witness, POLICY)
    if isinstance(decision, Fail) and isinstance(observation, Ended) and view.kind is WorkloadKind.TASK:
        assert witness is not None
        assert witness.attempt_id == view.attempt_id
        assert witness.state in ("queued", "running")


@given(views, observations, witnesses)
def test_a_started_attempt_never_goes_back(view, observation, witness):
    decision = decide(view, observation, witness, POLICY)
    if view.phase is Phase.STARTED and isinstance(decision, Advance):
        assert decision.phase is Phase.STARTED


@given(views, observations, witnesses)
def test_a_new_submission_follows_only_where_the_task_never_started(view, observation, witness):
    decision = decide(view, observation, witness, POLICY)
    if isinstance(decision, Resubmit) and view.kind is WorkloadKind.TASK:
        assert witness is not None
        assert witness.state == "queued"
        assert view.number < POLICY.submission_limit


@pytest.mark.parametrize("how", [How.FAILED, How.ABSENT, How.CANCELLED, How.SUCCEEDED])
def test_an_attempt_that_died_before_its_task_started_is_submitted_again_without_a_retry(how):
    decision = decide(view(), ended(how, OOM), witness("queued"), POLICY)
    assert isinstance(decision, Resubmit)
    assert decision.diagnosis == OOM


def test_an_attempt_that_keeps_dying_before_its_task_starts_fails_with_its_reason():
    decision = decide(view(number=3), ended(How.FAILED, OOM, number=3), witness("queued"), POLICY)
    assert isinstance(decision, Fail)
    assert decision.diagnosis.reason is Reason.OOM_KILLED
    assert "submission_limit" in decision.diagnosis.message


def test_a_process_that_dies_while_the_task_runs_fails_it_with_the_diagnosis():
    assert decide(view(phase=Phase.STARTED), ended(How.FAILED, OOM), witness("running"), POLICY) == Fail(OOM)


def test_a_vanished_pod_of_a_running_task_fails_it():
    decision = decide(view(phase=Phase.STARTED), ended(How.ABSENT), witness("running"), POLICY)
    assert isinstance(decision, Fail)
    assert decision.diagnosis.reason is Reason.LOST


def test_a_lost_celery_result_is_no_proof_that_the_worker_died():
    running = view(phase=Phase.STARTED, backend=BackendName.CELERY)
    assert decide(running, ended(How.ABSENT), witness("running"), POLICY) == Advance(Phase.STARTED)


def test_an_end_of_what_the_task_instance_no_longer_carries_is_nobodys_failure():
    decision = decide(view(), ended(How.FAILED, OOM), witness("running", attempt_id="newer"), POLICY)
    assert decision == Close(Outcome.FAILED, OOM)


def test_a_task_that_was_cleared_while_it_ran_is_told_as_success_so_that_it_goes_on():
    assert decide(view(), ended(How.FAILED), witness("restarting"), POLICY) == Succeed()


@pytest.mark.parametrize("state", ["deferred", "up_for_reschedule", "scheduled", "up_for_retry"])
def test_no_event_is_sent_where_the_scheduler_goes_on_by_itself(state):
    assert isinstance(decide(view(), ended(How.SUCCEEDED), witness(state), POLICY), Close)


def test_the_wait_that_the_other_side_asked_for_is_kept():
    seen = Waiting(SubmissionId(ID, 1), Reason.THROTTLED, "", retry_after_s=17.0)
    decision = decide(view(), seen, None, POLICY)
    assert isinstance(decision, Retry)
    assert decision.after_s == 17.0


@given(st.integers(1, 10_000))
def test_backoff_grows_to_its_limit_and_stays_there(failures):
    policy = Policy(backoff_first_s=1.0, backoff_max_s=60.0)
    assert 1.0 <= policy.backoff_s(failures) <= policy.backoff_s(failures + 1) <= 60.0


@given(views, observations)
def test_a_witness_is_asked_for_only_where_it_changes_the_decision(view, observation):
    if not needs_witness(view.kind, observation, revoked=view.revoked):
        answers = {
            repr(decide(view, observation, w, POLICY)) for w in (None, witness("queued"), witness("running"))
        }
        assert len(answers) == 1


@pytest.mark.parametrize("state", ["queued", "running"])
@pytest.mark.parametrize("how", list(How))
def test_whatever_ends_while_another_attempt_is_carried_is_closed_in_silence(state, how):
    decision = decide(view(phase=Phase.STARTED), ended(how), witness(state, attempt_id="newer"), POLICY)
    assert isinstance(decision, Close)


@pytest.mark.parametrize("how", list(How))
@pytest.mark.parametrize("state", STATES)
def test_the_end_of_a_withdrawn_attempt_is_closed_in_silence(state, how):
    decision = decide(view(revoked=True), ended(how, OOM), witness(state), POLICY)
    assert isinstance(decision, Close)
    assert decision.outcome is Outcome.REVOKED


@pytest.mark.parametrize("state", ["failed", "up_for_retry", "success", "deferred"])
def test_the_outcome_is_the_process_s_and_does_not_depend_on_who_looks_first(state):
    decision = decide(view(), ended(How.SUCCEEDED), witness(state), POLICY)
    assert isinstance(decision, Succeed) or decision == Close(Outcome.SUCCEEDED)


@given(views, observations, witnesses)
def test_only_a_running_task_of_this_attempt_is_made_to_run_again(view, observation, witness):
    decision = decide(view, observation, witness, POLICY)
    if isinstance(decision, Restart):
        assert witness is not None
        assert witness.attempt_id == view.attempt_id
        if decision.prepared:
            assert witness.state == "restarting"
            assert witness.retry_reason.startswith("hybrid executor: ")
        else:
            assert witness.state == "running"
            if observation.asked_as is not None:
                assert witness.host == observation.asked_as
                assert view.restarts + view.number < POLICY.submission_limit
            else:
                assert decision.diagnosis.reason in view.retry_on
                assert view.restarts < view.retry_limit


EVICTED = Diagnosis(reason=Reason.EVICTED, message="the node was low on memory")
FORGIVING = view(phase=Phase.STARTED, retry_on=frozenset({Reason.EVICTED}), retry_limit=2)


def test_a_death_that_the_route_forgives_costs_no_retry():
    assert decide(FORGIVING, ended(How.FAILED, EVICTED), witness("running"), POLICY) == Restart(EVICTED, 1.0)


def test_a_death_that_the_route_does_not_name_fails_the_task():
    assert decide(FORGIVING, ended(How.FAILED, OOM), witness("running"), POLICY) == Fail(OOM)


def test_a_death_is_forgiven_only_so_many_times_in_a_row():
    often = replace(FORGIVING, restarts=2)
    decision = decide(often, ended(How.FAILED, EVICTED), witness("running"), POLICY)
    assert isinstance(decision, Fail)
    assert decision.diagnosis.reason is Reason.EVICTED
    assert "retry_limit" in decision.diagnosis.message


UNANSWERED = Diagnosis(reason=Reason.NOT_STARTED, message="ReadTimeout", exit_code=75)


def unanswered(asked_as: str = "pod-1") -> Ended:
    """A process that asked Airflow for leave to start, by that host name, and heard nothing."""
    return replace(ended(How.FAILED, UNANSWERED), asked_as=asked_as)


def test_a_start_that_airflow_noted_and_never_answered_costs_no_retry_whatever_the_route_says():
    noted = replace(witness("running"), host="pod-1")
    assert decide(view(), unanswered(), noted, POLICY) == Restart(UNANSWERED, 1.0)
    assert decide(replace(view(), restarts=1), unanswered(), noted, POLICY) == Restart(UNANSWERED, 2.0)


def test_a_start_that_airflow_never_noted_is_sent_again_as_any_death_before_the_start():
    assert decide(view(), unanswered(), witness("queued"), POLICY) == Resubmit(1.0, UNANSWERED)


def test_starts_are_asked_for_in_vain_only_so_many_times_in_a_row():
    noted = replace(witness("running"), host="pod-1")
    decision = decide(replace(view(), restarts=2), unanswered(), noted, POLICY)
    assert isinstance(decision, Fail)
    assert decision.diagnosis.reason is Reason.NOT_STARTED
    assert "ended 3 times" in decision.diagnosis.message


def test_a_task_that_another_process_runs_is_not_run_again_by_one_that_was_never_let_start():
    elsewhere = replace(witness("running"), host="pod-2")
    assert decide(view(), unanswered(), elsewhere, POLICY) == Advance(Phase.STARTED)


def test_what_a_killed_scheduler_had_prepared_to_run_again_is_gone_on_with():
    prepared = replace(witness("restarting"), retry_reason=restart_text(EVICTED))
    for how, seen in ((How.FAILED, EVICTED), (How.ABSENT, None)):
        decision = decide(FORGIVING, ended(how, seen), prepared, POLICY)
        assert decision == Restart(EVICTED, prepared=True)


@given(st.sampled_from(Reason), st.text())
def test_why_a_task_runs_again_is_read_back_as_it_was_written(reason, message):
    diagnosis = Diagnosis(reason=reason, message=message)
    assert restart_diagnosis(restart_text(diagnosis)) == diagnosis


@pytest.mark.parametrize("text", [None, "", "the policy's own reason"])
def test_what_others_wrote_beside_a_task_is_no_restart_of_ours(text):
    assert restart_diagnosis(text) is None


def test_a_reason_of_a_later_release_is_a_restart_all_the_same():
    read = restart_diagnosis("hybrid executor: MeteorStrike: a crater")
    assert read is not None
    assert "MeteorStrike" in read.message


def test_a_task_killed_for_memory_inside_its_process_has_that_as_its_reason_af61521():
    """The kernel kills the task, its supervisor reports a failure and ends in good order."""
    decision = decide(view(), ended(How.SUCCEEDED, OOM), witness("failed"), POLICY)
    assert decision == Close(Outcome.FAILED, OOM)


def test_a_wait_that_had_all_its_time_makes_no_further_submission():
    end = Ended(SubmissionId(ID, 1), How.FAILED, Diagnosis(reason=Reason.IMAGE_PULL), for_good=True)
    assert isinstance(decide(view(), end, witness("queued"), POLICY), Fail)


def runs_in(submission: SubmissionId) -> Witness:
    """The task instance carries the attempt, and its process is in this pod."""
    return replace(witness("running"), host=pod_name(ADDRESS, submission))


@pytest.mark.parametrize(
    "older", [SubmissionId(ID, 1), SubmissionId(str(uuid4()), 1)], ids=["submission", "attempt"]
)
@pytest.mark.parametrize("how", How)
def test_what_ends_while_its_task_runs_in_the_pod_of_an_older_one_is_nobodys_failure(how, older):
    """Airflow turned it away: the older pod, which a cluster set back to old data had again, was first."""
    current = replace(view(number=2, address=ADDRESS), retry_on=frozenset({Reason.ERROR}), retry_limit=1)
    assert decide(current, ended(how, OOM, number=2), runs_in(older), POLICY) == Advance(Phase.STARTED)


@pytest.mark.parametrize(
    "host",
    [pod_name(ADDRESS, SubmissionId(ID, 2)), "10.0.3.17", "node-1", None],
    ids=["its pod", "address", "node", "unknown"],
)
def test_what_airflow_runs_or_may_run_fails_with_its_process(host):
    running = replace(witness("running"), host=host)
    decision = decide(view(number=2, address=ADDRESS), ended(How.FAILED, OOM, number=2), running, POLICY)
    assert decision == Fail(OOM)
