"""What the book makes of what is seen: expectations, ends, orders."""

from typing import Any

import pytest

from hybrid_executor.backends.kubernetes.book import MOUNT_PATIENCE_S, Book, Known, Order, our_labels
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Accepted, Diagnosis, Ended, How, Observation, Started, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import ANNOTATION_FATAL_WAIT
from hybrid_executor.pods.workload import VOLUME

ONE = SubmissionId("0198f0aa-2b6c-7d3e-8f10-1234567890ab", 1)
TWO = SubmissionId("0198f0aa-2b6c-7d3e-8f10-1234567890ac", 1)
NAMESPACE = "airflow"


class Desk:
    """A book, its clock, and all that it said and ordered."""

    def __init__(self) -> None:
        self.now = 100.0
        self.said: list[Observation] = []
        self.orders: list[tuple[Order, SubmissionId]] = []
        self.being_made: set[SubmissionId] = set()
        self.book = self.make()

    def make(self, fatal_wait_s: float = 0.0) -> Book:
        return Book(
            self.said.append,
            self._order,
            {"InvalidImageName", "ErrImagePull"},
            fatal_wait_s,
            clock=lambda: self.now,
            is_being_made=self.being_made.__contains__,
        )

    def _order(self, order: Order, known: Known) -> None:
        self.orders.append((order, known.id))

    def ends(self) -> list[Ended]:
        return [o for o in self.said if isinstance(o, Ended)]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def pod(submission: SubmissionId = ONE, phase: str = "Pending", **state: Any) -> dict[str, Any]:
    statuses = [{"name": "base", "state": state}] if state else []
    return {
        "metadata": {
            "name": f"pod-{submission.attempt_id[-2:]}",
            "uid": f"uid-{submission.attempt_id[-2:]}",
            "namespace": NAMESPACE,
            "labels": our_labels(submission, "7", KubernetesConfig()),
        },
        "spec": {"nodeName": "node-a", "containers": [{"name": "base"}]},
        "status": {"phase": phase, "containerStatuses": statuses},
    }


def running(submission: SubmissionId = ONE) -> dict[str, Any]:
    return pod(submission, "Running", running={})


def succeeded(submission: SubmissionId = ONE) -> dict[str, Any]:
    return pod(submission, "Succeeded", terminated={"exitCode": 0})


def test_a_pod_is_accepted_at_first_sight_and_followed_to_its_end(desk: Desk) -> None:
    for state in (pod(), running(), running(), succeeded(), succeeded()):
        desk.book.changed(state)
    assert [type(o) for o in desk.said] == [Accepted, Waiting, Started, Ended]
    assert desk.said[0] == Accepted(ONE, "airflow/pod-ab")
    assert desk.said[2] == Started(ONE, "pod-ab on node-a")
    assert desk.said[3] == Ended(ONE, How.SUCCEEDED)


def test_a_pod_that_is_not_ours_is_nobodys_business(desk: Desk) -> None:
    stranger = pod()
    stranger["metadata"]["labels"] = {"app": "web"}
    desk.book.changed(stranger)
    desk.book.removed(stranger)
    assert desk.said == []


def test_a_late_answer_to_a_creation_never_goes_back(desk: Desk) -> None:
    desk.book.changed(running())
    desk.book.created(pod())
    assert [type(o) for o in desk.said] == [Accepted, Started]


def test_a_list_that_began_before_the_creation_proves_nothing(desk: Desk) -> None:
    desk.book.listing(NAMESPACE, desk.now)
    desk.now += 1
    desk.book.created(pod())
    desk.book.listed(NAMESPACE)
    assert desk.orders == []
    assert ONE in desk.book


def test_what_a_later_list_does_not_name_is_looked_up_and_then_absent(desk: Desk) -> None:
    desk.book.created(pod())
    desk.now += 1
    desk.book.listing(NAMESPACE, desk.now)
    desk.book.listed(NAMESPACE)
    assert desk.orders == [(Order.LOOK_UP, ONE)]
    assert desk.ends() == []
    desk.book.gone(ONE)
    [end] = desk.ends()
    assert end.how is How.ABSENT
    assert ONE not in desk.book


def test_a_list_of_another_namespace_proves_nothing(desk: Desk) -> None:
    desk.book.created(pod())
    desk.now += 1
    desk.book.listing("elsewhere", desk.now)
    desk.book.listed("elsewhere")
    assert desk.orders == []


def test_a_list_of_all_namespaces_covers_each(desk: Desk) -> None:
    desk.book.created(pod())
    desk.now += 1
    desk.book.listing(None, desk.now)
    desk.book.changed(pod(TWO))
    desk.book.listed(None)
    assert desk.orders == [(Order.LOOK_UP, ONE)]


