"""The Roles of ``workers/rbac`` are enough and not too much, and their lack is waited for."""

import asyncio
import logging
from pathlib import Path

import pytest

from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.kubernetes.permissions import (
    NEEDED,
    NEEDED_FOR_LOGS,
    NEEDED_FOR_WORKERS,
    Permissions,
)
from hybrid_executor.doctor import kubernetes
from hybrid_executor.model.observation import Accepted, Ended, How, Rejected, Started
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import LABEL_DEPLOYMENT, LABEL_POOL
from hybrid_executor.settings import Settings
from tests.cluster.access import RBAC
from tests.cluster.audit import Audit, asked
from tests.cluster.backend import QUICK, ROLES, ClusterHarness, HarnessMaker, Sender, role_rules
from tests.cluster.fixture import StartPlane
from tests.cluster.plane import ControlPlane
from tests.cluster.runner_node import RunnerNode
from tests.contract.backend_suite import Fate
from tests.fixtures.helm import CHART, Helm
from tests.fixtures.kube import until

NAMESPACES = CHART / "ci" / "namespaces-values.yaml"
#: A worker that does nothing.
IDLE = {"name": "worker", "image": "none", "command": ["sh", "-c", "sleep 600"]}


def live(harness: ClusterHarness) -> None:
    """All that a scheduler's life brings: sending, taking over, sending twice, withdrawing, clearing up."""
    sender = Sender(harness)
    good, bad, adopted, cancelled, pending = (
        harness.submission(fate) for fate in (Fate.SUCCEEDS, Fate.FAILS, Fate.BLOCKS, Fate.BLOCKS, Fate.PENDS)
    )
    sender.send(good, bad, adopted, cancelled, pending)
    sender.until_kind(Ended, [good.id, bad.id])
    sender.until_kind(Started, [adopted.id, cancelled.id])
    sender.until_kind(Accepted, [pending.id])
    harness.backend.release([good.id, bad.id])
    until(lambda: not harness.swept_by_others(good.id), "the pod that succeeded stayed")
    until(lambda: not harness.swept_by_others(bad.id), "the pod that failed was not marked")

    harness.restart().adopt([adopted.id, pending.id])
    after = Sender(harness)
    after.until_kind(Started, [adopted.id])
    after.completes(pending)
    after.send(cancelled)  # the reply to its creation is lost, as far as this one knows
    after.until_kind(Started, [cancelled.id])
    harness.backend.cancel([cancelled.id])
    assert after.end(cancelled.id).how is How.CANCELLED
    harness.backend.stop(5.0)
    harness.finish(adopted.id)
    harness.restart().sweep([harness.owner])
    assert Sender(harness).end(adopted.id).how is How.SUCCEEDED


def test_every_right_of_the_roles_is_used_and_none_is_missing(
    start_plane: StartPlane, start_harness: HarnessMaker, tmp_path: Path
) -> None:
    audit = Audit(tmp_path, ["pods", "pods/*", "secrets"])
    # OpenShift has this check of who may name owners; the default is to go without.
    strict = "--enable-admission-plugins=OwnerReferencesPermissionEnforcement"
    plane = start_plane(apiserver_flags=[*audit.flags, strict])
    with RunnerNode.started(plane, options=QUICK):
        harness = start_harness(plane, "default")
        live(harness)
        assert audit.denied(harness.user) == set()
        assert audit.used(harness.user) == set(NEEDED)

        reader = plane.role_kubeconfig("log-reader", role_rules("api-server"))
        blocked = harness.submission(Fate.BLOCKS, container={"command": ["sh", "-c", "echo hi; sleep 60"]})
        sender = Sender(harness)
        sender.send(blocked)
        sender.until_kind(Started, [blocked.id])
        backend = harness.unstarted(config_file=str(reader))
        until(lambda: backend.log(blocked.attempt.id) == ["hi"], "the log could not be read")
        assert audit.denied("log-reader") == set()
        assert audit.used("log-reader") == set(NEEDED_FOR_LOGS)


