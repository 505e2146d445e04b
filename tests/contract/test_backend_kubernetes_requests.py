"""How many requests the Kubernetes backend makes: bounded work, counted at the wire."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hybrid_executor.backends.kubernetes.backend import KubernetesBackend
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.observation import Accepted, Ended, How, Waiting
from tests.contract.backend_suite import PATIENCE_S, Fate, Heard
from tests.fixtures.kube import Kube, until
from tests.fixtures.pod_backends import PATIENT
from tests.fixtures.puppet import PODS, SECRETS, KubernetesHarness, submission


@pytest.fixture
def harness(kube: Kube) -> Iterator[KubernetesHarness]:
    made = KubernetesHarness(kube, watch=PATIENT)
    yield made
    made.close()


def pages(pods: int) -> int:
    """Requests of one list over so many pods."""
    return max(1, -(-pods // 500))


@pytest.mark.parametrize("pods", [1, 100, 1000])
def test_work_is_bounded_by_what_changes(harness: KubernetesHarness, kube: Kube, pods: int) -> None:
    until(lambda: kube.count("watch"), "the watch never began")
    assert kube.count("list") == 1
    sent = [harness.submission(Fate.PENDS) for _ in range(pods)]
    ids = [s.id for s in sent]
    # Two requests for each pod, through a proxy, in one process.
    patience_s = PATIENCE_S + pods / 10

    kube.forget_requests()
    heard = Heard(harness, patience_s)
    harness.backend.submit(sent)
    heard.until_kind(Accepted, ids)
    assert (kube.count("create", PODS), kube.count("get"), kube.count("list")) == (pods, 0, 0)
    assert (kube.count("create", SECRETS), kube.count("update")) == (pods, 0)

    kube.forget_requests()
    harness.backend.adopt(ids)  # what it knows is answered from memory
    again = Heard(harness, patience_s)
    again.until_kind(Waiting, ids)
    for _ in range(100):
        harness.backend.poll()
    assert sum(kube.requests.values()) == kube.count("watch")

    kube.forget_requests()
    harness.restart().adopt(ids)
    adopted = Heard(harness, patience_s)
    adopted.until_kind(Waiting, ids)
    assert kube.count("patch") == pods
    assert kube.count("get") == 0
    # One list for the look-up, and one that this backend's own watch begins with.
    assert kube.count("list") <= pages(pods) + pages(pods)

    kube.forget_requests()
    harness.backend.cancel(ids)
    adopted.until_kind(Ended, ids)
    assert {o.how for o in adopted.all if isinstance(o, Ended)} == {How.CANCELLED}
    assert (kube.count("delete"), kube.count("list"), kube.count("get")) == (pods, 0, 0)


def test_a_healthy_watch_never_lists(harness: KubernetesHarness, kube: Kube) -> None:
    timing = replace(PATIENT, server_timeout_min_s=1, server_timeout_max_s=1)
    harness.config = replace(harness.config, watch=timing)
    harness.backend.stop(5.0)
    # Else the watch of the former one would be taken for that of the next, which lists before it watches.
    kube.forget_requests()
    harness.restart()
    until(lambda: kube.count("watch"), "the watch never began")
    kube.forget_requests()
    until(lambda: kube.count("watch") >= 4, "the watch was never renewed")
    assert kube.count("list") == 0


def test_pods_that_vanish_together_are_looked_up_together(harness: KubernetesHarness, kube: Kube) -> None:
    sent = [harness.submission(Fate.PENDS) for _ in range(50)]
    heard = Heard(harness)
    harness.backend.submit(sent)
    heard.until_kind(Accepted, [s.id for s in sent])
    kube.forget_requests()
    code, answer = kube.request("DELETE", PODS)
    assert code == 200, answer
    heard.until_kind(Ended, [s.id for s in sent])
    assert kube.count("get") == 0
    assert kube.count("list") <= 10


def test_creation_keeps_to_its_concurrency(harness: KubernetesHarness, kube: Kube) -> None:
    harness.config = replace(harness.config, creation_concurrency=4)
    harness.restart()
    kube.fail(verb="create", path=PODS, delay_s=1.0)
    sent = [harness.submission(Fate.PENDS) for _ in range(12)]
    heard, began = Heard(harness), time.monotonic()
    harness.backend.submit(sent)
    heard.until_kind(Accepted, [s.id for s in sent])
    took_s = time.monotonic() - began
    assert took_s >= 3 * 1.0
    assert took_s < 12 * 1.0


def test_the_most_urgent_is_made_first(harness: KubernetesHarness, kube: Kube) -> None:
    harness.config = replace(harness.config, creation_concurrency=1)
    harness.restart()
    # Until the others are handed over, however busy the machine.
    slow = kube.fail(verb="create", times=1, delay_s=3.0)
    first = submission(Fate.PENDS)
    later = [submission(Fate.PENDS, priority=p) for p in (1, 5, 5, 9)]
    heard = Heard(harness)
    harness.backend.submit([first])
    until(lambda: slow.hits, "nothing was made")
    for one in later:
        harness.backend.submit([one])
    heard.until_kind(Accepted, [s.id for s in later])
    made = [o.submission for o in heard.all if isinstance(o, Accepted)]
    assert made == [s.id for s in (first, later[3], later[1], later[2], later[0])]


def test_two_schedulers_take_what_a_third_left_once_and_never_from_each_other_af66396(
    harness: KubernetesHarness, kube: Kube
) -> None:
    sent = [harness.submission(Fate.SUCCEEDS) for _ in range(10)]
    harness.backend.submit(sent)
    Heard(harness).until_kind(Ended, [s.id for s in sent])
    harness.backend.stop(5.0)
    kube.forget_requests()
    pair = [harness.unstarted(), harness.unstarted()]
    for backend in pair:
        backend.start()
    live = {backend.owner for backend in pair}
    until(lambda: kube.count("watch") >= 2, "the watches never began")

    kube.forget_requests()
    for backend in pair:
        backend.sweep(live)
    ends = [o.submission for o in ends_of(pair, {s.id for s in sent})]
    assert set(ends) == {s.id for s in sent}
    until(lambda: kube.count("list") >= 2, "one of them never looked")
    taken = []
    for _ in range(5):
        lists = kube.count("list")
        for backend in pair:
            backend.sweep(live)
        # Who looks again has begun all that it found before.
        until(lambda before=lists: kube.count("list") >= before + 2, "nobody looked")
        until(lambda: not any(is_at_work(backend) for backend in pair), "what was found is never done")
        taken.append(kube.count("patch"))
    # Both may have listed a pod before the other's label stood on it: once, and never again.
    assert len(sent) <= taken[0] <= 2 * len(sent)
    assert set(taken) == {taken[0]}
    assert kube.count("delete") == 0, "nothing goes before its end is recorded"


def is_at_work(backend: KubernetesBackend) -> bool:
    """Whether something that was found is still to be taken over, deleted or disposed of."""
    clusters = backend._clusters
    return clusters is not None and any(session.upkeep._tasks for session in clusters.sessions.values())


def ends_of(backends: list[KubernetesBackend], wanted: set[SubmissionId]) -> list[Ended]:
    """What they say of ends, until each of these has one."""
    heard: list[Ended] = []

    def complete() -> bool:
        heard.extend(o for backend in backends for o in backend.poll() if isinstance(o, Ended))
        return {o.submission for o in heard} >= wanted

    until(complete, "not every end was told")
    return heard