def test_what_ran_when_it_vanished_has_failed(desk: Desk) -> None:
    desk.book.changed(running())
    desk.now += 1
    desk.book.listing(NAMESPACE, desk.now)
    desk.book.listed(NAMESPACE)
    desk.book.gone(ONE)
    [end] = desk.ends()
    assert end.how is How.FAILED
    assert end.diagnosis is not None
    assert end.diagnosis.reason is Reason.POD_DELETED


def test_a_pod_that_another_scheduler_took_is_forgotten_in_silence(desk: Desk) -> None:
    desk.book.changed(running())
    desk.book.removed(running())
    assert desk.orders == [(Order.LOOK_UP, ONE)]
    desk.book.forget(ONE)
    assert desk.ends() == []


def test_a_removal_that_shows_the_end_needs_no_look_up(desk: Desk) -> None:
    desk.book.changed(running())
    desk.book.removed(succeeded())
    assert desk.ends() == [Ended(ONE, How.SUCCEEDED)]
    assert desk.orders == []


def test_a_withdrawn_pod_ends_as_cancelled_however_its_process_ends(desk: Desk) -> None:
    desk.book.changed(running())
    assert desk.book.cancel(ONE)
    assert desk.book.cancel(ONE)
    assert desk.orders == [(Order.DELETE, ONE)]
    desk.book.changed(pod(ONE, "Failed", terminated={"exitCode": 143}))
    assert desk.ends() == [Ended(ONE, How.CANCELLED)]


def test_a_withdrawal_after_the_end_repeats_the_end(desk: Desk) -> None:
    desk.book.changed(succeeded())
    assert desk.book.cancel(ONE)
    assert desk.ends() == [Ended(ONE, How.SUCCEEDED)] * 2
    assert desk.orders == []


def test_nothing_is_known_of_a_stranger(desk: Desk) -> None:
    assert not desk.book.cancel(ONE)
    assert not desk.book.repeat(ONE)
    desk.book.release([ONE])
    desk.book.gone(ONE)
    assert (desk.said, desk.orders) == ([], [])


def test_a_fatal_wait_condemns_once_and_is_the_reason_of_the_end(desk: Desk) -> None:
    bad = pod(waiting={"reason": "InvalidImageName", "message": "no"})
    desk.book.changed(bad)
    desk.book.changed(bad)
    assert desk.orders == [(Order.DELETE, ONE)]
    assert desk.ends() == []
    desk.book.gone(ONE)
    [end] = desk.ends()
    assert end.how is How.FAILED
    assert isinstance(end.diagnosis, Diagnosis)
    assert end.diagnosis.reason is Reason.IMAGE_PULL


def test_a_nodes_limit_on_pulls_is_never_fatal(desk: Desk) -> None:
    desk.book.changed(pod(waiting={"reason": "InvalidImageName", "message": "pull QPS exceeded"}))
    assert desk.orders == []


def test_an_ended_pod_is_disposed_of_once(desk: Desk) -> None:
    desk.book.changed(succeeded())
    desk.book.release([ONE])
    desk.book.release([ONE])
    assert desk.orders == [(Order.DISPOSE, ONE)]
    desk.book.removed(succeeded())
    assert len(desk.book) == 0


def test_a_duplicate_under_another_name_changes_nothing(desk: Desk) -> None:
    desk.book.changed(running())
    copy = pod(ONE, "Failed", terminated={"exitCode": 1})
    copy["metadata"] |= {"name": "a-copy-that-somebody-made", "uid": "another"}
    desk.book.changed(copy)
    desk.book.removed(copy)
    assert desk.ends() == []
    assert desk.orders == []


# --- waits that are fatal, but not at once --------------------------------------------------

PULL = {"reason": "ErrImagePull", "message": "not found"}


def test_a_fatal_wait_may_last_as_long_as_the_setting_says_and_is_then_given_up_for_good(desk: Desk) -> None:
    desk.book = desk.make(fatal_wait_s=60)
    desk.book.changed(pod(waiting=PULL))
    desk.now += 59
    desk.book.condemn_overdue()
    assert desk.orders == []
    desk.now += 1
    desk.book.condemn_overdue()
    desk.book.condemn_overdue()
    assert desk.orders == [(Order.DELETE, ONE)]
    desk.book.gone(ONE)
    [end] = desk.ends()
    assert end.for_good
    assert end.diagnosis is not None
    assert end.diagnosis.reason is Reason.IMAGE_PULL
    assert "60 s" in end.diagnosis.message


