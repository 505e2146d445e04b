"""What the Kubernetes backend does when the API server, the cluster or a user misbehaves.

Regression tests bear the number of the Airflow issue (AF#n) that they stand for.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from hybrid_executor.backends.kubernetes.backend import KubernetesBackend
from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.errors import InvalidPod
from hybrid_executor.model.observation import Accepted, Ended, How, Rejected, Started, Waiting
from hybrid_executor.model.reason import Reason
from tests.contract.backend_suite import Fate, Heard
from tests.fixtures.kube import Kube, until
from tests.fixtures.pod_backends import PATIENT, TIMING
from tests.fixtures.puppet import PODS, KubernetesHarness, ended, make_pod, running, submission, waiting

CREATE = {"verb": "create", "path": PODS}


@pytest.fixture
def harness(kube: Kube) -> Iterator[KubernetesHarness]:
    made = KubernetesHarness(kube, watch=PATIENT)
    yield made
    made.close()


@pytest.fixture
def heard(harness: KubernetesHarness) -> Heard:
    return Heard(harness)


def start_with(harness: KubernetesHarness, make: Callable[[Submission], Any]) -> KubernetesBackend:
    """A started backend with its own maker of pods, in place of the harness's."""
    harness.backend.stop(5.0)
    harness.backend = harness.unstarted()
    harness.backend._make_pod = make
    harness.backend.start()
    return harness.backend


def run(harness: KubernetesHarness, heard: Heard, fate: Fate = Fate.BLOCKS) -> Submission:
    """A submission that is accepted and, unless it pends, started."""
    sent = harness.submission(fate)
    harness.backend.submit([sent])
    heard.until_kind(Accepted if fate is Fate.PENDS else Started, [sent.id])
    return sent


