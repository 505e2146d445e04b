"""The API server is killed with SIGKILL in the middle of a run and started again."""

from collections import Counter
from collections.abc import Iterator

import pytest

from hybrid_executor.model.observation import Accepted, Ended, How, Started, Waiting
from hybrid_executor.naming import LABEL_ATTEMPT
from tests.contract.backend_suite import Fate, Heard
from tests.fixtures.kube import ProcessKube
from tests.fixtures.puppet import KubernetesHarness


@pytest.fixture
def harness(kube_process: ProcessKube) -> Iterator[KubernetesHarness]:
    made = KubernetesHarness(kube_process)
    yield made
    made.close()


def test_a_killed_api_server_loses_no_end_and_makes_no_second_pod(
    harness: KubernetesHarness, kube_process: ProcessKube
) -> None:
    before = [harness.submission(Fate.BLOCKS) for _ in range(5)]
    heard = Heard(harness)
    harness.backend.submit(before)
    heard.until_kind(Started, [s.id for s in before])

    kube_process.kill()
    during = [harness.submission(Fate.SUCCEEDS) for _ in range(5)]
    harness.backend.submit(during)
    heard.until_kind(Waiting, [s.id for s in during])
    kube_process.restart()
    for one in before:
        harness.finish(one.id)

    def all_accepted() -> bool:
        accepted = {o.submission for o in heard.all if isinstance(o, Accepted)}
        harness.backend.submit([s for s in during if s.id not in accepted])
        return {s.id for s in during} <= accepted

    heard.until(all_accepted, "acceptance of what was sent during the outage")
    for one in [*before, *during]:
        assert heard.end(one.id).how is How.SUCCEEDED
    ends = Counter(o.submission for o in heard.all if isinstance(o, Ended))
    assert set(ends.values()) == {1}
    pods = Counter(p["metadata"]["labels"][LABEL_ATTEMPT] for p in harness.pods())
    assert set(pods.values()) == {1}
    assert len(pods) == 10


def test_a_scheduler_that_dies_during_the_outage_is_replaced_after_it(
    harness: KubernetesHarness, kube_process: ProcessKube
) -> None:
    runs, never_sent = harness.submission(Fate.BLOCKS), harness.submission(Fate.BLOCKS)
    harness.backend.submit([runs])
    Heard(harness).until_kind(Started, [runs.id])
    kube_process.kill()
    harness.restart().adopt([runs.id, never_sent.id])
    heard = Heard(harness)
    heard.silence([runs.id, never_sent.id])
    kube_process.restart()
    heard.until_kind(Started, [runs.id])
    assert heard.end(never_sent.id).how is How.ABSENT
    harness.finish(runs.id)
    assert heard.end(runs.id).how is How.SUCCEEDED
