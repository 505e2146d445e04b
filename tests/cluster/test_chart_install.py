"""A release of the chart on a real kubelet: installed, upgraded under tasks that run, rolled back, removed.

One release for all tests, each of which upgrades it to what it needs; the last one
removes it. Tasks of both backends run at every moment.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.cluster.access import KubectlFailed
from tests.cluster.chart_release import Release, Row
from tests.cluster.installation import RELEASE, REPOSITORY, TAG
from tests.cluster.keda import Keda
from tests.cluster.kubelet import containerd
from tests.cluster.kubelet.node import KubeletNode
from tests.cluster.kubelet.workload import Workload
from tests.fixtures.helm import Helm, tools

pytestmark = pytest.mark.timeout(1800)
BUSY = {"one", "two", "pod"}


@pytest.fixture(scope="module")
def release(session_kubelet: KubeletNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Installed, with tasks of both backends that run."""
    session_kubelet.heal()
    plane, folder = session_kubelet.plane, tmp_path_factory.mktemp("release")
    name = f"chart-{uuid4().hex[:8]}"
    plane.make_namespace(name)
    made = Release(Workload(plane, name), Helm(tools(), folder, plane.admin), folder)
    made.apply("install")
    yield made
    plane.request("DELETE", f"/api/v1/namespaces/{name}")
    # Nobody waits for workers that drain.
    made.kubectl("delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")


def running(release: Release) -> list[Row]:
    """Tasks that run, of each kind one at least; waits for them."""

    def found() -> list[Row]:
        rows = [row for row in release.tasks("steady") if row[2] == "running"]
        return rows if {row[1] for row in rows} == BUSY else []

    rows: list[Row] = release.until(found, f"they never run all at once: {release.tasks('steady')}")
    return rows


def tries(rows: list[Row]) -> set[str]:
    """As the tasks count themselves."""
    return {f"{run} {task} {number}" for run, task, _, number in rows}


@contextmanager
def no_task_minds(release: Release) -> Iterator[None]:
    """What ran before ends well after; nothing is lost, fails, is tried again or begins twice."""
    before = running(release)
    yield
    ran = {row[:2] for row in before}

    def over() -> list[Row]:
        rows = [row for row in release.tasks("steady") if row[:2] in ran]
        return rows if all(row[2] in ("success", "failed") for row in rows) else []

    after = release.until(over, f"not over: {release.tasks('steady')}")
    assert [row[2:] for row in after] == [("success", 1)] * len(before), after
    every = release.tasks("steady")
    bad = [row for row in every if row[2] in ("failed", "up_for_retry", "upstream_failed") or row[3] > 1]
    assert bad == []
    began, ended = release.began(), release.ended()
    assert {name: began[name] for name in tries(after)} == dict.fromkeys(tries(after), 1)
    assert {name: ended[name] for name in tries(after)} == dict.fromkeys(tries(after), 1)
    assert [name for name, times in began.items() if times > 1] == []


def test_every_component_is_up_and_logs_of_both_backends_are_shown_while_they_run(release: Release) -> None:
    ready = {
        one["metadata"]["name"]: one["status"].get("readyReplicas") for one in release.listed("deployments")
    }
    parts = ("api-server", "dag-processor", "flower", "scheduler", "triggerer", "worker-default")
    assert ready == {f"{RELEASE}-{part}": 1 for part in parts}
    assert all(one["status"].get("succeeded") == 1 for one in release.listed("jobs"))
    assert "problem" not in release.airflow("hybrid", "doctor")
    where = f"/api/v1/namespaces/{release.namespace}/services/{RELEASE}-flower:5555/proxy/healthcheck"
    assert release.kubectl("get", "--raw", where) == "OK"

    rows = {row[1]: row for row in running(release)}
    for task in ("one", "pod"):
        path = f"/api/v2/dags/steady/dagRuns/{rows[task][0]}/taskInstances/{task}/logs/1"
        said = json.dumps(release.get(path.replace("+", "%2B")))
        assert "what a user wants to read" in said
    restarts = {
        pod["metadata"]["name"]: status["restartCount"]
        for pod in release.listed("pods")
        for status in pod["status"].get("containerStatuses", [])
    }
    assert set(restarts.values()) == {0}, restarts


def test_an_upgrade_of_a_pools_numbers_and_image_loses_no_task(
    release: Release, session_kubelet: KubeletNode
) -> None:
    place, tag = session_kubelet.place, f"{TAG}-mended"
    place.run(*containerd.ctr("images", "tag", "--force", f"{REPOSITORY}:{TAG}", f"{REPOSITORY}:{tag}"))
    image = release.values()["image"] | {"tag": tag}
    pools = {"default": {"queues": ["default"], "concurrency": 6, "replicas": 2}}
    with no_task_minds(release):
        release.apply("upgrade", image=image, pools=pools)
    # A former worker may have a moment left between its last task and its end.
    (worker,) = {
        (" ".join(pod["spec"]["containers"][0]["args"]), pod["spec"]["containers"][0]["image"])
        for pod in live(release, "default")
    }
    assert "--concurrency 6" in worker[0]
    assert worker[1] == f"{REPOSITORY}:{tag}"


def test_a_pool_comes_and_goes_and_what_runs_in_it_ends_well(release: Release) -> None:
    run = f"other-{uuid4().hex[:6]}"
    with no_task_minds(release):
        release.apply("upgrade", pools={"other": {"queues": ["other"], "concurrency": 2}})
    release.trigger("on_other", run, 60)
    release.until(lambda: release.began()[f"{run} other 1"], "the pool takes nothing")
    with no_task_minds(release):
        release.apply("upgrade")
        release.until(lambda: release.ended()[f"{run} other 1"], "it is lost")
    release.until(lambda: (run, "other", "success", 1) in release.tasks("on_other"), "it did not end well")
    assert release.began()[f"{run} other 1"] == 1
    release.until(lambda: not release.workers("other"), "its worker stays")


