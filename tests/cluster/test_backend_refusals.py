"""What a real API server refuses: which refusals are waited for, and which cost the one attempt.

Its words are recorded in ``tests/unit/recorded_answers.json``, where the unit
tests read them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import Accepted, Ended, Observation, Rejected, Waiting
from hybrid_executor.model.reason import Reason
from tests.cluster.backend import ClusterHarness, HarnessMaker, Sender
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.cluster.webhook import GROUP, Webhook
from tests.contract.backend_suite import Fate
from tests.fixtures.kube import until

CPU = {"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "100m"}}}
BARE = {"name": "base", "image": "none"}
FLOWS = "flowcontrol.apiserver.k8s.io/v1"
#: What Pod Security's level ``restricted`` asks of a container.
MODEST = {
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
}


def quota(harness: ClusterHarness, **hard: str) -> None:
    """Set the namespace's quota, and wait until the controller has counted it."""
    body = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "it", "namespace": harness.namespace},
        "spec": {"hard": hard},
    }
    harness.plane.apply(body)
    path = f"/api/v1/namespaces/{harness.namespace}/resourcequotas/it"
    harness.api.until(
        lambda: harness.plane.request("GET", path)[1].get("status", {}).get("hard") == hard,
        "the quota was never counted",
    )


def delete(harness: ClusterHarness, kind: str) -> None:
    code, answer = harness.plane.request("DELETE", f"/api/v1/namespaces/{harness.namespace}/{kind}/it")
    assert code == 200, answer


def is_quota(seen: Observation) -> bool:
    return isinstance(seen, Waiting) and seen.reason is Reason.QUOTA


class TestWhatIsWaitedFor:
    """Nothing is wrong with the task: it goes on when the cluster lets it."""

    def waits_then_ends_well(
        self, harness: ClusterHarness, sender: Sender, sent: Submission, reason: Reason, words: str
    ) -> Callable[[Callable[[], object]], None]:
        sender.send(sent)
        wait = sender.waits(sent, reason)
        assert words in wait.message
        assert wait.retry_after_s is not None

        def once(permitted: Callable[[], object]) -> None:
            permitted()
            sender.all_end_well_and_once([sent])

        return once

    def test_an_exhausted_quota_holds_pods_back_until_it_grows(
        self, harness: ClusterHarness, sender: Sender
    ) -> None:
        quota(harness, pods="2")
        batch = [harness.submission(Fate.BLOCKS) for _ in range(5)]
        sender.send(*batch)
        sender.until(
            lambda: len([o for o in sender.all if isinstance(o, Waiting) and o.reason is Reason.QUOTA]) >= 3,
            "three that wait for the quota",
        )
        waits = [o for o in sender.all if isinstance(o, Waiting) and o.reason is Reason.QUOTA]
        assert "exceeded quota: it, requested: pods=1, used: pods=2, limited: pods=2" in waits[-1].message
        assert len(harness.pods()) == 2
        quota(harness, pods="9")
        sender.until_kind(Accepted, [sent.id for sent in batch])
        for sent in batch:
            harness.finish(sent.id)
        sender.all_end_well_and_once(batch)

    def test_an_exhausted_quota_of_secrets_holds_their_pods_back_until_it_grows(
        self, harness: ClusterHarness, sender: Sender
    ) -> None:
        quota(harness, secrets="2")
        batch = [harness.submission(Fate.BLOCKS) for _ in range(5)]
        sender.send(*batch)
        sender.until(
            lambda: len({o.submission for o in sender.all if isinstance(o, Accepted)}) == 2, "two that run"
        )
        sender.until(
            lambda: len({o.submission for o in sender.all if is_quota(o)}) == 3,
            "three that wait for the quota",
        )
        harness.api.until(lambda: len(harness.pods()) == 2, "a pod was left without its Secret")
        quota(harness, secrets="9")
        sender.until_kind(Accepted, [sent.id for sent in batch])
        for sent in batch:
            harness.finish(sent.id)
        sender.all_end_well_and_once(batch)

    def test_a_quota_that_wants_more_said_is_waited_for(
        self, harness: ClusterHarness, sender: Sender
    ) -> None:
        quota(harness, **{"requests.cpu": "1"})
        sent = harness.submission(Fate.SUCCEEDS)
        go_on = self.waits_then_ends_well(
            harness, sender, sent, Reason.QUOTA, "failed quota: it: must specify requests.cpu"
        )
        go_on(lambda: delete(harness, "resourcequotas"))

    @pytest.mark.parametrize(
        ("limit", "words"),
        [
            ({"max": {"cpu": "50m"}}, "maximum cpu usage per Container is 50m"),
            ({"min": {"cpu": "2"}}, "minimum cpu usage per Container is 2"),
            ({"maxLimitRequestRatio": {"memory": "2"}}, "memory max limit to request ratio per Container"),
        ],
    )
    def test_a_limit_range_holds_a_pod_back_until_it_goes(
        self, harness: ClusterHarness, sender: Sender, limit: dict[str, Any], words: str
    ) -> None:
        limits = {"metadata": {"name": "it"}, "spec": {"limits": [{"type": "Container", **limit}]}}
        harness.api.make("limitranges", limits)
        sent = harness.submission(Fate.SUCCEEDS, container=CPU)
        go_on = self.waits_then_ends_well(harness, sender, sent, Reason.QUOTA, words)
        go_on(lambda: delete(harness, "limitranges"))

    def test_a_service_account_that_is_still_to_be_made_is_waited_for(
        self, harness: ClusterHarness, sender: Sender
    ) -> None:
        sent = harness.submission(Fate.SUCCEEDS, spec={"serviceAccountName": "later"})
        go_on = self.waits_then_ends_well(
            harness, sender, sent, Reason.FORBIDDEN, 'serviceaccount "later" not found'
        )
        go_on(lambda: harness.api.make("serviceaccounts", {"metadata": {"name": "later"}}))

    def test_a_webhook_that_cannot_be_reached_is_an_api_that_is_away(
        self, harness: ClusterHarness, sender: Sender, webhook: Webhook
    ) -> None:
        webhook.vanish()
        sent = harness.submission(Fate.SUCCEEDS)
        go_on = self.waits_then_ends_well(
            harness, sender, sent, Reason.API_UNAVAILABLE, "failed calling webhook"
        )
        go_on(webhook.return_)

    @pytest.mark.parametrize(
        ("code", "reason"),
        [(409, Reason.CONFLICT), (429, Reason.THROTTLED), (503, Reason.API_UNAVAILABLE)],
    )
    def test_a_webhook_that_asks_for_patience_gets_it(
        self, harness: ClusterHarness, sender: Sender, webhook: Webhook, code: int, reason: Reason
    ) -> None:
        webhook.deny(code, "not now")
        sent = harness.submission(Fate.SUCCEEDS)
        go_on = self.waits_then_ends_well(harness, sender, sent, reason, "denied the request: not now")
        go_on(webhook.allow)