def test_the_charts_roles_are_enough_and_not_too_much_where_task_pods_run_away_from_airflow(
    start_plane: StartPlane, start_harness: HarnessMaker, helm: Helm, tmp_path: Path
) -> None:
    """Airflow and its pools in one namespace, beside its Secrets; task pods in another."""
    audit, name = Audit(tmp_path, ["pods", "pods/*", "secrets"]), "system:serviceaccount:data:flow-scheduler"
    plane = start_plane(apiserver_flags=audit.flags)
    objects = helm.objects(NAMESPACES, namespace="data")
    for namespace in {one["metadata"]["namespace"] for one in objects if one["kind"] == "Role"}:
        plane.make_namespace(namespace)
    plane.apply(*(one for one in objects if one["kind"] in {"ServiceAccount", "Role", "RoleBinding"}))
    account = plane.account_kubeconfig("flow-scheduler", "data")
    with RunnerNode.started(plane, options=QUICK):
        harness = start_harness(plane, "tasks", kubeconfig=account, workers_namespace="data")
        live(harness)
        workers = harness.backend.workers
        assert workers is not None
        labels = {LABEL_POOL: "light", LABEL_DEPLOYMENT: harness.config.deployment}
        worker = {"metadata": {"name": "worker", "labels": labels}, "spec": {"containers": [IDLE]}}
        code, answer = plane.request("POST", "/api/v1/namespaces/data/pods", worker)
        assert code == 201, answer

        def cost() -> int | None:
            pods = workers.pods or {}
            return pods["worker"].deletion_cost if "worker" in pods else None

        until(lambda: cost() is not None, "the worker is not seen")
        workers.mark({"worker": 3})
        until(lambda: cost() == 3, "its cost is not set")
    assert audit.denied(name) == set()
    used = {
        namespace: {asked(event) for event in audit.of(name) if event["objectRef"]["namespace"] == namespace}
        for namespace in ("tasks", "data")
    }
    assert used == {"tasks": set(NEEDED), "data": set(NEEDED_FOR_WORKERS)}
    given = {
        one["metadata"]["namespace"]: {
            (verb, kind, "") for rule in one["rules"] for kind in rule["resources"] for verb in rule["verbs"]
        }
        for one in objects
        if one["kind"] == "Role" and one["metadata"]["name"] in {"flow-scheduler", "flow-pools"}
    }
    assert {namespace: given[namespace] for namespace in used} == used


@pytest.mark.parametrize("lacking", [None, *(f"{verb} {kind}" for verb, kind, _ in NEEDED)])
def test_the_doctors_question_names_exactly_what_the_role_lacks(
    plane: ControlPlane, namespace: str, start_harness: HarnessMaker, lacking: str | None
) -> None:
    rules = role_rules("scheduler")
    for rule in rules:
        [kind] = rule["resources"]
        rule["verbs"] = [verb for verb in rule["verbs"] if f"{verb} {kind}" != lacking]
    user = f"lacks-{lacking}".lower().replace(" ", "-")
    kubeconfig = plane.role_kubeconfig(user, rules, namespace)
    config = start_harness(plane, namespace, kubeconfig=kubeconfig).config

    async def ask() -> tuple[list[str], list[str]]:
        permissions = Permissions(config)
        try:
            return (
                await permissions.missing(namespace, NEEDED),
                await permissions.missing(namespace, NEEDED_FOR_LOGS),
            )
        finally:
            await permissions.close()

    missing, for_logs = asyncio.run(ask())
    assert missing == ([lacking] if lacking else [])
    assert "get pods/log" in for_logs


@pytest.mark.parametrize("workload_secret", [True, False])
def test_the_doctor_asks_for_rights_over_secrets_where_workloads_are_in_them(
    plane: ControlPlane, namespace: str, start_harness: HarnessMaker, workload_secret: bool
) -> None:
    rules = [rule for rule in role_rules("scheduler") if rule["resources"] == ["pods"]]
    kubeconfig = plane.role_kubeconfig(f"pods-alone-{namespace}", rules, namespace)
    config = start_harness(plane, namespace, kubeconfig=kubeconfig).config
    settings = Settings(celery=CeleryConfig(), kubernetes=config, workload_secret=workload_secret)
    problems = [finding.problem for finding in kubernetes.cluster(settings, config) if not finding.ok]
    lacks = "not allowed: create secrets, update secrets; give the scheduler's role these verbs"
    assert problems == ([lacks] if workload_secret else [])


@pytest.mark.parametrize("verbs", [["list", "watch", "patch"], ["list", "watch"]])
def test_the_doctor_asks_for_rights_over_pools_that_are_in_a_namespace_of_their_own(
    plane: ControlPlane, namespace: str, start_harness: HarnessMaker, verbs: list[str]
) -> None:
    workers, user = f"{namespace}-workers", f"pools-{namespace}-{len(verbs)}"
    plane.make_namespace(workers)
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]
    plane.role_kubeconfig(user, rules, workers)
    kubeconfig = plane.role_kubeconfig(user, role_rules("scheduler"), namespace)
    config = start_harness(plane, namespace, kubeconfig=kubeconfig, workers_namespace=workers).config
    settings = Settings(celery=CeleryConfig(), kubernetes=config)
    problems = {
        finding.check: finding.problem for finding in kubernetes.cluster(settings, config) if finding.problem
    }
    check = f"Kubernetes permissions for pools of workers in {workers}"
    remedy = "bind workers/rbac/pools-role.yaml there, or correct [hybrid_executor] workers_namespace"
    lacks = {} if "patch" in verbs else {check: f"not allowed: patch pods; {remedy}"}
    assert problems == lacks


