"""Routes to another namespace and to another cluster, with real rights and beside a real control plane."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import Accepted, Ended, How, Started
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import LABEL_CLUSTER
from tests.cluster.backend import ClusterHarness, HarnessMaker, Sender, role_rules
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.contract.backend_suite import Fate
from tests.fixtures import puppet
from tests.fixtures.kube import InProcessKube, until
from tests.fixtures.pod_backends import TIMING
from tests.fixtures.two_clusters import EAST, pods


@pytest.fixture
def second(plane: ControlPlane, namespace: str) -> Iterator[str]:
    """Another namespace, gone with the first."""
    name = f"{namespace}-b"
    plane.make_namespace(name)
    yield name
    plane.heal()
    assert plane.request("DELETE", f"/api/v1/namespaces/{name}")[0] == 200


def test_a_scheduler_with_a_role_in_each_namespace_runs_pods_in_both_and_adopts_them(
    runner: RunnerNode, plane: ControlPlane, namespace: str, second: str, start_harness: HarnessMaker
) -> None:
    harness = start_harness(plane, namespace, scopes=(namespace, second))
    sender = Sender(harness)
    lives, ends = (
        harness.submission(fate, route={"namespace": second}) for fate in (Fate.BLOCKS, Fate.SUCCEEDS)
    )
    sender.send(ends)
    wait = sender.waits(ends, Reason.FORBIDDEN)
    assert f'in the namespace "{second}"' in wait.message, "no right but those of Roles is to be used"
    plane.role_kubeconfig(harness.user, role_rules("scheduler"), second)
    here = harness.submission(Fate.SUCCEEDS)
    sender.send(lives, here)
    sender.until_kind(Ended, [ends.id, here.id])
    sender.until_kind(Started, [lives.id])
    names = {o.submission: o.external_name or "" for o in sender.all if isinstance(o, Accepted)}
    assert [names[s.id].partition("/")[0] for s in (lives, ends, here)] == [second, second, namespace]
    harness.restart().adopt([lives.id])
    after = Sender(harness)
    after.until_kind(Started, [lives.id])
    harness.end_of(lives.id).touch()
    assert after.end(lives.id).how is How.SUCCEEDED
    harness.backend.release([lives.id])
    path = f"/api/v1/namespaces/{second}/{{}}/{names[lives.id].partition('/')[2]}"
    for kind in ("pods", "secrets"):
        until(lambda kind=kind: plane.request("GET", path.format(kind))[0] == 404, f"its {kind} stayed", 60.0)


@pytest.fixture
def east(tmp_path: Path) -> Iterator[InProcessKube]:
    """Another cluster: the embedded API, and a puppet for its node."""
    kube = InProcessKube(tmp_path / "east")
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": puppet.NAMESPACE}}
    assert kube.request("POST", "/api/v1/namespaces", body)[0] == 201
    node = puppet.Puppet(kube)
    yield kube
    node.close()
    kube.close()


def test_while_the_real_cluster_is_away_another_goes_on_and_each_is_adopted_where_it_is(
    runner: RunnerNode, plane: ControlPlane, namespace: str, start_harness: HarnessMaker, east: InProcessKube
) -> None:
    other = KubernetesConfig(
        cluster=EAST, namespace=puppet.NAMESPACE, in_cluster=False, config_file=east.kubeconfig, watch=TIMING
    )
    harness = start_harness(plane, namespace, others=[other])
    sender = Sender(harness, patience_s=90.0)
    near = harness.submission(Fate.BLOCKS)
    away = far(harness, Fate.BLOCKS)
    sender.send(near, away)
    sender.until_kind(Started, [near.id, away.id])
    assert pods(east, away.id)[0]["metadata"]["labels"][LABEL_CLUSTER] == EAST
    assert LABEL_CLUSTER not in harness.pod(near.id)["metadata"]["labels"]
    plane.kill("apiserver")
    waits, goes = harness.submission(Fate.SUCCEEDS), far(harness, Fate.SUCCEEDS)
    sender.send(waits, goes)
    assert sender.end(goes.id).how is How.SUCCEEDED
    sender.waits(waits, Reason.API_UNAVAILABLE)
    sender.until(lambda: harness.backend.troubles[""] is not None, "word of the outage")
    assert harness.backend.troubles[EAST] is None

    harness.restart()
    harness.backend.adopt([away.id], EAST)
    harness.backend.adopt([near.id])
    after = Sender(harness, patience_s=90.0)
    after.until_kind(Started, [away.id])
    assert after.of(near.id) == []
    plane.start("apiserver")
    after.until_kind(Started, [near.id])
    after.send(waits)
    assert after.end(waits.id).how is How.SUCCEEDED
    assert harness.starts(waits.id) == 1
    harness.finish(near.id)
    assert after.end(near.id).how is How.SUCCEEDED


def far(harness: ClusterHarness, fate: Fate) -> Submission:
    """One for the other cluster, whose node is a puppet."""
    return harness.submission(
        fate,
        route={"cluster": EAST, "namespace": puppet.NAMESPACE},
        metadata={"annotations": {puppet.FATE: str(fate)}},
        spec={"nodeName": puppet.NODE},
    )