class TestThrottling:
    """API Priority and Fairness gives our user a level of one share, which rejects what exceeds it."""

    @pytest.fixture
    def throttled(self, harness: ClusterHarness) -> Iterator[ClusterHarness]:
        limited = {
            "nominalConcurrencyShares": 1,
            "lendablePercent": 0,
            "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Reject"},
        }
        rule = {
            "subjects": [{"kind": "User", "user": {"name": harness.user}}],
            "resourceRules": [
                {"verbs": ["create"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}
            ],
        }
        meta = {"name": harness.namespace}
        level = {"type": "Limited", "limited": limited}
        schema = {
            "priorityLevelConfiguration": meta,
            "matchingPrecedence": 100,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [rule],
        }
        flows = {"PriorityLevelConfiguration": level, "FlowSchema": schema}
        harness.plane.apply(
            *(
                {"apiVersion": FLOWS, "kind": kind, "metadata": meta, "spec": spec}
                for kind, spec in flows.items()
            )
        )
        yield harness
        for kind in ("flowschemas", "prioritylevelconfigurations"):
            code, answer = harness.plane.request("DELETE", f"/apis/{FLOWS}/{kind}/{harness.namespace}")
            assert code == 200, answer

    def test_all_pods_are_made_once_in_spite_of_429(
        self, throttled: ClusterHarness, webhook: Webhook
    ) -> None:
        # One share lets few pods through a second, and fewer on a busy machine.
        sender = Sender(throttled, patience_s=120.0)
        webhook.delay_s = 0.2  # so that requests are under way at the same time
        throttled.backend.stop(5.0)
        throttled.backend = throttled.unstarted(creation_concurrency=24)
        throttled.backend.start()
        batch = [throttled.submission(Fate.SUCCEEDS) for _ in range(24)]
        sender.send(*batch)
        sender.until(
            lambda: any(isinstance(o, Waiting) and o.reason is Reason.THROTTLED for o in sender.all),
            "a 429",
        )
        wait = next(o for o in sender.all if isinstance(o, Waiting) and o.reason is Reason.THROTTLED)
        assert "Too many requests, please try again later" in wait.message
        webhook.delay_s = 0.0
        sender.all_end_well_and_once(batch)
        assert len(throttled.pods()) == len(batch)


class TestWhatCostsTheOneAttempt:
    """Waiting would not help: the same pod would be refused for ever."""

    def rejected(self, sender: Sender, bad: Submission, good: Submission) -> Rejected:
        """What is said of the bad one, while another one runs."""
        sender.send(bad, good)
        rejected = sender.rejected(bad)
        sender.all_end_well_and_once([good])
        assert not [o for o in sender.of(bad.id) if isinstance(o, Accepted | Ended)]
        return rejected

    def test_a_pod_that_violates_pod_security_is_refused_and_a_modest_one_runs(
        self, runner: RunnerNode, plane: ControlPlane, namespace: str, start_harness: HarnessMaker
    ) -> None:
        label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        merge = "application/merge-patch+json"
        assert plane.request("PATCH", f"/api/v1/namespaces/{namespace}", label, merge)[0] == 200
        harness = start_harness(plane, namespace)
        said = self.rejected(
            Sender(harness),
            harness.submission(Fate.SUCCEEDS),
            harness.submission(Fate.SUCCEEDS, container=MODEST),
        )
        assert said.diagnosis.reason is Reason.REFUSED
        assert 'violates PodSecurity "restricted:latest"' in said.diagnosis.message
        assert "must set securityContext.runAsNonRoot=true" in said.diagnosis.message

    @pytest.mark.parametrize("code", [None, 401, 403, 404, 422])
    def test_a_pod_that_a_webhook_denies_is_refused_whatever_its_code(
        self, harness: ClusterHarness, sender: Sender, webhook: Webhook, code: int | None
    ) -> None:
        webhook.deny(code, "no such pods here")
        bad = harness.submission(Fate.SUCCEEDS)
        sender.send(bad)
        said = sender.rejected(bad)
        assert said.diagnosis.reason is Reason.REFUSED
        assert "denied the request: no such pods here" in said.diagnosis.message

    @pytest.mark.parametrize("why", ["Invalid", "Forbidden"])
    def test_a_pod_that_an_admission_policy_denies_is_refused_alone(
        self, harness: ClusterHarness, sender: Sender, policy: Callable[[str, str], None], why: str
    ) -> None:
        policy("!('bad' in object.metadata.labels)", why)
        bad = harness.submission(Fate.SUCCEEDS, metadata={"labels": {"bad": "yes"}})
        said = self.rejected(sender, bad, harness.submission(Fate.SUCCEEDS))
        assert said.diagnosis.reason is Reason.REFUSED
        assert "denied request: not here" in said.diagnosis.message

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ({"terminationGracePeriodSeconds": "soon"}, "spec.terminationGracePeriodSeconds of type int64"),
            ({"hostname": "Not_A_Name"}, "spec.hostname: Invalid value"),
        ],
    )
    def test_an_invalid_pod_fails_alone_with_its_field(
        self, harness: ClusterHarness, sender: Sender, spec: dict[str, Any], words: str
    ) -> None:
        bad = harness.submission(Fate.SUCCEEDS, spec=spec)
        said = self.rejected(sender, bad, harness.submission(Fate.SUCCEEDS))
        assert said.diagnosis.reason is Reason.INVALID_POD
        assert words in said.diagnosis.message

    @pytest.mark.parametrize("size", [1_600_000, 2_200_000, 3_300_000])
    def test_a_pod_that_is_too_large_fails_alone_whoever_says_so(
        self, harness: ClusterHarness, sender: Sender, size: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Above 3 MiB the API server says 413; below, its store refuses and makes it a 500."""
        bad = harness.submission(Fate.SUCCEEDS, container={"env": [{"name": "X", "value": "x" * size}]})
        said = self.rejected(sender, bad, harness.submission(Fate.SUCCEEDS))
        assert said.diagnosis.reason is Reason.INVALID_POD
        assert "large" in said.diagnosis.message
        assert "Kubernetes API is away" not in caplog.text


@pytest.fixture
def webhook(plane: ControlPlane, namespace: str) -> Iterator[Webhook]:
    """One that is asked about every pod of the namespace, and denies none yet."""
    with Webhook.started(plane, namespace) as hook:
        yield hook


@pytest.fixture
def policy(plane: ControlPlane, namespace: str) -> Iterator[Callable[[str, str], None]]:
    """Put a ValidatingAdmissionPolicy in force for pods of the namespace."""

    def enforce(expression: str, reason: str) -> None:
        rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
        validation = {"expression": expression, "message": "not here", "reason": reason}
        here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        specs = {
            "ValidatingAdmissionPolicy": {
                "matchConstraints": {"resourceRules": [rule]},
                "validations": [validation],
            },
            "ValidatingAdmissionPolicyBinding": {
                "policyName": namespace,
                "validationActions": ["Deny"],
                "matchResources": here,
            },
        }
        meta = {"name": namespace}
        plane.apply(
            *(
                {"apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": meta, "spec": s}
                for kind, s in specs.items()
            )
        )
        probe = {"metadata": {"name": "probe", "labels": {"bad": "yes"}}, "spec": {"containers": [BARE]}}
        path = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
        until(lambda: plane.request("POST", path, probe)[0] in {403, 422}, "the policy is not in force")

    yield enforce
    for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        assert plane.request("DELETE", f"/apis/{GROUP}/v1/{kind}/{namespace}")[0] == 200