def grant(plane: ControlPlane, namespace: str, user: str) -> None:
    plane.role_kubeconfig(user, role_rules("scheduler"), namespace)


def revoke(plane: ControlPlane, namespace: str, user: str) -> None:
    path = f"/apis/{RBAC}/v1/namespaces/{namespace}/rolebindings/{user}"
    code, answer = plane.request("DELETE", path)
    assert code == 200, answer


def test_without_rights_submissions_wait_and_go_on_when_granted(
    runner: RunnerNode, plane: ControlPlane, namespace: str, start_harness: HarnessMaker
) -> None:
    user = f"late-{namespace}"
    harness = start_harness(plane, namespace, kubeconfig=plane.user_kubeconfig(user, namespace=namespace))
    sender = Sender(harness)
    batch = [harness.submission(Fate.SUCCEEDS) for _ in range(3)]
    sender.send(*batch)
    wait = sender.waits(batch[0], Reason.FORBIDDEN)
    assert f'User "{user}" cannot create resource "pods"' in wait.message
    sender.silence([])
    assert not [o for o in sender.all if isinstance(o, Accepted | Ended | Rejected)]
    grant(plane, namespace, user)
    sender.all_end_well_and_once(batch)


def test_without_a_right_over_secrets_no_pod_is_left_and_submissions_go_on_when_it_is_granted(
    runner: RunnerNode, plane: ControlPlane, namespace: str, start_harness: HarnessMaker
) -> None:
    user = f"no-secrets-{namespace}"
    pods_alone = [rule for rule in role_rules("scheduler") if rule["resources"] == ["pods"]]
    kubeconfig = plane.role_kubeconfig(user, pods_alone, namespace)
    harness = start_harness(plane, namespace, kubeconfig=kubeconfig)
    sender = Sender(harness)
    batch = [harness.submission(Fate.SUCCEEDS) for _ in range(3)]
    sender.send(*batch)
    for sent in batch:
        wait = sender.waits(sent, Reason.FORBIDDEN)
        assert f'User "{user}" cannot create resource "secrets"' in wait.message
    assert not [o for o in sender.all if isinstance(o, Accepted | Ended | Rejected)]
    grant(plane, namespace, user)
    sender.all_end_well_and_once(batch)


def test_rights_that_are_lost_in_the_middle_of_a_run_lose_no_end(
    harness: ClusterHarness, sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "hybrid_executor.kubernetes")
    running, released = harness.submission(Fate.BLOCKS), harness.submission(Fate.SUCCEEDS)
    sender.send(running, released)
    sender.until_kind(Started, [running.id])
    sender.end(released.id)
    revoke(harness.plane, harness.namespace, harness.user)
    later = harness.submission(Fate.SUCCEEDS)
    sender.send(later)
    sender.waits(later, Reason.FORBIDDEN)
    harness.backend.release([released.id])
    harness.finish(running.id)
    for verb in ("watch", "delete"):
        until(lambda verb=verb: f"cannot {verb} resource" in caplog.text, f"no {verb} was refused")
    assert not [o for o in sender.of(running.id) if isinstance(o, Ended)]
    grant(harness.plane, harness.namespace, harness.user)
    sender.all_end_well_and_once([running, later])
    until(lambda: not harness.pods_of(released.id), "the pod that was released stayed", 30)


def test_a_backend_of_an_account_token_does_the_same(
    runner: RunnerNode, plane: ControlPlane, namespace: str, start_harness: HarnessMaker
) -> None:
    """A scheduler in the cluster has a ServiceAccount's token, not a certificate."""
    plane.kubectl("create", "serviceaccount", "airflow-scheduler", f"--namespace={namespace}")
    role = ROLES / "scheduler-role.yaml"
    plane.kubectl("apply", f"--namespace={namespace}", f"--filename={role}")
    plane.kubectl(
        *("create", "rolebinding", "it", f"--namespace={namespace}", "--role=hybrid-executor-scheduler"),
        f"--serviceaccount={namespace}:airflow-scheduler",
    )
    kubeconfig = plane.account_kubeconfig("airflow-scheduler", namespace)
    harness = start_harness(plane, namespace, kubeconfig=kubeconfig)
    live(harness)
