"""Measures what the Secret of a pod costs: from the pod's creation to Running, on a node with a real kubelet.

    python -m tests.cluster.measure_secret [PODS]

One pod after the other, the ways in turn, so that all see the same machine:
the stock way (the workload is an argument), the Secret at once, the Secret
late. Prints medians and 95th percentiles in seconds; asserts nothing.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hybrid_executor.pods.build import PodSettings, build_pod
from hybrid_executor.pods.overlay import lay_over
from hybrid_executor.pods.template import MINIMAL_TEMPLATE, parse_template
from hybrid_executor.pods.workload import workload_secret
from tests.cluster.kubelet import images
from tests.cluster.kubelet.__main__ import prepare
from tests.cluster.kubelet.node import running_cluster
from tests.cluster.kubelet.workload import Workload
from tests.cluster.test_workload_secret import LATE_S
from tests.contract.backend_suite import Fate
from tests.fixtures import puppet

NAMESPACE = "measure"
#: Seconds between a pod and its Secret; None is the stock way.
WAYS: dict[str, float | None] = {
    "stock way": None,
    "Secret at once": 0.0,
    f"Secret {LATE_S:g} s late": LATE_S,
}
PODS = 25
#: A watch would tell it by events; asking so often costs little and is off by less than this.
POLL_S = 0.01


class Pod:
    """Which one the API server has made."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.namespace: str = made["metadata"]["namespace"]
        self.name: str = made["metadata"]["name"]
        self.uid: str = made["metadata"]["uid"]


def manifest(*, workload_secret: bool) -> dict[str, Any]:
    """A pod of the tiny image that runs until it is deleted."""
    settings = PodSettings(
        namespace=NAMESPACE,
        executor="hybrid_executor.HybridExecutor",
        scheduler_job="0",
        airflow_version="3.3.2",
        image=images.TINY,
        workload_secret=workload_secret,
    )
    sent = puppet.submission(Fate.BLOCKS)
    pod = build_pod(sent, parse_template(MINIMAL_TEMPLATE, "the minimal template"), settings)
    base = {"name": "base", "command": ["sh", "-c", "sleep 600"], "imagePullPolicy": "Never"}
    return lay_over(pod, {"spec": {"containers": [base], "terminationGracePeriodSeconds": 0}})


def run(workload: Workload, late_s: float | None) -> float:
    """Make one pod in one way and wait until it runs, in seconds; it is gone afterwards."""
    begun = time.monotonic()
    code, made = workload.plane.request("POST", workload.pods, manifest(workload_secret=late_s is not None))
    assert code == 201, made
    pod = Pod(made)
    if late_s is not None:
        time.sleep(late_s)
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets"
        code, answer = workload.plane.request("POST", path, workload_secret(pod, {}, json.dumps({"a": "b"})))
        assert code == 201, answer
    while "running" not in workload.container(pod.name).get("state", {}):
        time.sleep(POLL_S)
    took_s = time.monotonic() - begun
    workload.plane.request("DELETE", f"{workload.pods}/{pod.name}", {"gracePeriodSeconds": 0})
    while workload.plane.request("GET", f"{workload.pods}/{pod.name}")[0] != 404:
        time.sleep(POLL_S)
    return took_s


def main() -> None:
    """Take the ways in turn and print what each took."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else PODS
    prepare()
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder)) as node:
        node.plane.make_namespace(NAMESPACE)
        workload = Workload(node.plane, NAMESPACE)
        for late_s in WAYS.values():
            run(workload, late_s)
        for _ in range(count):
            for way, late_s in WAYS.items():
                took[way].append(run(workload, late_s))
    for way, seconds in took.items():
        p95 = statistics.quantiles(seconds, n=20)[-1]
        print(f"{way:>18}: p50 {statistics.median(seconds):.2f} s, p95 {p95:.2f} s, {len(seconds)} pods")


if __name__ == "__main__":
    main()
