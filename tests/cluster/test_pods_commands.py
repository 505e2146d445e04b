"""``airflow hybrid pods`` and the provider's own clean-up on a real API server, with the operator's Role."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.inventory import Inventory, attempts_of, remove_all
from hybrid_executor.backends.kubernetes.permissions import NEEDED_FOR_COMMANDS
from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.model.observation import Ended, Started
from hybrid_executor.pods.inventory import summarise
from tests.cluster.backend import QUICK, ClusterHarness, HarnessMaker, Sender, role_rules
from tests.cluster.fixture import StartPlane
from tests.cluster.runner_node import RunnerNode
from tests.cluster.test_backend_rights import Audit
from tests.contract.backend_suite import Fate
from tests.fixtures.kube import until
from tests.fixtures.site import MakeSite, Site


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Site:
    return make_site()


def deployment(site: Site) -> str:
    ask = "from hybrid_executor.settings import load_settings as s; print(s().kubernetes.deployment)"
    done = subprocess.run(
        [sys.executable, "-c", ask], env=site.environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def hybrid_pods(site: Site, *arguments: str) -> str:
    done = site.run("hybrid", "pods", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_and_the_providers_use_every_right_of_the_operators_role_and_no_other(
    start_plane: StartPlane, start_harness: HarnessMaker, site: Site, tmp_path: Path
) -> None:
    audit = Audit(tmp_path, ["pods", "pods/*"])
    plane = start_plane(apiserver_flags=audit.flags)
    operator = plane.role_kubeconfig("operator", role_rules("operator"))
    site.environment |= {
        "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(operator),
    }
    with RunnerNode.started(plane, options=QUICK):
        harness = start_harness(plane, "default", deployment=deployment(site))
        sender = Sender(harness)
        lives = harness.submission(Fate.BLOCKS, container={"command": ["sh", "-c", "echo hi; sleep 600"]})
        waits, fails = harness.submission(Fate.PENDS), harness.submission(Fate.FAILS)
        marked, others = harness.submission(Fate.FAILS), harness.submission(Fate.SUCCEEDS)
        sender.send(lives, waits, fails, marked)
        sender.until_kind(Ended, [fails.id, marked.id])
        sender.until_kind(Started, [lives.id])
        harness.backend.release([marked.id])
        until(lambda: not harness.swept_by_others(marked.id), "the pod that failed was not marked")

        rows = {row["attempt"]: row for row in json.loads(hybrid_pods(site, "--output", "json"))}
        assert rows.keys() == {lives.attempt.id, waits.attempt.id}
        assert rows[lives.attempt.id]["phase"] == "running"
        assert rows[lives.attempt.id]["node"] == "runner"
        assert rows[waits.attempt.id]["reason"].startswith("Unschedulable: 0/1 nodes are available")
        assert hybrid_pods(site, "logs", lives.attempt.id) == "hi\n"
        done = hybrid_pods(site, "cleanup", "--older-than", "0s")
        # Marked, or never in this site's ledger: recorded either way.
        assert "2 pods removed" in done
        assert not harness.pods_of(marked.id)

        sender.send(others)
        sender.until_kind(Ended, [others.id])
        done_by_provider = site.run(
            *("kubernetes", "cleanup-pods", "--namespace", "default", "--min-completed-minutes", "0")
        )
        assert done_by_provider.returncode == 0, done_by_provider.stderr
        until(lambda: not harness.pods_of(others.id), "the provider's clean-up left a pod of ours")
        assert harness.pods_of(lives.id)
    assert audit.denied("operator") == set()
    assert audit.used("operator") == set(NEEDED_FOR_COMMANDS)


def work(config: KubernetesConfig, what: Callable[[Inventory], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        api = Inventory(config)
        try:
            return await what(api)
        finally:
            await api.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("lacking", "right"),
    [(0, "list pods"), (1, "delete pods"), (2, "get pods/log")],
)
def test_a_right_that_is_missing_is_named(harness: ClusterHarness, lacking: int, right: str) -> None:
    sender, namespace = Sender(harness), harness.namespace
    sent = harness.submission(Fate.BLOCKS)
    sender.send(sent)
    sender.until_kind(Started, [sent.id])
    pod = summarise(harness.pod(sent.id))
    rules = [
        {"apiGroups": [""], "resources": [f"{resource}/{sub}" if sub else resource], "verbs": [verb]}
        for number, (verb, resource, sub) in enumerate(NEEDED_FOR_COMMANDS)
        if number != lacking
    ]
    kubeconfig = harness.plane.role_kubeconfig(f"lacks-{lacking}", rules, namespace)
    config = replace(harness.config, config_file=str(kubeconfig))

    async def everything(api: Inventory) -> None:
        selector = attempts_of(config)
        assert [page async for page in api.list_pages(namespace, selector)]
        async for _ in api.log(pod, "base", follow=False, tail_lines=1):
            pass
        [(_, error)] = await remove_all(api, [pod], 1)
        if error:
            raise error

    with pytest.raises(ApiUnavailable) as refused:
        work(config, everything)
    assert f"the right to {right} in namespace {namespace} is missing" in str(refused.value)
    assert "operator-role.yaml" in str(refused.value)


def test_a_pod_made_anew_by_its_name_is_not_removed_in_the_place_of_the_old_one(
    harness: ClusterHarness, sender: Sender
) -> None:
    sent = harness.submission(Fate.BLOCKS)
    sender.send(sent)
    sender.until_kind(Started, [sent.id])
    stale = replace(
        summarise(harness.pod(sent.id)),
        uid="00000000-0000-0000-0000-000000000000",
        ended_at=datetime.now(UTC),
    )
    config = replace(harness.config, config_file=str(harness.plane.admin))
    assert work(config, lambda api: remove_all(api, [stale], 1)) == [(stale, None)]
    assert "deletionTimestamp" not in harness.pod(sent.id)["metadata"]