def test_an_autoscaler_takes_a_pool_over_keeps_to_new_bounds_and_gives_it_back(
    release: Release, tmp_path: Path
) -> None:
    scaling = {"by": "keda", "keda": {"pollingInterval": 2, "cooldownPeriod": 30}}

    def bound(least: int, most: int) -> None:
        pool = {"queues": ["default"], "concurrency": 2, "minReplicas": least, "maxReplicas": most}
        release.apply("upgrade", scaling=scaling, pools={"default": pool})

    with Keda.started(release.plane, tmp_path / "keda"):
        with no_task_minds(release):
            bound(1, 3)
            release.until(lambda: len(release.workers("default")) > 1, "KEDA gives it no second worker")
        with no_task_minds(release):
            # More than there is to do, then less, so that busy workers have to go.
            bound(4, 5)
            release.until(lambda: len(live(release, "default")) == 4, "it stays below its new minimum")
            bound(1, 1)
            release.until(lambda: len(live(release, "default")) == 1, "it stays above its new maximum")
        with no_task_minds(release):
            release.apply("upgrade")
        release.until(lambda: not release.listed("hpa"), "the autoscaler stays")
    (pool,) = (one for one in release.listed("deployments") if one["metadata"]["name"].endswith("-default"))
    assert pool["spec"]["replicas"] == 1
    # The cluster has other users, and an API without a server keeps every namespace from ending.
    assert release.plane.request("GET", "/apis/external.metrics.k8s.io/v1beta1")[0] == 404


Leaves = Callable[[Release, str], object]


def is_deleted(release: Release, pod: str) -> object:
    return release.kubectl("delete", "pod", pod, "--wait=false")


def is_evicted(release: Release, pod: str) -> object:
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": release.namespace},
    }
    code, answer = release.plane.request("POST", f"{release.workload.pods}/{pod}/eviction", body)
    assert code == 201, answer
    return answer


def is_drained_with_its_node(release: Release, pod: str) -> object:
    """The rest of the node stays, for there is no other one."""
    (node,) = release.plane.kubectl("get", "nodes", "--output=name").split()
    labels = release.workload.get(pod)["metadata"]["labels"]
    chosen = f"--pod-selector=hybrid-executor/pool={labels['hybrid-executor/pool']}"
    options = (chosen, "--timeout=1s", "--ignore-daemonsets", "--delete-emptydir-data")
    with pytest.raises(KubectlFailed, match=r"timeout|did not complete"):
        release.plane.kubectl("drain", node, *options)
    return release.plane.kubectl("uncordon", node)


@pytest.mark.parametrize("leaves", [is_deleted, is_evicted, is_drained_with_its_node])
def test_a_busy_worker_that_has_to_go_ends_its_tasks_first(release: Release, leaves: Leaves) -> None:
    workers = {pod["metadata"]["name"] for pod in live(release, "default")}
    with no_task_minds(release):
        for worker in workers:
            leaves(release, worker)
            assert release.workload.get(worker)["metadata"]["deletionTimestamp"]
    release.until(lambda: not workers & names(release, "default"), "it stays although it is dry")


def live(release: Release, pool: str) -> list[dict[str, Any]]:
    """The pool's workers that nobody has asked to go."""
    return [pod for pod in release.workers(pool) if "deletionTimestamp" not in pod["metadata"]]


def names(release: Release, pool: str) -> set[str]:
    return {pod["metadata"]["name"] for pod in release.workers(pool)}


def test_what_outlives_the_grace_ends_as_worker_lost_and_has_a_new_try(release: Release) -> None:
    run = f"short-{uuid4().hex[:6]}"
    pool = {"queues": ["short"], "concurrency": 1, "gracePeriodSeconds": 30, "drainMarginSeconds": 10}
    with no_task_minds(release):
        release.apply("upgrade", pools={"short": pool})
    release.trigger("on_short", run, 600)
    release.until(lambda: release.began()[f"{run} short 1"], "it never runs")
    (worker,) = names(release, "short")
    is_deleted(release, worker)
    release.until(lambda: release.ended()[f"{run} short 2"], "it has no second try", 200)
    release.until(
        lambda: [row[2:] for row in release.tasks("on_short") if row[0] == run] == [("success", 2)],
        "not over",
    )
    reasons = release.ask("SELECT reason FROM hybrid_submission WHERE queue = 'short' ORDER BY submitted_at")
    assert [row[0] for row in reasons][:1] == ["WorkerLost"], reasons
    assert release.ended()[f"{run} short 1"] == 0


def test_a_roll_back_loses_no_task_and_nothing_is_left_but_what_the_notes_name(release: Release) -> None:
    (secret,) = (one for one in release.listed("secrets") if one["metadata"]["name"].endswith("-generated"))
    release.apply("upgrade", pools={"default": {"queues": ["default"], "concurrency": 5}})
    with no_task_minds(release):
        release.run("rollback", "1", "--wait", "--timeout=500s")
    assert "--concurrency 8" in " ".join(live(release, "default")[0]["spec"]["containers"][0]["args"])
    kept = json.loads(release.kubectl("get", "secret", secret["metadata"]["name"], "--output=json"))
    assert kept["data"] == secret["data"]
    release.run("uninstall", "--wait", "--timeout=400s")
    kinds = "deployments,jobs,services,configmaps,secrets,serviceaccounts,roles,rolebindings"
    left = [f"{one['kind']}/{one['metadata']['name']}" for one in release.listed(kinds)]
    assert [name for name in left if RELEASE in name] == [f"Secret/{secret['metadata']['name']}"]