def test_the_pod_s_own_limit_goes_before_the_setting(desk: Desk) -> None:
    desk.book = desk.make(fatal_wait_s=60)
    for submission, text in ((ONE, "600"), (TWO, "0")):
        bad = pod(submission, waiting=PULL)
        bad["metadata"]["annotations"] = {ANNOTATION_FATAL_WAIT: text}
        desk.book.changed(bad)
    assert desk.orders == [(Order.DELETE, TWO)]
    desk.now += 599
    desk.book.condemn_overdue()
    assert desk.orders == [(Order.DELETE, TWO)]


@pytest.mark.parametrize("text", ["soon", "nan", "inf", ""])
def test_a_limit_that_somebody_has_spoilt_is_the_setting_s(desk: Desk, text: str) -> None:
    desk.book = desk.make(fatal_wait_s=60)
    bad = pod(waiting=PULL)
    bad["metadata"]["annotations"] = {ANNOTATION_FATAL_WAIT: text}
    desk.book.changed(bad)
    desk.now += 60
    desk.book.condemn_overdue()
    assert desk.orders == [(Order.DELETE, ONE)]


def test_the_pause_between_two_pulls_does_not_begin_a_fatal_wait_anew(desk: Desk) -> None:
    desk.book = desk.make(fatal_wait_s=60)
    for _ in range(3):
        desk.book.changed(pod(waiting=PULL))
        desk.now += 10
        desk.book.changed(pod(waiting={"reason": "ImagePullBackOff", "message": "back-off"}))
        desk.now += 10
    desk.book.condemn_overdue()
    assert desk.orders == [(Order.DELETE, ONE)]


@pytest.mark.parametrize("better", [pod(waiting={"reason": "ContainerCreating"}), running(), succeeded()])
def test_what_came_after_all_is_not_given_up(desk: Desk, better: dict[str, Any]) -> None:
    desk.book = desk.make(fatal_wait_s=60)
    desk.book.changed(pod(waiting=PULL))
    desk.now += 30
    desk.book.changed(better)
    desk.now += 100
    desk.book.condemn_overdue()
    assert desk.orders == []


def test_a_withdrawn_pod_is_not_given_up_as_well(desk: Desk) -> None:
    desk.book = desk.make(fatal_wait_s=60)
    desk.book.changed(pod(waiting=PULL))
    desk.book.cancel(ONE)
    desk.now += 100
    desk.book.condemn_overdue()
    assert desk.orders == [(Order.DELETE, ONE)]
    desk.book.gone(ONE)
    assert desk.ends() == [Ended(ONE, How.CANCELLED)]


def test_a_process_killed_for_memory_inside_a_pod_that_succeeds_is_told_af61521(desk: Desk) -> None:
    desk.book.changed(pod(ONE, "Succeeded", terminated={"exitCode": 0, "reason": "OOMKilled"}))
    [end] = desk.ends()
    assert end.how is How.SUCCEEDED
    assert end.diagnosis is not None
    assert end.diagnosis.reason is Reason.OOM_KILLED


# --- pods whose workload is in a Secret ---------------------------------------------------

REFUSED = Waiting(ONE, Reason.QUOTA, "exceeded quota", retry_after_s=5.0)
HELD = Waiting(ONE, Reason.QUOTA, "exceeded quota")
ACCEPTED = Accepted(ONE, "airflow/pod-ab")
LACKING = Accepted(ONE, "airflow/pod-ab", lacks_payload=True)
PENDING = Waiting(ONE, Reason.POD_PENDING, "waiting for its node")


def mounting(state: dict[str, Any] | None = None) -> dict[str, Any]:
    state = state or pod()
    state["spec"]["volumes"] = [{"name": VOLUME, "secret": {"secretName": "pod-ab"}}]
    return state


def failed_by_its_deletion() -> dict[str, Any]:
    """As a kubelet leaves a pod that is deleted before it has a container."""
    state = mounting(pod(ONE, "Failed", terminated={"exitCode": 137, "reason": "ContainerStatusUnknown"}))
    state["metadata"]["deletionTimestamp"] = "2026-11-21T10:00:00Z"
    return state


def make(desk: Desk) -> None:
    """Its creation is under way: the pod is there, its Secret is not."""
    desk.being_made.add(ONE)
    desk.book.changed(mounting())


def test_a_pod_is_accepted_with_its_secret_and_not_before(desk: Desk) -> None:
    make(desk)
    desk.book.created(mounting())
    desk.book.changed(mounting())
    assert desk.said == []
    desk.book.complete(ONE)
    assert desk.said == [ACCEPTED, PENDING]
    assert desk.book.lacking(ONE) is None


