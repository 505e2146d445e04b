"""Names of submissions: always valid, always the same, never shared."""

import re
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.model.attempt import SubmissionId, TaskAddress
from hybrid_executor.naming import POD_NAME_MAX, celery_task_id, is_pod_of, is_pod_of_another, pod_name, slug

uuids = st.uuids().map(str)
texts = st.text(max_size=250)
addresses = st.none() | st.builds(TaskAddress, dag_id=texts, task_id=texts, run_id=texts)
submissions = st.builds(SubmissionId, uuids, st.integers(1, 99))
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


@given(addresses, submissions)
def test_every_pod_name_is_a_label_that_kubernetes_takes(address, submission):
    name = pod_name(address, submission)
    assert LABEL.fullmatch(name)
    assert len(name) <= POD_NAME_MAX


@given(addresses, submissions)
def test_a_repeat_of_a_submission_keeps_its_names(address, submission):
    again = SubmissionId(submission.attempt_id, submission.number)
    assert pod_name(address, again) == pod_name(address, submission)
    assert celery_task_id(again) == celery_task_id(submission)


@given(addresses, uuids, st.sets(st.integers(1, 99), min_size=2, max_size=2))
def test_a_second_submission_never_reuses_a_name(address, attempt_id, numbers):
    one, other = (SubmissionId(attempt_id, number) for number in numbers)
    assert pod_name(address, one) != pod_name(address, other)
    assert celery_task_id(one) != celery_task_id(other)


@given(addresses, st.sets(uuids, min_size=2, max_size=2), st.integers(1, 99))
def test_two_attempts_of_a_task_never_share_a_name(address, attempt_ids, number):
    one, other = (SubmissionId(attempt_id, number) for attempt_id in attempt_ids)
    # Pod names carry 65 bits of the UUID: these two differ there unless chance is against 2**65.
    if UUID(one.attempt_id).int >> 63 != UUID(other.attempt_id).int >> 63:
        assert pod_name(address, one) != pod_name(address, other)
    assert celery_task_id(one) != celery_task_id(other)


@given(addresses, submissions, submissions, st.sampled_from(["", ".tasks.airflow.svc.cluster.local"]))
def test_the_host_of_a_process_says_which_submission_of_its_task_it_is(address, one, other, domain):
    host = pod_name(address, other) + domain
    is_own = pod_name(address, one) == pod_name(address, other)
    assert is_pod_of(host, address, one) == is_own
    assert is_pod_of_another(host, address, one) == (not is_own)


@given(
    submissions, st.sampled_from(["10.0.3.17", "node-1", "worker-7d9f8b6c5d-x2v4k", "celeryworkers-0", ""])
)
def test_a_host_that_bears_no_name_of_ours_is_not_taken_for_another_submissions(submission, host):
    address = TaskAddress(dag_id="dag", task_id="task", run_id="run")
    assert not is_pod_of_another(host, address, submission)
    assert not is_pod_of(host, address, submission)
    of_another_task = pod_name(TaskAddress(dag_id="dag", task_id="other", run_id="run"), submission)
    assert not is_pod_of_another(of_another_task, address, submission)


@given(submissions)
def test_a_celery_id_is_a_uuid_and_the_first_one_is_the_attempts(submission):
    UUID(celery_task_id(submission))
    assert celery_task_id(SubmissionId(submission.attempt_id, 1)) == submission.attempt_id


@given(st.text())
def test_a_slug_is_never_empty_and_never_ends_in_a_dash(text):
    assert LABEL.fullmatch(slug(text))
    assert "--" not in slug(text)
