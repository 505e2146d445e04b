"""``airflow hybrid pods`` as a user runs it, on a real database and Kubernetes API."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.inventory import Inventory
from hybrid_executor.cli.pods_cleanup import Cleaning
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.ledger.memory import MemoryLedger
from hybrid_executor.model.attempt import (
    Attempt,
    BackendName,
    Route,
    Submission,
    SubmissionId,
    TaskAddress,
    WorkloadKind,
)
from hybrid_executor.model.errors import ApiUnavailable, LedgerUnavailable
from hybrid_executor.model.record import Change, Outcome, SubmissionRecord
from hybrid_executor.naming import LABEL_CLUSTER, LABEL_DEPLOYMENT, LABEL_DONE
from hybrid_executor.pods.build import PodSettings, build_pod
from hybrid_executor.pods.template import MINIMAL_TEMPLATE, parse_template
from tests.fixtures.kube import InProcessKube, Kube, until
from tests.fixtures.node import Node, StartNode
from tests.fixtures.site import MakeSite, Site

PODS = "/api/v1/namespaces/default/pods"
MERGE = {"Content-Type": "application/merge-patch+json"}
LONG_AGO = "2026-01-01T00:00:00Z"


@dataclass
class Cluster:
    """A Kubernetes API with pods of one Airflow."""

    kube: Kube
    deployment: str = "airflow"
    node: str | None = None

    @property
    def config(self) -> KubernetesConfig:
        return KubernetesConfig(
            deployment=self.deployment,
            in_cluster=False,
            config_file=self.kube.kubeconfig,
            page_size=7,
            upkeep_concurrency=3,
        )

    def make(
        self,
        task_id: str = "heavy",
        *,
        number: int = 1,
        script: str = "",
        labels: dict[str, str] | None = None,
        **address: Any,
    ) -> dict[str, Any]:
        """A pod as the executor makes it."""
        task = TaskAddress(**{"dag_id": "etl", "run_id": "manual__1", "task_id": task_id} | address)
        attempt = Attempt(
            id=str(uuid4()),
            kind=WorkloadKind.TASK,
            workload_id=str(uuid4()),
            address=task,
            queue="kubernetes",
            priority=1,
            route=Route(backend=BackendName.KUBERNETES, rule="the test's"),
            queued_at=datetime.now(UTC),
        )
        sent = Submission(attempt=attempt, number=number, payload="{}")
        settings = PodSettings(
            namespace="default",
            executor="x.Y",
            scheduler_job="7",
            airflow_version="3.3.2",
            image="any",
            # Nobody makes these pods a Secret, and a script in place of the task's program needs none.
            workload_secret=False,
        )
        pod = build_pod(sent, parse_template(MINIMAL_TEMPLATE, "the minimal template"), settings)
        pod["metadata"]["labels"] |= {LABEL_DEPLOYMENT: self.deployment} | (labels or {})
        pod["spec"]["nodeName"] = self.node or "nobodys"
        main = pod["spec"]["containers"][0]
        main.pop("args")
        main["command"] = ["sh", "-c", script or "true"]
        code, made = self.kube.request("POST", PODS, pod)
        assert code == 201, made
        return dict(made)

    def end(self, pod: dict[str, Any], at: str = LONG_AGO, code: int = 0) -> dict[str, Any]:
        state = {
            "terminated": {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": at}
        }
        container = {"name": "base", "image": "any", "imageID": "", "ready": False, "restartCount": 0}
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [container | {"state": state}],
        }
        path = f"{PODS}/{pod['metadata']['name']}/status"
        code, changed = self.kube.request("PATCH", path, {"status": status}, headers=MERGE)
        assert code == 200, changed
        return dict(changed)

    def ended(self, *, at: str = LONG_AGO, code: int = 0, **pod: Any) -> dict[str, Any]:
        return self.end(self.make(**pod), at, code)

    def names(self) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.kube.request("GET", PODS)[1]["items"]}

    def clean(self, ledger: MemoryLedger, api: type[Inventory] = Inventory, **how: Any) -> Cleaning:
        cleaning = Cleaning(ledger=ledger, older_than=timedelta(hours=12), **{"dry_run": False} | how)

        async def run() -> None:
            inventory = api(self.config)
            try:
                await cleaning.run(inventory, self.config, None)
            finally:
                await inventory.close()

        asyncio.run(run())
        return cleaning


@pytest.fixture
def cluster(kube: Kube) -> Cluster:
    return Cluster(kube)


def id_of(pod: dict[str, Any]) -> SubmissionId:
    labels = pod["metadata"]["labels"]
    return SubmissionId(labels["hybrid-executor/attempt"], int(labels["hybrid-executor/submission"]))


def name_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def a_row(submission: SubmissionId, **values: Any) -> SubmissionRecord:
    row = SubmissionRecord(
        id=submission,
        kind=WorkloadKind.TASK,
        workload_id=str(uuid4()),
        address=None,
        queue="kubernetes",
        backend=BackendName.KUBERNETES,
        rule="the test's",
        scheduler_job="7",
        queued_at=datetime.now(UTC),
    )
    return replace(row, **values)


def ledger_of(open_: Sequence[dict[str, Any]] = (), closed: Sequence[dict[str, Any]] = ()) -> MemoryLedger:
    """A ledger with rows of these pods."""
    rows = [a_row(id_of(pod)) for pod in (*open_, *closed)]
    ends = [Change(id=id_of(pod), ended_at=datetime.now(UTC), outcome=Outcome.SUCCEEDED) for pod in closed]
    ledger = MemoryLedger()
    ledger.record(rows, ends)
    return ledger


class TestCleanup:
    def test_what_is_marked_or_recorded_goes_and_the_unrecorded_stays(self, cluster: Cluster) -> None:
        marked = cluster.ended(code=1, labels={LABEL_DONE: "True"})
        recorded, unrecorded, forgotten = cluster.ended(), cluster.ended(), cluster.ended()
        living = cluster.make()
        done = cluster.clean(ledger_of(open_=[unrecorded, marked], closed=[recorded]))
        assert cluster.names() == {name_of(unrecorded), name_of(living)}
        assert name_of(forgotten) not in cluster.names()
        assert (done.removed, dict(done.kept)) == (3, {"its end is not recorded yet": 1})

    def test_a_pod_whose_submission_was_replaced_is_recorded(self, cluster: Cluster) -> None:
        first = cluster.ended()
        ledger = ledger_of(closed=[first])
        [row] = ledger.find([id_of(first).attempt_id]).values()
        ledger.record([replace(row, id=SubmissionId(row.id.attempt_id, 2), ended_at=None, outcome=None)], [])
        cluster.clean(ledger)
        assert cluster.names() == set()

    def test_what_ended_later_stays(self, cluster: Cluster) -> None:
        now = datetime.now(UTC)
        old = cluster.ended(at=(now - timedelta(hours=13)).isoformat())
        young = cluster.ended(at=(now - timedelta(hours=11)).isoformat())
        cluster.clean(ledger_of(closed=[old, young]))
        assert cluster.names() == {name_of(young)}

    def test_pods_of_others_are_not_looked_at(self, cluster: Cluster) -> None:
        other = replace(cluster, deployment="another").ended()
        code, _ = cluster.kube.request(
            "POST", PODS, {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c", "image": "any"}]}}
        )
        assert code == 201
        cluster.clean(ledger_of())
        assert cluster.names() == {"x", name_of(other)}

    def test_a_dry_run_removes_nothing_and_says_what_it_would(
        self, cluster: Cluster, capsys: pytest.CaptureFixture[str]
    ) -> None:
        left = cluster.ended(code=3)
        done = cluster.clean(ledger_of(), dry_run=True)
        done.tell()
        assert cluster.names() == {name_of(left)}
        said = capsys.readouterr().out
        assert f"would remove default/{name_of(left)} (failed " in said
        assert "Error: container base ended with exit code 3" in said
        assert "1 pods would be removed that ended 12h ago or earlier" in said

    def test_thousands_are_removed_in_pages_and_never_too_many_at_once_af22612(
        self, cluster: Cluster
    ) -> None:
        at_once: list[int] = []

        class Counting(Inventory):
            removing = 0

            async def remove(self, pod: Any) -> None:
                self.removing += 1
                at_once.append(self.removing)
                await super().remove(pod)
                self.removing -= 1

        left = [cluster.ended() for _ in range(23)]
        cluster.kube.forget_requests()
        done = cluster.clean(ledger_of(closed=left), Counting)
        assert max(at_once) == cluster.config.upkeep_concurrency
        assert cluster.names() == set()
        assert done.removed == 23
        assert cluster.kube.count("list") == 4
        assert cluster.kube.count("delete") == 23

    def test_pages_of_a_list_that_grew_too_old_are_read_again(self, cluster: Cluster) -> None:
        left = [cluster.ended() for _ in range(10)]
        fault = cluster.kube.fail(410, verb="list", times=0)

        class Late(Inventory):
            async def remove(self, pod: Any) -> None:
                await super().remove(pod)
                if not fault.hits:
                    fault.times = 1

        cleaning = cluster.clean(ledger_of(closed=left), api=Late)
        assert fault.hits == 1
        assert (cleaning.removed, cluster.names()) == (10, set())

    def test_a_pod_made_anew_by_the_name_of_a_leftover_stays(self, cluster: Cluster) -> None:
        """Another clean-up was faster, and somebody took the name."""
        left = cluster.ended()
        again = {"metadata": {"name": name_of(left)}, "spec": {"containers": [{"name": "c", "image": "any"}]}}

        class Overtaken(Inventory):
            async def remove(self, pod: Any) -> None:
                cluster.kube.request("DELETE", f"{PODS}/{pod.name}", {"gracePeriodSeconds": 0})
                cluster.kube.request("POST", PODS, again)
                await super().remove(pod)

        cluster.clean(ledger_of(closed=[left]), api=Overtaken)
        assert cluster.names() == {name_of(left)}

    def test_a_server_that_asks_for_patience_is_given_it(self, cluster: Cluster) -> None:
        left = [cluster.ended() for _ in range(3)]
        cluster.kube.fail(429, verb="delete", times=2, retry_after_s=0)
        cluster.kube.fail(verb="delete", drop=True, times=1)
        done = cluster.clean(ledger_of(closed=left))
        assert (done.removed, cluster.names()) == (3, set())

    def test_a_refusal_names_the_right_that_is_missing(self, cluster: Cluster) -> None:
        left = [cluster.ended() for _ in range(2)]
        cluster.kube.fail(403, verb="delete", message="pods is forbidden")
        done = cluster.clean(ledger_of(closed=left))
        [(why, count)] = done.failures.items()
        assert count == 2
        assert "the right to delete pods in namespace default is missing" in why
        assert done.removed == 0
        cluster.kube.fail(403, verb="list")
        with pytest.raises(ApiUnavailable, match="the right to list pods in namespace default is missing"):
            cluster.clean(ledger_of())

    def test_while_the_ledger_is_away_only_the_marked_go(self, cluster: Cluster) -> None:
        cluster.ended(labels={LABEL_DONE: "True"})
        unknown = cluster.ended()

        class Away(MemoryLedger):
            def find(self, attempt_ids: Any) -> Any:
                raise LedgerUnavailable("the metadata database is away")

        done = cluster.clean(Away())
        assert cluster.names() == {name_of(unknown)}
        assert "the metadata database is away" in next(iter(done.kept))


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Site:
    return make_site()


@pytest.fixture(scope="module")
def deployment(site: Site) -> str:
    ask = "from hybrid_executor.settings import load_settings as s; print(s().kubernetes.deployment)"
    done = subprocess.run(
        [sys.executable, "-c", ask], env=site.environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.fixture
def here(kube: Kube, site: Site, deployment: str) -> Cluster:
    """The cluster of the site."""
    site.environment |= {
        "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": kube.kubeconfig,
    }
    return Cluster(kube, deployment)


class TestCommands:
    def test_pods_shows_each_live_pod_with_its_task_and_why_it_waits(self, site: Site, here: Cluster) -> None:
        pending = here.make("heavy", map_index=2, try_number=3)
        here.ended()
        replace(here, deployment="another").make()
        [row] = site.rows("hybrid", "pods")
        told = {name: row[name] for name in ("dag_id", "task_id", "run_id", "map_index", "try_number")}
        assert told == {
            "dag_id": "etl",
            "task_id": "heavy",
            "run_id": "manual__1",
            "map_index": "2",
            "try_number": "3",
        }
        assert (row["pod"], row["namespace"], row["phase"]) == (name_of(pending), "default", "pending")
        assert row["reason"] == "PodPending: waiting for its node"
        assert row["attempt"] == id_of(pending).attempt_id
        done = site.run("hybrid", "pods", "--all", "--output", "plain")
        assert done.returncode == 0, done.stderr
        assert "succeeded" in done.stdout

    def test_cleanup_asks_the_real_ledger_and_fails_where_something_stayed(
        self, site: Site, here: Cluster
    ) -> None:
        left = here.ended()
        done = site.run("hybrid", "pods", "cleanup", "--older-than", "12h", "--dry-run")
        assert done.returncode == 0, done.stderr
        assert f"would remove default/{name_of(left)}" in done.stdout
        here.kube.fail(403, verb="delete", message="no")
        done = site.run("hybrid", "pods", "cleanup", "--older-than", "12h")
        assert done.returncode == 1
        assert (
            "1 could not be removed: the right to delete pods in namespace default is missing" in done.stdout
        )
        here.kube.heal()
        done = site.run("hybrid", "pods", "cleanup", "--older-than", "12h")
        assert done.returncode == 0, done.stderr
        assert here.names() == set()

    def test_advise_reads_the_ledger_and_no_cluster(self, site: Site) -> None:
        ledger = DatabaseLedger(create_engine(site.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]))
        queued = datetime.now(UTC) - timedelta(days=1)
        ended = {"started_at": queued, "ended_at": queued + timedelta(hours=1), "outcome": Outcome.SUCCEEDED}
        took = {"memory_request_bytes": 4 << 30, "memory_peak_bytes": 500 << 20, "cpu_peak_m": 77}
        tasks = {name: TaskAddress(dag_id="etl", run_id="r", task_id=name) for name in ("heavy", "silent")}
        rows = {
            name: a_row(SubmissionId(str(uuid4()), 1), queued_at=queued, address=address, **ended)
            for name, address in tasks.items()
        }
        ledger.record([replace(rows["heavy"], **took), rows["silent"]], [])
        done = site.run("hybrid", "pods", "advise")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[:3] == [
            "etl.heavy: 1 of 1 runs measured; few runs",
            (
                "  memory asked 4Gi, limit none; took p50 500Mi, p95 500Mi, most 500Mi"
                " -> request and limit 608Mi (saves 3.4 GiB·h)"
            ),
            "  cpu    asked none; took p50 77m, p95 77m, most 77m -> request 80m",
        ]
        assert "  etl.silent: 1 runs; no run told what it took" in done.stdout
        done = site.run("hybrid", "pods", "advise", "--dag", "etl", "--since", "2d", "--json")
        first, second = json.loads(done.stdout)
        assert (first["task_id"], first["memory"]["proposed"]) == ("heavy", 608 << 20)
        assert (second["task_id"], second["memory"], second["cpu"]) == ("silent", None, None)
        done = site.run("hybrid", "pods", "advise", "--since", "12h")
        assert done.stdout.strip() == "no task ended in a pod in the last 12h"

    def test_a_duration_that_is_none_is_refused(self, site: Site) -> None:
        done = site.run("hybrid", "pods", "cleanup", "--older-than", "yesterday")
        assert done.returncode == 2
        assert "is no duration; write it like 90s, 30m, 12h, 7d" in done.stderr

    def test_logs_follows_a_task_from_its_wait_to_its_end(
        self, site: Site, here: Cluster, start_node: StartNode
    ) -> None:
        here.node = "late"
        pod = here.make(script="echo one; sleep 0.3; echo two; exit 3")
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "hybrid", "pods", "logs", "-f", "etl", "manual__1", "heavy"],
            env=site.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        first = process.stderr.readline()
        while "waits" not in first:
            assert process.poll() is None, first
            first = process.stderr.readline()
        start_node("late")
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out == "one\ntwo\n"
        assert f"pod default/{name_of(pod)} waits: PodPending: waiting for its node" in first
        assert f"pod default/{name_of(pod)}: failed, Error: container base ended with exit code 3" in err
        for named in (name_of(pod), id_of(pod).attempt_id):
            done = site.run("hybrid", "pods", "logs", named, "--tail", "1")
            assert done.stdout == "two\n", done.stderr

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            (["etl"], "no pod of etl is there"),
            (["etl", "manual__1"], "name a pod, an attempt's id, or DAG_ID RUN_ID TASK_ID"),
            (["etl", "manual__1", "heavy"], "has not started: PodPending"),
        ],
    )
    def test_logs_says_what_there_is_not(
        self, site: Site, here: Cluster, target: list[str], words: str
    ) -> None:
        here.make()
        done = site.run("hybrid", "pods", "logs", *target)
        assert done.returncode == 1
        assert words in done.stderr

    def test_a_refused_verb_is_named(self, site: Site, here: Cluster) -> None:
        here.kube.fail(403, verb="list", message='User "x" cannot list resource "pods"')
        done = site.run("hybrid", "pods")
        assert done.returncode == 1
        assert "the right to list pods in namespace default is missing (workers/rbac/operator" in done.stderr

    def test_the_providers_cleanup_pods_works_on_ours(self, site: Site, here: Cluster) -> None:
        here.ended(labels={LABEL_DONE: "True"})
        here.ended(code=1)
        living = here.make()
        done = site.run("kubernetes", "cleanup-pods", "--namespace", "default")
        assert done.returncode == 0, done.stdout + done.stderr
        assert here.names() == {name_of(living)}

    def test_json_is_json(self, site: Site, here: Cluster) -> None:
        done = site.run("hybrid", "pods", "--output", "json")
        assert json.loads(done.stdout) == []


@pytest.fixture
def east(here: Cluster, site: Site, tmp_path: Path) -> Iterator[Cluster]:
    """Another cluster of the site."""
    kube = InProcessKube(tmp_path / "east")
    (tmp_path / "clusters.yaml").write_text(
        f"version: 1\nclusters: {{east: {{kubeconfig: {kube.kubeconfig}, namespace: default}}}}\n"
    )
    site.environment["AIRFLOW__HYBRID_EXECUTOR__CLUSTERS_FILE"] = str(tmp_path / "clusters.yaml")
    yield replace(here, kube=kube)
    del site.environment["AIRFLOW__HYBRID_EXECUTOR__CLUSTERS_FILE"]
    kube.close()


OF_EAST = {LABEL_CLUSTER: "east"}


class TestClusters:
    def test_pods_of_all_clusters_are_shown_and_one_that_is_away_hides_no_other(
        self, site: Site, here: Cluster, east: Cluster
    ) -> None:
        near, far = here.make(), east.make(labels=OF_EAST)
        shown = {row["pod"]: row["cluster"] for row in site.rows("hybrid", "pods")}
        assert shown == {name_of(near): "default", name_of(far): "east"}
        [row] = site.rows("hybrid", "pods", "--cluster", "east")
        assert row["pod"] == name_of(far)
        here.kube.fail(drop=True)
        done = site.run("hybrid", "pods", "--output", "json")
        assert done.returncode == 1
        assert [row["pod"] for row in json.loads(done.stdout)] == [name_of(far)]
        assert "no answer from the Kubernetes API server" in done.stderr
        done = site.run("hybrid", "pods", "--cluster", "west")
        assert done.returncode == 1
        assert "no cluster is named 'west'; there are: default, east" in done.stderr

    def test_logs_and_cleanup_find_a_pod_in_any_cluster(
        self, site: Site, here: Cluster, east: Cluster, tmp_path: Path
    ) -> None:
        left = [here.ended(), east.ended(labels=OF_EAST)]
        node = Node(east.kube, tmp_path / "node", "far")
        try:
            east.node = "far"
            pod = east.make(labels=OF_EAST, script="echo from afar")
            until(
                lambda: site.run("hybrid", "pods", "logs", name_of(pod)).stdout == "from afar\n",
                "its log could not be read",
                60.0,
            )
        finally:
            node.close()
        done = site.run("hybrid", "pods", "cleanup", "--older-than", "12h")
        assert done.returncode == 0, done.stderr
        assert "2 pods removed" in done.stdout
        assert not {name_of(pod) for pod in left} & (here.names() | east.names())

    def test_the_doctor_examines_each(self, site: Site, here: Cluster, east: Cluster) -> None:
        checks = {one["check"]: one for one in json.loads(site.run("hybrid", "doctor", "--json").stdout)}
        assert checks["Kubernetes API"]["ok"]
        assert checks["Kubernetes API of cluster east"]["ok"]
        east.kube.fail(drop=True)
        checks = {one["check"]: one for one in json.loads(site.run("hybrid", "doctor", "--json").stdout)}
        assert checks["Kubernetes API"]["ok"]
        problem = checks["Kubernetes API of cluster east"]["problem"]
        assert "no answer from the API server of cluster east" in problem
        assert "clusters.yaml, kubeconfig and context" in problem
