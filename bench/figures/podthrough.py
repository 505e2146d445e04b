"""Pods from ``queue_workload`` through to done and gone, on a node without processes."""

import asyncio
import json
import os
import time
from typing import Any
from uuid import uuid4

from bench import airflow_side as side
from bench.bare import each, pods_of
from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.figures.podcreate import PAUSE_S, WITHOUT, manifests, tuned_settings
from bench.meter import Watch, until

EMBEDDED, REAL = "200, embedded API, no Secrets", "200, real API, no Secrets"

FIGURE = Figure(
    name="podthrough",
    title="pods through to done, without processes",
    stocks={"stock": "defaults", "tuned": "batch 100, async_pod_creation"},
    cases=(
        Case("20", {"count": 20}, frozenset({Size.SMALL}), settings=WITHOUT),
        Case(EMBEDDED, {"count": 200}, settings=WITHOUT),
        Case("200, embedded API, with Secrets", {"count": 200}),
        Case(REAL, {"count": 200}, settings=WITHOUT, needs=frozenset({"real kubernetes"})),
    ),
    readings=(
        Reading(
            name="rate",
            unit="pods a second",
            more_is_better=True,
            target=Target(of_limit=0.8),
            cases=(EMBEDDED, REAL),
        ),
        Reading(
            name="rate",
            unit="pods a second",
            more_is_better=True,
            cases=("20", "200, embedded API, with Secrets"),
        ),
        Reading(name="cpu", unit="ms of processor each"),
    ),
    stock_does="asks the database before each pod whether it is still wanted; deletes one after the other",
    ours_does=(
        "keeps a row of each pod in the ledger, from before it is made to its end, and tells its live half;"
        " with Secrets, its default, makes one for each pod"
    ),
    limit_is=(
        "prebuilt manifests over aiohttp, 16 at a time, and a watch; each pod that has ended is deleted at"
        " once: nothing is recorded before or after it, no task's state is asked for, and no heartbeat is"
        " waited for"
    ),
    rounds=3,
    needs=frozenset({"kubernetes", "paper node"}),
)


def _through(executor: Any, count: int) -> dict[str, float]:
    """One round: all are queued at once, and heartbeats follow each other until every pod is gone."""
    workloads = side.add_tasks(count, queue="kubernetes")
    keys = {workload.ti.key for workload in workloads}
    watch = Watch()
    side.queue(executor, workloads)

    def done() -> bool:
        executor.heartbeat()
        ended = {key: state for key, (state, _) in executor.event_buffer.items() if key in keys}
        assert "failed" not in ended.values(), ended
        return sum(state == "success" for state in ended.values()) == count

    until(done, "all pods to be done", pause_s=PAUSE_S)

    def gone() -> bool:
        executor.heartbeat()
        return not side.pods_left()

    until(gone, "all pods to be gone", pause_s=PAUSE_S)
    wall, cpu = watch.wall_ms(), watch.cpu_ms()
    executor.event_buffer.clear()
    return {"rate": count / wall * 1000, "cpu": cpu / count}


def stock(count: int) -> Turn:
    executor = side.stock_kubernetes()
    executor.heartbeat()
    return lambda: _through(executor, count)


def tuned(count: int) -> Turn:
    os.environ.update(tuned_settings())
    return stock(count)


def ours(count: int) -> Turn:
    our = side.Ours()
    for _ in range(20):
        our.executor.heartbeat()
        time.sleep(0.1)

    def turn() -> dict[str, float]:
        said = _through(our.executor, count)
        our.settle()
        return said

    return turn


def limit(count: int) -> Turn:
    def turn() -> dict[str, float]:
        prefix = f"limit-{uuid4().hex[:6]}"
        return asyncio.run(
            _bare({pod["metadata"]["name"]: json.dumps(pod) for pod in manifests(count, prefix)})
        )

    return turn


async def _bare(bodies: dict[str, str]) -> dict[str, float]:
    """Make them, and delete each that has ended; until the watch has told of every deletion."""
    async with pods_of(*side.cluster()) as pods:
        gone: set[str] = set()
        deleting: set[asyncio.Task[Any]] = set()
        busy = asyncio.Semaphore(16)

        async def delete(name: str) -> None:
            async with busy:
                await pods.send("DELETE", name)

        async def follow() -> None:
            async for kind, pod in pods.events():
                name, phase = pod["metadata"]["name"], (pod.get("status") or {}).get("phase")
                if kind == "DELETED":
                    gone.add(name)
                    if gone >= bodies.keys():
                        return
                elif phase == "Succeeded" and name in bodies:
                    deleting.add(asyncio.create_task(delete(name)))

        following = asyncio.create_task(follow())
        # Its list and the beginning of its watch are no part of the round.
        await asyncio.sleep(0.2)
        watch = Watch()
        await each(bodies.values(), lambda body: pods.send("POST", body=body))
        await following
        return {"rate": len(bodies) / watch.wall_ms() * 1000, "cpu": watch.cpu_ms() / len(bodies)}