def test_a_pod_that_is_found_without_being_made_lacks_its_payload_and_is_held(desk: Desk) -> None:
    desk.book.changed(mounting())
    assert desk.said == [LACKING, PENDING]
    assert desk.book.repeat(ONE)
    assert desk.said == [LACKING, PENDING] * 2
    desk.book.complete(ONE)
    assert desk.said[4:] == [ACCEPTED, PENDING]


def test_a_pod_without_the_volume_or_that_has_started_lacks_nothing(desk: Desk) -> None:
    desk.book.changed(mounting(running()))
    desk.book.changed(pod(TWO))
    assert not [o for o in desk.said if isinstance(o, Accepted) and o.lacks_payload]


def test_a_pod_that_starts_has_its_secret_whatever_the_answer_was(desk: Desk) -> None:
    make(desk)
    desk.book.take_back(ONE, REFUSED)
    desk.book.changed(mounting(running()))
    desk.book.removed(mounting(running()))
    desk.book.gone(ONE)
    assert desk.said[:3] == [HELD, ACCEPTED, Started(ONE, "pod-ab on node-a")]
    [end] = desk.ends()
    assert end.how is How.FAILED


def test_a_pod_whose_secret_is_refused_is_deleted_and_let_go_when_its_name_is_free(desk: Desk) -> None:
    make(desk)
    desk.book.take_back(ONE, REFUSED)
    assert desk.said == [HELD]
    assert desk.orders == [(Order.DELETE, ONE)]
    desk.book._known[ONE].deleting = True
    desk.book.changed(failed_by_its_deletion())
    assert desk.book.repeat(ONE)
    assert desk.said == [HELD, HELD]
    desk.book.removed(failed_by_its_deletion())
    assert desk.said == [HELD, HELD, REFUSED]
    assert ONE not in desk.book


def test_what_was_taken_back_while_nobody_watched_is_absent_and_leaves_its_name(desk: Desk) -> None:
    make(desk)
    desk.book.take_back(ONE, REFUSED)
    desk.now += 1
    desk.book.listing(NAMESPACE, desk.now)
    desk.book.listed(NAMESPACE)
    desk.book.gone(ONE)
    [end] = desk.ends()
    assert end.how is How.ABSENT


def test_what_is_withdrawn_while_it_is_taken_back_ends_as_cancelled(desk: Desk) -> None:
    make(desk)
    desk.book.take_back(ONE, REFUSED)
    assert desk.book.cancel(ONE)
    desk.book.changed(failed_by_its_deletion())
    assert desk.ends() == [Ended(ONE, How.CANCELLED)]


def test_what_is_going_anyway_is_not_taken_back(desk: Desk) -> None:
    desk.being_made.add(ONE)
    desk.book.changed(mounting(pod(waiting={"reason": "InvalidImageName", "message": "no"})))
    desk.book.take_back(ONE, REFUSED)
    desk.book.gone(ONE)
    assert desk.orders == [(Order.DELETE, ONE)]
    [end] = desk.ends()
    assert end.diagnosis is not None
    assert end.diagnosis.reason is Reason.IMAGE_PULL


def test_what_is_heard_late_of_a_former_pod_of_the_name_changes_nothing(desk: Desk) -> None:
    make(desk)
    desk.book.complete(ONE)
    former = failed_by_its_deletion()
    former["metadata"]["uid"] = "the former one's"
    desk.book.changed(former)
    desk.book.removed(former)
    assert desk.said == [ACCEPTED, PENDING]
    assert desk.orders == []


def test_a_pod_without_its_volumes_is_pending_until_its_node_must_have_tried_again(desk: Desk) -> None:
    """Kubelet's tries lie up to 122 s apart, so that time counts from the acceptance of the Secret."""

    def unmounted() -> dict[str, Any]:
        state = mounting()
        state["status"]["conditions"] = [{"type": "PodReadyToStartContainers", "status": "False"}]
        return state

    def told() -> Reason:
        assert desk.book.repeat(ONE)
        wait = desk.said[-1]
        assert isinstance(wait, Waiting)
        return wait.reason

    desk.book.changed(unmounted())
    desk.now += 2 * MOUNT_PATIENCE_S
    assert told() is Reason.POD_PENDING
    desk.book.complete(ONE)
    desk.now += 125
    assert told() is Reason.POD_PENDING
    desk.now += 6
    assert told() is Reason.VOLUME
    desk.book.changed(mounting())
    assert told() is Reason.POD_PENDING
