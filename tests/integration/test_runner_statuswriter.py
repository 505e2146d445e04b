"""What the writer of statuses says, and to which pod: against the embedded API."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybrid_executor.standalone.runner.client import Client
from hybrid_executor.standalone.runner.kubeconfig import load
from hybrid_executor.standalone.runner.podstate import Verdict, initial
from hybrid_executor.standalone.runner.statuswriter import StatusWriter
from tests.fixtures.kube import Kube
from tests.fixtures.node import PODS, shell_pod


async def asked(kube: Kube, *request: Any) -> Any:
    """One request, which must go well; the fixture's calls block."""
    code, answer = await asyncio.to_thread(kube.request, *request)
    assert code < 300, answer
    return answer


async def tell(kube: Kube, pod: Any) -> None:
    """Say that this pod is evicted, as the runner would."""
    async with Client(load(Path(kube.kubeconfig))) as client:
        writer = StatusWriter(client, lambda: pod)
        verdict = Verdict("Evicted", "the node ran out of memory")
        writer.publish(replace(initial(pod, "127.0.0.1"), verdict=verdict, over=True), {})
        async with asyncio.timeout(10):
            await writer.flushed()
        writer.close()


async def test_a_status_arrives(kube: Kube) -> None:
    pod = await asked(kube, "POST", PODS, shell_pod("one"))
    await tell(kube, pod)
    assert (await asked(kube, "GET", f"{PODS}/one"))["status"]["reason"] == "Evicted"


async def test_a_status_never_reaches_a_namesake(kube: Kube) -> None:
    """A StatefulSet's next pod bears the same name; what became of the former is not its business."""
    former = await asked(kube, "POST", PODS, shell_pod("one"))
    await asked(kube, "DELETE", f"{PODS}/one")
    await asked(kube, "POST", PODS, shell_pod("one"))
    await tell(kube, former)
    assert "reason" not in (await asked(kube, "GET", f"{PODS}/one"))["status"]


async def test_a_condition_that_others_set_meanwhile_stays(kube: Kube) -> None:
    """A scheduler that preempts, say: what the node has seen of the pod is always a little old."""
    pod = await asked(kube, "POST", PODS, shell_pod("one"))
    theirs = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    merge = {"headers": {"Content-Type": "application/strategic-merge-patch+json"}}
    body = {"status": {"conditions": [theirs]}}
    code, answer = await asyncio.to_thread(kube.request, "PATCH", f"{PODS}/one/status", body, **merge)
    assert code == 200, answer
    await tell(kube, pod)
    found = (await asked(kube, "GET", f"{PODS}/one"))["status"]["conditions"]
    assert "PreemptionByScheduler" in [condition.get("reason") for condition in found]


async def test_a_status_that_is_refused_for_a_while_is_repeated(kube: Kube) -> None:
    pod = await asked(kube, "POST", PODS, shell_pod("one"))
    refused = kube.fail(403, verb="patch", path=".*/status", times=2)
    await tell(kube, pod)
    assert refused.hits == 2
    assert (await asked(kube, "GET", f"{PODS}/one"))["status"]["reason"] == "Evicted"
