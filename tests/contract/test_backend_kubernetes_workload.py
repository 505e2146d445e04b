"""A pod's workload is in a Secret of the pod's name: made at once, never without its pod, never leaked."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import Accepted, Ended, How, Rejected, Started, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import LABEL_ATTEMPT, LABEL_DEPLOYMENT, LABEL_EXECUTOR, LABEL_SUBMISSION
from hybrid_executor.pods.workload import FILE
from tests.contract.backend_suite import Fate, Heard
from tests.fixtures.kube import Kube, until
from tests.fixtures.pod_backends import PATIENT
from tests.fixtures.puppet import MERGE_PATCH, PODS, SECRETS, KubernetesHarness, make_pod

SENDING = {"path": f"{SECRETS}(/.*)?"}
TOKEN = "the-task-token"


@pytest.fixture
def harness(kube: Kube) -> Iterator[KubernetesHarness]:
    # What vanishes while nobody watches is another thing than what is seen to go.
    made = KubernetesHarness(kube, watch=PATIENT)
    yield made
    made.close()


@pytest.fixture
def heard(harness: KubernetesHarness) -> Heard:
    return Heard(harness)


def secrets(harness: KubernetesHarness) -> list[dict[str, Any]]:
    code, answer = harness.kube.request("GET", SECRETS)
    assert code == 200, answer
    items: list[dict[str, Any]] = answer["items"]
    return items


def payload_in(secret: dict[str, Any]) -> str:
    return base64.b64decode(secret["data"][FILE]).decode()


def sent_by(harness: KubernetesHarness, fate: Fate, token: str = TOKEN) -> Submission:
    return replace(harness.submission(fate), payload=json.dumps({"token": token}))


def start_with(harness: KubernetesHarness, make: Callable[[Submission], Any], **config: Any) -> None:
    """Replace the backend by one with a maker of pods of its own."""
    harness.backend.stop(5.0)
    harness.backend = harness.unstarted(**config)
    harness.backend._make_pod = make
    harness.backend.start()


def send_until_accepted(harness: KubernetesHarness, heard: Heard, sent: Submission) -> None:
    """As the executor does: what was let go is sent again."""
    seen = 0

    def accepted() -> bool:
        nonlocal seen
        waits = [o for o in heard.of(sent.id) if isinstance(o, Waiting) and o.retry_after_s is not None]
        if len(waits) > seen:
            seen = len(waits)
            harness.backend.submit([sent])
        return any(isinstance(o, Accepted) and not o.lacks_payload for o in heard.of(sent.id))

    heard.until(accepted, "acceptance")


class TestItsWay:
    """From the pod to the Secret, and its end."""

    def test_it_is_in_a_secret_that_the_pod_owns_and_nowhere_in_the_pod(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = sent_by(harness, Fate.PENDS)
        harness.backend.submit([sent])
        heard.until_kind(Accepted, [sent.id])
        [pod], [secret] = harness.pods_of(sent.id), secrets(harness)
        assert TOKEN not in json.dumps(pod)
        assert payload_in(secret) == sent.payload
        assert secret["metadata"]["name"] == pod["metadata"]["name"]
        [owner] = secret["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Pod", pod["metadata"]["uid"])
        assert "blockOwnerDeletion" not in owner
        assert secret["metadata"]["labels"] == {
            label: pod["metadata"]["labels"][label]
            for label in (LABEL_EXECUTOR, LABEL_DEPLOYMENT, LABEL_ATTEMPT, LABEL_SUBMISSION)
        }

    def test_it_follows_its_pod_at_once_before_further_pods(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        start_with(harness, make_pod, creation_concurrency=1)
        batch = [harness.submission(Fate.PENDS) for _ in range(5)]
        harness.backend.submit(batch)
        heard.until_kind(Accepted, [sent.id for sent in batch])
        made = [("pod", item) for item in harness.pods()] + [("secret", item) for item in secrets(harness)]
        made.sort(key=lambda each: int(each[1]["metadata"]["resourceVersion"]))
        assert [kind for kind, _ in made] == ["pod", "secret"] * 5

    def test_it_goes_with_its_pod(self, harness: KubernetesHarness, heard: Heard) -> None:
        batch = [harness.submission(Fate.SUCCEEDS) for _ in range(3)]
        harness.backend.submit(batch)
        heard.until_kind(Ended, [sent.id for sent in batch])
        harness.backend.release([sent.id for sent in batch])
        until(lambda: not harness.pods(), "the pods stayed")
        assert secrets(harness) == []

    def test_a_pod_that_has_it_as_an_argument_gets_no_secret(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        start_with(harness, lambda sent: make_pod(sent, workload_secret=False))
        sent = harness.submission(Fate.SUCCEEDS)
        harness.backend.submit([sent])
        heard.end(sent.id)
        assert harness.kube.count("create", SECRETS) == 0


class TestALostReply:
    """Whether the Secret is there is not known, and it can't be read: it is sent again."""

    @pytest.mark.parametrize("fault", ["drop", "drop_reply"])
    def test_it_is_sent_again_to_the_same_pod(
        self, harness: KubernetesHarness, heard: Heard, fault: str
    ) -> None:
        lost = harness.kube.fail(verb="create", path=SECRETS, times=1, **{fault: True})
        sent = sent_by(harness, Fate.PENDS)
        harness.backend.submit([sent])
        wait = heard.wait(sent.id)
        assert lost.hits == 1
        assert (wait.reason, wait.retry_after_s is not None) == (Reason.API_UNAVAILABLE, True)
        assert not [o for o in heard.of(sent.id) if isinstance(o, Accepted)]
        [before] = harness.pods_of(sent.id)
        again = replace(sent, payload=json.dumps({"token": "a-newer-token"}))
        send_until_accepted(harness, heard, again)
        [after], [secret] = harness.pods_of(sent.id), secrets(harness)
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert payload_in(secret) == again.payload
        assert harness.kube.count("create", PODS) == 1

    def test_a_pod_that_starts_meanwhile_has_it(self, harness: KubernetesHarness, heard: Heard) -> None:
        harness.kube.fail(verb="create", path=SECRETS, times=1, drop_reply=True, delay_s=0.2)
        sent = harness.submission(Fate.SUCCEEDS)
        harness.backend.submit([sent])
        assert heard.end(sent.id).how is How.SUCCEEDED
        assert [type(o) for o in heard.of(sent.id) if not isinstance(o, Waiting)] == [
            Accepted,
            Started,
            Ended,
        ]

    def test_a_pod_that_has_started_meanwhile_answers_when_it_is_looked_up(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        harness.kube.fail(verb="create", path=SECRETS, times=1, drop_reply=True, delay_s=2.0)
        sent = harness.submission(Fate.BLOCKS)
        harness.backend.submit([sent])
        heard.until_kind(Started, [sent.id])
        again = Heard(harness)
        harness.backend.adopt([sent.id])
        again.until_kind(Started, [sent.id])


class TestRefused:
    """The pod goes, and the attempt waits; it is no failure of its own."""

    @pytest.mark.parametrize(
        ("code", "message", "reason"),
        [
            (403, 'secrets "x" is forbidden: exceeded quota: q, requested: secrets=1', Reason.QUOTA),
            (403, 'User "airflow" cannot create resource "secrets"', Reason.FORBIDDEN),
            (403, 'admission webhook "w" denied the request: no', Reason.FORBIDDEN),
            (404, 'namespaces "airflow" not found', Reason.FORBIDDEN),
            (409, "Operation cannot be fulfilled on resourcequotas", Reason.CONFLICT),
            (413, "Request entity too large", Reason.FORBIDDEN),
            (422, 'Secret "x" is invalid: type: field is immutable', Reason.FORBIDDEN),
            (429, "Too many requests", Reason.THROTTLED),
            (500, "rpc error: failed to encrypt", Reason.API_UNAVAILABLE),
            (503, "etcdserver: no leader", Reason.API_UNAVAILABLE),
        ],
    )
    def test_the_pod_goes_and_the_attempt_waits_with_the_servers_reason(
        self, harness: KubernetesHarness, heard: Heard, code: int, message: str, reason: Reason
    ) -> None:
        harness.kube.fail(code, **SENDING, message=message)
        sent = harness.submission(Fate.PENDS)
        harness.backend.submit([sent])
        heard.until(lambda: bool(let_go(heard, sent)), "being let go")
        held, wait = heard.of(sent.id)
        assert isinstance(held, Waiting)
        assert (held.reason, held.retry_after_s) == (reason, None)
        assert wait == replace(held, retry_after_s=let_go(heard, sent)[0].retry_after_s)
        assert message in held.message
        assert harness.pods_of(sent.id) == []

    def test_the_attempt_runs_under_its_name_when_it_may(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        harness.kube.fail(409, **SENDING)
        sent = harness.submission(Fate.PENDS)
        harness.backend.submit([sent])
        heard.until(lambda: bool(let_go(heard, sent)), "being let go")
        harness.kube.heal()
        send_until_accepted(harness, heard, sent)
        [pod], [secret] = harness.pods_of(sent.id), secrets(harness)
        assert secret["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]
        harness.finish(sent.id)
        assert heard.end(sent.id).how is How.SUCCEEDED
        assert not [o for o in heard.of(sent.id) if isinstance(o, Rejected)]

    def test_no_further_pods_are_made_meanwhile(self, harness: KubernetesHarness, heard: Heard) -> None:
        start_with(harness, make_pod, creation_concurrency=1)
        harness.kube.fail(403, **SENDING, message="exceeded quota: q")
        batch = [harness.submission(Fate.PENDS) for _ in range(10)]
        harness.backend.submit(batch)
        heard.until(lambda: all(let_go(heard, sent) for sent in batch), "all being let go")
        assert harness.kube.count("create", PODS) == 1
        assert {o.reason for o in heard.all if isinstance(o, Waiting)} == {Reason.QUOTA}

    def test_it_is_not_let_go_before_its_name_is_free(self, harness: KubernetesHarness, heard: Heard) -> None:
        def lingering(sent: Submission) -> dict[str, Any]:
            pod = make_pod(sent)
            pod["metadata"]["finalizers"] = ["test/linger"]
            return pod

        start_with(harness, lingering)
        harness.kube.fail(403, **SENDING, message="exceeded quota: q")
        sent = harness.submission(Fate.PENDS)
        harness.backend.submit([sent])
        until(lambda: is_terminating(harness, sent), "the pod was never deleted")
        heard.wait(sent.id)
        heard.silence([sent.id])
        assert let_go(heard, sent) == []
        free(harness, sent)
        heard.until(lambda: bool(let_go(heard, sent)), "being let go")

    def test_one_that_is_withdrawn_meanwhile_ends_as_cancelled(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        # Until it is withdrawn, however busy the machine.
        slow = harness.kube.fail(403, **SENDING, delay_s=3.0)
        sent = harness.submission(Fate.PENDS)
        harness.backend.submit([sent])
        until(lambda: slow.hits, "the Secret was never sent")
        harness.backend.cancel([sent.id])
        assert heard.end(sent.id).how is How.CANCELLED
        until(lambda: not harness.pods_of(sent.id), "the pod stayed")
        assert let_go(heard, sent) == []


class TestAdoption:
    """A scheduler died between a pod and its Secret, or did not."""

    def orphaned(self, harness: KubernetesHarness, heard: Heard, *, has_secret: bool) -> Submission:
        """A pending pod of a scheduler that is dead."""
        if not has_secret:
            harness.kube.fail(**SENDING, drop=True)
        sent = sent_by(harness, Fate.PENDS)
        harness.backend.submit([sent])
        heard.until_kind(Accepted if has_secret else Waiting, [sent.id])
        harness.kube.heal()
        harness.kube.forget_requests()
        return sent

    def adopt(self, harness: KubernetesHarness, sent: Submission) -> Heard:
        harness.restart().adopt([sent.id])
        adopted = Heard(harness)
        adopted.until(lambda: lacks_payload(adopted, sent), "being asked for its payload")
        assert adopted.wait(sent.id).retry_after_s is None
        return adopted

    @pytest.mark.parametrize("has_secret", [False, True])
    def test_it_is_made_or_made_anew_for_the_same_pod(
        self, harness: KubernetesHarness, heard: Heard, has_secret: bool
    ) -> None:
        sent = self.orphaned(harness, heard, has_secret=has_secret)
        [before] = harness.pods_of(sent.id)
        adopted = self.adopt(harness, sent)
        again = replace(sent, payload=json.dumps({"token": "signed-anew"}))
        harness.backend.submit([again])
        adopted.until(lambda: is_complete(adopted, sent), "acceptance")
        [after], [secret] = harness.pods_of(sent.id), secrets(harness)
        assert payload_in(secret) == again.payload
        assert secret["metadata"]["ownerReferences"][0]["uid"] == after["metadata"]["uid"]
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        # A quota that is used up refuses to create even what is there, so that is asked for last.
        assert harness.kube.count("create", SECRETS) == (0 if has_secret else 1)
        assert harness.kube.count("create", PODS) == 0

    def test_a_pod_that_may_have_it_is_not_taken_back_by_a_server_that_asks_for_patience(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = self.orphaned(harness, heard, has_secret=True)
        adopted = self.adopt(harness, sent)
        harness.kube.fail(503, **SENDING)
        harness.backend.submit([sent])
        adopted.until(lambda: bool(let_go(adopted, sent)), "being let go")
        [pod] = harness.pods_of(sent.id)
        assert "deletionTimestamp" not in pod["metadata"]
        harness.kube.heal()
        send_until_accepted(harness, adopted, sent)

    def test_a_pod_that_was_adopted_and_is_refused_its_secret_is_taken_back(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        sent = self.orphaned(harness, heard, has_secret=False)
        adopted = self.adopt(harness, sent)
        harness.kube.fail(403, **SENDING, message="exceeded quota: q")
        harness.backend.submit([sent])
        adopted.until(lambda: bool(let_go(adopted, sent)), "being let go")
        assert harness.pods_of(sent.id) == []

    def test_a_running_pod_is_asked_for_nothing(self, harness: KubernetesHarness, heard: Heard) -> None:
        sent = harness.submission(Fate.BLOCKS)
        harness.backend.submit([sent])
        heard.until_kind(Started, [sent.id])
        harness.restart().adopt([sent.id])
        adopted = Heard(harness)
        adopted.until_kind(Started, [sent.id])
        assert not lacks_payload(adopted, sent)

    def test_a_repeat_that_meets_a_pod_on_its_way_out_makes_no_secret(
        self, harness: KubernetesHarness, heard: Heard
    ) -> None:
        def lingering(sent: Submission) -> dict[str, Any]:
            pod = make_pod(sent)
            pod["metadata"]["finalizers"] = ["test/linger"]
            return pod

        start_with(harness, lingering)
        sent = harness.submission(Fate.PENDS)
        harness.backend.submit([sent])
        heard.until_kind(Accepted, [sent.id])
        harness.backend.stop(5.0)
        harness.delete(sent.id)
        harness.kube.forget_requests()
        harness.restart().submit([sent])
        repeated = Heard(harness)
        repeated.until_kind(Accepted, [sent.id])
        free(harness, sent)
        end = repeated.end(sent.id)
        assert end.diagnosis is not None
        assert end.diagnosis.reason is Reason.POD_DELETED
        assert harness.kube.count("create", SECRETS) + harness.kube.count("update") == 0


def let_go(heard: Heard, sent: Submission) -> list[Waiting]:
    return [o for o in heard.of(sent.id) if isinstance(o, Waiting) and o.retry_after_s is not None]


def lacks_payload(heard: Heard, sent: Submission) -> bool:
    return any(isinstance(o, Accepted) and o.lacks_payload for o in heard.of(sent.id))


def is_complete(heard: Heard, sent: Submission) -> bool:
    return any(isinstance(o, Accepted) and not o.lacks_payload for o in heard.of(sent.id))


def is_terminating(harness: KubernetesHarness, sent: Submission) -> bool:
    return any("deletionTimestamp" in pod["metadata"] for pod in harness.pods_of(sent.id))


def free(harness: KubernetesHarness, sent: Submission) -> None:
    """Take the finalizer off its pod."""
    [pod] = harness.pods_of(sent.id)
    path = f"{PODS}/{pod['metadata']['name']}"
    body = {"metadata": {"finalizers": None}}
    code, answer = harness.kube.request("PATCH", path, body, headers=MERGE_PATCH)
    assert code == 200, answer
