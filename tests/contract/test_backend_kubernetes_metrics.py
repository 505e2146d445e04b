"""What the Kubernetes backend counts is what it did."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hybrid_executor.backends.kubernetes.backend import KubernetesBackend
from hybrid_executor.backends.kubernetes.client import call_of
from hybrid_executor.backends.kubernetes.config import WatchTiming
from hybrid_executor.meter import API_CALLS, POD_CREATION, POD_START, WATCH_AGE, Drained, Meter
from hybrid_executor.model.observation import Ended, Started
from tests.contract.backend_suite import Fate, Heard
from tests.fixtures.kube import Kube, until
from tests.fixtures.pod_backends import PATIENT, TIMING
from tests.fixtures.puppet import NAMESPACE, KubernetesHarness, make_pod


class Metered(KubernetesHarness):
    """Its backends share a meter."""

    def __init__(self, kube: Kube, watch: WatchTiming = TIMING) -> None:
        self.meter = Meter()
        super().__init__(kube, watch=watch)

    def unstarted(self, **config: object) -> KubernetesBackend:
        self._owners += 1
        backend = KubernetesBackend(self.config, make_pod, owner=str(self._owners), meter=self.meter)
        self._backends.append(backend)
        return backend


@pytest.fixture
def harness(kube: Kube) -> Iterator[Metered]:
    harness = Metered(kube)
    yield harness
    harness.close()


@pytest.fixture
def unhurried(kube: Kube) -> Iterator[Metered]:
    """One whose watch lasts as long as the test: renewed between two counts, it would be in one of them."""
    harness = Metered(kube, replace(PATIENT, server_timeout_min_s=300, server_timeout_max_s=300))
    yield harness
    harness.close()


def calls(drained: Drained) -> Counter[tuple[str, ...]]:
    return Counter({tags: n for (metric, tags), n in drained.counts.items() if metric is API_CALLS})


def test_every_request_is_counted_with_its_answer(unhurried: Metered) -> None:
    harness, heard = unhurried, Heard(unhurried)
    # The server counts it before, and the backend when it is answered.
    opened = ("default", "watch", "pods", "200")
    until(lambda: calls(harness.meter.drain())[opened], "no watch was opened")
    harness.kube.forget_requests()
    harness.kube.fail(429, verb="create", times=1)
    refused, sent = harness.submission(Fate.PENDS), harness.submission(Fate.SUCCEEDS)
    harness.backend.submit([refused])
    heard.wait(refused.id)
    heard.until(
        lambda: harness.backend.submit([sent]) is None and any(isinstance(o, Ended) for o in heard.all),
        "an end",
    )
    harness.backend.release([sent.id])
    until(lambda: not harness.pods_of(sent.id), "the pod stayed")
    harness.backend.stop(5.0)
    counted = calls(harness.meter.drain())
    assert counted["default", "create", "pods", "429"] == 1
    assert counted["default", "create", "pods", "201"] == 1
    by_verb: Counter[str] = Counter()
    for (_, verb, _, _), number in counted.items():
        by_verb[verb] += number
    assert by_verb == Counter(
        {verb: harness.kube.count(verb) for verb, path in harness.kube.requests if "/pods" in path}
    )


def test_an_answer_that_never_came_is_counted_too(harness: Metered) -> None:
    harness.kube.fail(verb="create", drop=True)
    sent = harness.submission(Fate.PENDS)
    harness.backend.submit([sent])
    Heard(harness).wait(sent.id)
    assert calls(harness.meter.drain())["default", "create", "pods", "none"] >= 1


def test_creation_and_start_are_timed_once_and_only_for_what_was_seen_whole(harness: Metered) -> None:
    heard = Heard(harness)
    sent, adopted = harness.submission(Fate.SUCCEEDS), harness.submission(Fate.BLOCKS)
    harness.backend.submit([sent, adopted])
    heard.end(sent.id)
    heard.until_kind(Started, [adopted.id])
    harness.backend.submit([adopted])
    times = harness.meter.drain().times
    assert len(times[POD_CREATION, ()]) == 2
    assert 1 <= len(times[POD_START, ()]) <= 2
    assert all(0 < seconds < 30 for taken in times.values() for seconds in taken)
    harness.restart().adopt([adopted.id])
    harness.finish(adopted.id)
    Heard(harness).end(adopted.id)
    assert (POD_CREATION, ()) not in harness.meter.drain().times


def test_the_age_of_a_watch_grows_with_its_silence(harness: Metered) -> None:
    until(harness.kube.open_watches, "no watch was opened")

    def age() -> float:
        return harness.meter.drain().gauges[WATCH_AGE, ("default", NAMESPACE)]

    young = age()
    harness.kube.silence()
    until(lambda: age() > young + 1.0, "it did not grow")
    harness.kube.heal()
    until(lambda: age() < 1.0, "it went on growing")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (("GET", "/api/v1/pods", {}), ("list", "pods")),
        (("GET", "/api/v1/namespaces/a/pods", {"watch": "true"}), ("watch", "pods")),
        (("GET", "/api/v1/namespaces/a/pods/pods", {}), ("get", "pods")),
        (("GET", "/api/v1/namespaces/a/pods/p/log", {}), ("get", "pods/log")),
        (("GET", "/api/v1/namespaces/a", {}), ("get", "namespaces")),
        (("GET", "/api/v1/nodes", {}), ("list", "nodes")),
        (("PATCH", "/api/v1/namespaces/a/pods/p", {}), ("patch", "pods")),
        (("POST", "/api/v1/namespaces/a/secrets", {}), ("create", "secrets")),
        (
            ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {}),
            ("create", "selfsubjectaccessreviews"),
        ),
    ],
)
def test_a_request_has_the_verb_and_the_resource_of_rbac(
    request_: tuple[str, str, dict[str, str]], expected: tuple[str, str]
) -> None:
    assert call_of(*request_) == expected
