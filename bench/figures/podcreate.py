"""Pods made through heartbeats, as fast as the executor can, on the embedded Kubernetes API."""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from typing import Any

from bench import airflow_side as side
from bench.bare import each, pods_of
from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.meter import Watch

#: Between two heartbeats while something is under way; a scheduler's other work takes longer.
PAUSE_S = 0.005
FAR = "200, 20 ms away, no Secrets"
OTHERS = ("8", "200, 20 ms away, with Secrets", "200, no latency, no Secrets")
WITHOUT = {"HYBRID_EXECUTOR__WORKLOAD_SECRET": "False"}

FIGURE = Figure(
    name="podcreate",
    title="pods made through heartbeats",
    stocks={"stock": "defaults", "tuned": "batch 100, async_pod_creation"},
    cases=(
        Case(OTHERS[0], {"count": 8}, frozenset({Size.SMALL})),
        Case(FAR, {"count": 200}, delay_ms=20, settings=WITHOUT),
        Case(OTHERS[1], {"count": 200}, delay_ms=20),
        Case(OTHERS[2], {"count": 200}, settings=WITHOUT),
    ),
    readings=(
        Reading(
            name="rate",
            unit="pods a second",
            more_is_better=True,
            target=Target(at_least=300),
            cases=(FAR,),
        ),
        Reading(name="rate", unit="pods a second", more_is_better=True, cases=OTHERS),
        Reading(name="cpu", unit="ms of processor each"),
        Reading(name="blocked", unit="ms, the longest heartbeat", target=Target(at_most=20)),
    ),
    stock_does=(
        "asks the database before each pod whether it is still wanted; heartbeats follow each other at once"
        " here, where a scheduler beats once a second and makes one pod (defaults) in each"
    ),
    ours_does=(
        "writes the ledger's row in the scheduler's transaction; with Secrets, its default, makes one for"
        " each pod: two requests where stock makes one and shows the token in the pod's arguments"
    ),
    limit_is="prebuilt manifests over aiohttp, 16 at a time, no Secrets",
    fresh=True,
    rounds=3,
    needs=frozenset({"kubernetes"}),
)


def _beat(executor: Any, longest: list[float]) -> None:
    began_s = time.perf_counter()
    executor.heartbeat()
    longest.append((time.perf_counter() - began_s) * 1000)


def _said(count: int, watch: Watch, beats: Sequence[float]) -> dict[str, float]:
    wall, cpu = watch.wall_ms(), watch.cpu_ms()
    return {"rate": count / wall * 1000, "cpu": cpu / count, "blocked": max(beats)}


def stock(count: int) -> Turn:
    executor = side.stock_kubernetes()
    workloads = side.add_tasks(count, queue="kubernetes")
    executor.heartbeat()

    def turn() -> dict[str, float]:
        beats, watch = [], Watch()
        side.queue(executor, workloads)
        while not beats or executor.task_queue.qsize():
            _beat(executor, beats)
        return _said(count, watch, beats)

    return turn


def tuned(count: int) -> Turn:
    os.environ.update(tuned_settings())
    return stock(count)


def tuned_settings() -> dict[str, str]:
    """What users of the stock executor tune, as environment variables."""
    tuned = {"WORKER_PODS_CREATION_BATCH_SIZE": "100", "ASYNC_POD_CREATION": "True"}
    return {f"AIRFLOW__KUBERNETES_EXECUTOR__{name}": value for name, value in tuned.items()}


def ours(count: int) -> Turn:
    from hybrid_executor.lifecycle import Phase

    our = side.Ours()
    workloads = side.add_tasks(count, queue="kubernetes")
    for _ in range(20):
        our.executor.heartbeat()
        time.sleep(0.1)

    def turn() -> dict[str, float]:
        beats, watch = [], Watch()
        side.queue(our.executor, workloads)
        counts = our.controller.inflight._counts
        while sum(phases[Phase.ACCEPTED] for phases in counts.values()) < count:
            _beat(our.executor, beats)
            time.sleep(PAUSE_S)
        return _said(count, watch, beats)

    return turn


def limit(count: int) -> Turn:
    bodies = [json.dumps(pod) for pod in manifests(count, "limit")]

    def turn() -> dict[str, float]:
        said = asyncio.run(_post(bodies))
        del said["blocked"]
        return said

    return turn


def manifests(count: int, prefix: str) -> list[dict[str, Any]]:
    """Of the size of ours, with the workload in their arguments; no scheduler looks for a node for them."""
    metadata = {"labels": {f"label-{n}": "value" for n in range(10)}}
    container = {"name": "base", "image": "example/airflow:2", "args": ["python", "x" * 900]}
    env = [{"name": f"E{n}", "value": "1"} for n in range(6)]
    spec = {"restartPolicy": "Never", "schedulerName": "nobody", "containers": [{**container, "env": env}]}
    return [{"metadata": {**metadata, "name": f"{prefix}-{n}"}, "spec": spec} for n in range(count)]


async def _post(bodies: list[str]) -> dict[str, float]:
    """Timed once everything is imported and read."""
    async with pods_of(*side.cluster()) as pods:
        watch = Watch()
        await each(bodies, lambda body: pods.send("POST", body=body))
        return _said(len(bodies), watch, [0.0])