class TestBackPressure:
    """Waits, never failures."""

    def wait_for(self, harness: KubernetesHarness, heard: Heard) -> Waiting:
        sent = harness.submission(Fate.SUCCEEDS)
        harness.backend.submit([sent])
        wait = heard.wait(sent.id)
        assert wait.retry_after_s is not None
        assert not [o for o in heard.of(sent.id) if isinstance(o, Ended | Rejected)]
        harness.kube.heal()
        self.send_again_until_accepted(harness, heard, sent)
        assert heard.end(sent.id).how is How.SUCCEEDED
        return wait

    @staticmethod
    def send_again_until_accepted(harness: KubernetesHarness, heard: Heard, sent: Submission) -> None:
        def accepted() -> bool:
            harness.backend.submit([sent])
            return any(isinstance(o, Accepted) for o in heard.of(sent.id))

        heard.until(accepted, "acceptance")

    def test_an_exhausted_quota_makes_a_submission_wait_af36348(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        harness.kube.refuse_quota()
        wait = self.wait_for(harness, heard)
        assert wait.reason is Reason.QUOTA
        assert "exceeded quota" in wait.message

    def test_a_conflict_makes_a_submission_wait_af57152(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        harness.kube.fail(409, **CREATE, message='Operation cannot be fulfilled on resourcequotas "pods"')
        assert self.wait_for(harness, heard).reason is Reason.CONFLICT

    def test_throttling_is_waited_for_as_long_as_asked_af35792(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        harness.kube.fail(429, **CREATE, retry_after_s=2)
        wait = self.wait_for(harness, heard)
        assert wait.reason is Reason.THROTTLED
        assert wait.retry_after_s == 2.0

    def test_throttling_pauses_creation_for_all_af54777(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        fault = harness.kube.fail(429, **CREATE, retry_after_s=60)
        first, second = harness.submission(Fate.PENDS), harness.submission(Fate.PENDS)
        harness.backend.submit([first])
        heard.wait(first.id)
        harness.backend.submit([second])
        wait = heard.wait(second.id)
        assert wait.reason is Reason.THROTTLED
        assert wait.retry_after_s is not None
        assert wait.retry_after_s > 50
        assert fault.hits == 1

    @pytest.mark.parametrize("code", [500, 502, 503, 504])
    def test_a_server_error_makes_a_submission_wait(
        self, harness: KubernetesHarness, heard: Heard, code: int
    ) -> None:
        harness.kube.fail(code, **CREATE)
        assert self.wait_for(harness, heard).reason is Reason.API_UNAVAILABLE

    @pytest.mark.parametrize("code", [401, 403, 404])
    def test_what_an_administrator_has_yet_to_permit_makes_a_submission_wait(
        self, harness: KubernetesHarness, heard: Heard, code: int
    ) -> None:
        harness.kube.fail(code, **CREATE, message='User "airflow" cannot create resource "pods"')
        wait = self.wait_for(harness, heard)
        assert wait.reason is Reason.FORBIDDEN
        assert "cannot create" in wait.message

    def test_a_server_that_hangs_is_given_up_in_time(self, harness: KubernetesHarness) -> None:
        harness.backend.stop(5.0)
        harness.backend = harness.unstarted(request_timeout_s=0.3)
        harness.backend.start()
        heard = Heard(harness)
        harness.kube.fail(verb="create", delay_s=3.0, code=500)
        sent = harness.submission(Fate.PENDS)
        harness.backend.submit([sent])
        assert heard.wait(sent.id).reason is Reason.API_UNAVAILABLE


class TestRefusals:
    """One bad pod costs one attempt."""

    def test_a_pod_that_the_server_calls_invalid_is_rejected_with_its_field(
        self, harness: KubernetesHarness
    ) -> None:
        def misnamed(sent: Submission) -> dict[str, Any]:
            pod = make_pod(sent)
            if sent.attempt.priority > 1:
                pod["spec"]["containers"][0]["name"] = "Not_A_Name"
            return pod

        backend = start_with(harness, misnamed)
        bad, good = submission(Fate.SUCCEEDS, priority=9), submission(Fate.SUCCEEDS)
        backend.submit([bad, good])
        heard = Heard(harness)
        heard.until_kind(Rejected, [bad.id])
        [rejected] = heard.of(bad.id)
        assert isinstance(rejected, Rejected)
        assert rejected.diagnosis.reason is Reason.INVALID_POD
        assert "spec.containers[0].name" in rejected.diagnosis.message
        assert heard.end(good.id).how is How.SUCCEEDED

    @pytest.mark.parametrize(
        "fault", [InvalidPod("pod_override: spec.containers is empty"), KeyError("spec")]
    )
    def test_a_pod_that_cannot_be_made_is_rejected_alone_af68827(
        self, harness: KubernetesHarness, fault: Exception
    ) -> None:
        def picky(sent: Submission) -> dict[str, Any]:
            if sent.attempt.priority > 1:
                raise fault
            return make_pod(sent)

        backend = start_with(harness, picky)
        bad, good = submission(Fate.SUCCEEDS, priority=9), submission(Fate.SUCCEEDS)
        backend.submit([bad, good])
        heard = Heard(harness)
        heard.until_kind(Rejected, [bad.id])
        assert "spec" in heard.of(bad.id)[0].diagnosis.message  # type: ignore[union-attr]
        assert heard.end(good.id).how is How.SUCCEEDED

    def test_a_pod_in_a_namespace_that_nobody_watches_is_rejected(self, harness: KubernetesHarness) -> None:
        def elsewhere(sent: Submission) -> dict[str, Any]:
            pod = make_pod(sent)
            pod["metadata"]["namespace"] = "elsewhere"
            return pod

        sent = harness.submission(Fate.SUCCEEDS)
        start_with(harness, elsewhere).submit([sent])
        heard = Heard(harness)
        heard.until_kind(Rejected, [sent.id])
        assert "multi_namespace_mode" in heard.of(sent.id)[0].diagnosis.message  # type: ignore[union-attr]

    def test_a_hook_that_drops_labels_does_not_lose_the_pod(self, harness: KubernetesHarness) -> None:
        def unlabelled(sent: Submission) -> dict[str, Any]:
            pod = make_pod(sent)
            pod["metadata"]["labels"] = {"team": "data"}
            return pod

        sent = harness.submission(Fate.SUCCEEDS)
        start_with(harness, unlabelled).submit([sent])
        assert Heard(harness).end(sent.id).how is How.SUCCEEDED


class TestOneNameOnePod:
    """A submission is one pod, whatever happens to the request that makes it."""

    def test_a_lost_reply_never_makes_a_second_pod(self, harness: KubernetesHarness, heard: Heard) -> None:
        lost = harness.kube.fail(**CREATE, times=1, drop_reply=True)
        harness.kube.fail(**{**CREATE, "verb": "watch"}, drop=True)
        harness.kube.cut_watches()
        sent = harness.submission(Fate.BLOCKS)
        harness.backend.submit([sent])
        wait = heard.wait(sent.id)
        assert lost.hits == 1
        assert wait.reason is Reason.API_UNAVAILABLE
        assert wait.retry_after_s is not None
        until(lambda: harness.pods_of(sent.id), "the pod was never made")
        TestBackPressure.send_again_until_accepted(harness, heard, sent)
        harness.kube.heal()
        heard.until_kind(Started, [sent.id])
        harness.finish(sent.id)
        assert heard.end(sent.id).how is How.SUCCEEDED
        assert len(harness.pods_of(sent.id)) == 1

    def test_a_repeat_after_the_end_tells_the_end(self, harness: KubernetesHarness, heard: Heard) -> None:
        sent = run(harness, heard)
        harness.backend.stop(5.0)
        harness.finish(sent.id)
        harness.restart().submit([sent])
        assert Heard(harness).end(sent.id).how is How.SUCCEEDED
        assert len(harness.pods_of(sent.id)) == 1

    def test_a_stranger_with_our_name_is_waited_for(self, harness: KubernetesHarness, heard: Heard) -> None:
        sent = harness.submission(Fate.PENDS)
        stranger = make_pod(sent)
        stranger["metadata"]["labels"] = {}
        code, answer = harness.kube.request("POST", PODS, stranger)
        assert code == 201, answer
        harness.backend.submit([sent])
        wait = heard.wait(sent.id)
        assert wait.reason is Reason.CONFLICT
        assert wait.retry_after_s is not None


class TestWatch:
    """What happened is seen, whatever happens to the watch."""

    def test_a_compacted_history_is_listed_again_af35354_af44127(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        ends, stays, vanishes = (run(harness, heard) for _ in range(3))
        pending = run(harness, heard, Fate.PENDS)
        fault = harness.kube.fail(verb="watch", drop=True)
        harness.kube.cut_watches()
        harness.finish(ends.id)
        harness.delete(vanishes.id, grace_s=0)
        harness.delete(pending.id)
        harness.kube.compact()
        harness.kube.forget_requests()
        until(lambda: fault.hits > 1, "the watch was never tried again")
        harness.kube.heal()
        assert heard.end(ends.id).how is How.SUCCEEDED
        deleted = heard.end(vanishes.id)
        assert (deleted.how, deleted.diagnosis and deleted.diagnosis.reason) == (
            How.FAILED,
            Reason.POD_DELETED,
        )
        assert heard.end(pending.id).how is How.ABSENT
        assert harness.kube.count("list") <= 3
        harness.finish(stays.id)
        assert heard.end(stays.id).how is How.SUCCEEDED
        assert [type(o) for o in heard.of(stays.id) if not isinstance(o, Waiting)] == [
            Accepted,
            Started,
            Ended,
        ]

    def test_an_expired_version_is_listed_again_af12229(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = run(harness, heard)
        gone = harness.kube.fail(410, verb="watch", times=1)
        harness.kube.cut_watches()
        until(lambda: gone.hits, "the watch was never tried again")
        harness.finish(sent.id)
        assert heard.end(sent.id).how is How.SUCCEEDED

    def test_a_silent_watch_is_not_believed_af36998(self, harness: KubernetesHarness, heard: Heard) -> None:
        harness.config = replace(harness.config, watch=TIMING)
        harness.restart()
        sent = run(harness, heard)
        harness.kube.silence()
        harness.finish(sent.id)
        assert heard.end(sent.id).how is How.SUCCEEDED

    def test_a_watch_that_is_cut_goes_on_without_a_list(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = run(harness, heard)
        harness.kube.forget_requests()
        harness.kube.cut_watches()
        harness.finish(sent.id)
        assert heard.end(sent.id).how is How.SUCCEEDED
        assert harness.kube.count("list") == 0

    def test_a_list_in_many_pages_is_seen_whole(self, harness: KubernetesHarness, heard: Heard) -> None:
        sent = [harness.submission(Fate.PENDS) for _ in range(25)]
        harness.backend.submit(sent)
        heard.until_kind(Accepted, [s.id for s in sent])
        harness.config = replace(harness.config, page_size=10)
        harness.restart().adopt([s.id for s in sent])
        adopted = Heard(harness)
        adopted.until_kind(Accepted, [s.id for s in sent])
        harness.kube.compact()
        harness.kube.cut_watches()
        adopted.silence([])
        assert not [o for o in adopted.all if isinstance(o, Ended)]

    def test_a_waiting_pod_says_why_once(self, harness: KubernetesHarness, heard: Heard) -> None:
        sent = run(harness, heard, Fate.PENDS)
        for _ in range(2):
            harness.set_status(sent.id, waiting("ImagePullBackOff", "Back-off pulling image"))

        def pulls() -> list[Waiting]:
            waits = [o for o in heard.of(sent.id) if isinstance(o, Waiting)]
            return [o for o in waits if o.reason is Reason.IMAGE_PULL]

        # A list, should there be one, would show it running and nothing of before.
        heard.until(lambda: bool(pulls()), "its wait")
        harness.set_status(sent.id, running())
        heard.until_kind(Started, [sent.id])
        assert len(pulls()) == 1
        assert "Back-off pulling image" in pulls()[0].message

    def test_a_pod_that_can_never_start_is_deleted_and_ends_af28943(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = run(harness, heard, Fate.PENDS)
        harness.set_status(sent.id, waiting("InvalidImageName", "couldn't parse image name"))
        end = heard.end(sent.id)
        assert end.how is How.FAILED
        assert end.diagnosis is not None
        assert end.diagnosis.reason is Reason.IMAGE_PULL
        assert harness.pods_of(sent.id) == []

    def test_an_out_of_memory_kill_is_named_af61521(self, harness: KubernetesHarness, heard: Heard) -> None:
        sent = run(harness, heard)
        harness.set_status(sent.id, ended(137, "OOMKilled"))
        end = heard.end(sent.id)
        assert end.diagnosis is not None
        assert (end.diagnosis.reason, end.diagnosis.exit_code) == (Reason.OOM_KILLED, 137)

    def test_a_running_pod_that_somebody_deletes_ends_as_deleted(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = run(harness, heard)
        harness.delete(sent.id, grace_s=0)
        end = heard.end(sent.id)
        assert end.how is How.FAILED
        assert end.diagnosis is not None
        assert end.diagnosis.reason is Reason.POD_DELETED

    def test_an_evicted_pod_says_so_after_its_deletion_af21701(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = run(harness, heard)
        target = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "node is drained",
        }
        harness.set_status(sent.id, {**running(), "conditions": [target]})
        harness.delete(sent.id)
        end = heard.end(sent.id)
        assert end.diagnosis is not None
        assert end.diagnosis.reason is Reason.EVICTED


class TestTwoSchedulers:
    """Each handles its own pods only (AF#66396, AF#35675)."""

    def test_two_owners_never_handle_each_others_pods(self, harness: KubernetesHarness) -> None:
        mine, other = harness.backend, harness.unstarted()
        other.start()
        hers, his = harness.submission(Fate.SUCCEEDS), harness.submission(Fate.SUCCEEDS)
        mine.submit([hers])
        other.submit([his])
        heard = Heard(harness)
        assert heard.end(hers.id).how is How.SUCCEEDED
        harness.backend = other
        assert Heard(harness).end(his.id).how is How.SUCCEEDED
        assert mine.poll() == []
        assert {p["metadata"]["labels"]["airflow-worker"] for p in harness.pods_of(his.id)} == {other.owner}

    def test_two_airflows_in_one_namespace_leave_each_others_pods_alone(
        self, harness: KubernetesHarness
    ) -> None:
        """Their scheduler jobs have the same numbers, because each database counts its own."""
        mine, other = harness.backend, harness.unstarted(deployment="another")
        other.owner = mine.owner
        other.start()
        sent = harness.submission(Fate.SUCCEEDS)
        mine.submit([sent])
        assert Heard(harness).end(sent.id).how is How.SUCCEEDED
        other.sweep(["no scheduler of the other Airflow"])
        harness.backend = other
        Heard(harness).silence([sent.id])
        assert harness.swept_by_others(sent.id)

    def test_whoever_loses_a_pod_to_an_adoption_says_nothing_of_it_af35675(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = run(harness, heard)
        former = harness.backend
        harness.backend = harness.unstarted()
        harness.backend.start()
        harness.backend.adopt([sent.id])
        adopted = Heard(harness)
        adopted.until_kind(Started, [sent.id])
        harness.finish(sent.id)
        assert adopted.end(sent.id).how is How.SUCCEEDED
        harness.backend = former
        heard.silence([sent.id])


class TestDisposal:
    """What becomes of an ended pod, by ``delete_worker_pods`` and ``…_on_failure``."""

    def disposed(self, harness: KubernetesHarness, fate: Fate, **config: bool) -> list[dict[str, Any]]:
        harness.config = replace(harness.config, **config)
        harness.restart()
        sent, heard = harness.submission(fate), Heard(harness)
        harness.backend.submit([sent])
        heard.end(sent.id)
        assert harness.swept_by_others(sent.id)
        harness.backend.release([sent.id])
        until(lambda: not harness.swept_by_others(sent.id), "the pod was never disposed of")
        heard.silence([sent.id])
        return harness.pods_of(sent.id)

    def test_a_succeeded_pod_is_deleted(self, harness: KubernetesHarness) -> None:
        assert self.disposed(harness, Fate.SUCCEEDS) == []

    def test_a_failed_pod_is_kept_and_marked(self, harness: KubernetesHarness) -> None:
        [kept] = self.disposed(harness, Fate.FAILS)
        assert kept["metadata"]["labels"]["airflow_executor_done"] == "True"

    def test_a_failed_pod_is_deleted_if_the_user_says_so(self, harness: KubernetesHarness) -> None:
        assert self.disposed(harness, Fate.FAILS, delete_worker_pods_on_failure=True) == []

    def test_every_pod_is_kept_if_the_user_says_so(self, harness: KubernetesHarness) -> None:
        assert len(self.disposed(harness, Fate.SUCCEEDS, delete_worker_pods=False)) == 1

    def test_a_disposal_that_is_refused_is_tried_again(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = harness.submission(Fate.SUCCEEDS)
        harness.backend.submit([sent])
        heard.end(sent.id)
        refused = harness.kube.fail(500, verb="delete", times=2)
        harness.backend.release([sent.id])
        until(lambda: not harness.pods_of(sent.id), "the pod was never deleted")
        assert refused.hits == 2

    def test_a_release_before_the_end_waits_for_the_end(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = run(harness, heard)
        harness.backend.release([sent.id])
        heard.silence([sent.id])
        assert len(harness.pods_of(sent.id)) == 1
        harness.finish(sent.id)
        until(lambda: not harness.pods_of(sent.id), "the pod was never deleted")


class TestCancel:
    """A withdrawal in every gap."""

    def test_one_that_is_being_made_is_withdrawn(self, harness: KubernetesHarness, heard: Heard) -> None:
        slow = harness.kube.fail(**CREATE, delay_s=0.4)
        sent = harness.submission(Fate.BLOCKS)
        harness.backend.submit([sent])
        until(lambda: slow.hits, "the pod was never asked for")
        harness.backend.cancel([sent.id])
        assert heard.end(sent.id).how is How.CANCELLED
        assert harness.pods_of(sent.id) == []

    def test_one_whose_creation_got_no_answer_is_looked_for(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        lost = harness.kube.fail(**CREATE, times=1, drop_reply=True, delay_s=0.4)
        sent = harness.submission(Fate.BLOCKS)
        harness.backend.submit([sent])
        until(lambda: lost.hits, "the pod was never asked for")
        harness.backend.cancel([sent.id])
        assert heard.end(sent.id).how is How.CANCELLED
        until(lambda: not harness.pods_of(sent.id), "the pod was never deleted")

    def test_a_dead_schedulers_pod_is_withdrawn_without_adoption(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = run(harness, heard)
        harness.restart().cancel([sent.id])
        assert Heard(harness).end(sent.id).how is How.CANCELLED
        assert harness.pods_of(sent.id) == []

    def test_a_withdrawal_outlives_an_outage(self, harness: KubernetesHarness, heard: Heard) -> None:
        sent = run(harness, heard)
        harness.break_other_side()
        harness.backend.cancel([sent.id])
        heard.silence([sent.id])
        harness.restore_other_side()
        assert heard.end(sent.id).how is How.CANCELLED


class TestWords:
    """What the log says."""

    def test_an_outage_is_told_by_the_breaker_alone(
        self, harness: KubernetesHarness, heard: Heard, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, "hybrid_executor.kubernetes")
        harness.break_other_side()
        sent = [harness.submission(Fate.PENDS) for _ in range(20)]
        harness.backend.submit(sent)
        heard.until_kind(Waiting, [s.id for s in sent])
        until(lambda: harness.backend.troubles[""], "nothing was noticed")
        harness.restore_other_side()
        until(lambda: harness.backend.troubles[""] is None, "its end was not noticed")
        # Of what else runs in this process nothing is asked.
        assert [r for r in caplog.records if r.name.startswith("hybrid_executor")] == []

    def test_one_lost_request_is_no_trouble(self, harness: KubernetesHarness, heard: Heard) -> None:
        fault = harness.kube.fail(500, **CREATE, times=1)
        sent = harness.submission(Fate.PENDS)
        harness.backend.submit([sent])
        heard.wait(sent.id)
        assert (fault.hits, harness.backend.troubles[""]) == (1, None)

    def test_no_token_and_no_payload_is_ever_logged(
        self, harness: KubernetesHarness, heard: Heard, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        harness.kube.fail(403, **CREATE, times=1)
        sent = harness.submission(Fate.FAILS)
        object.__setattr__(sent, "payload", '{"token": "the-task-token"}')
        harness.backend.submit([sent])
        heard.wait(sent.id)
        TestBackPressure.send_again_until_accepted(harness, heard, sent)
        heard.end(sent.id)
        assert "the-task-token" not in caplog.text
        assert harness.kube.token not in caplog.text
