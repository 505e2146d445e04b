"""A node without processes: ``python -m bench.paper_node``, in the environment of a scheduler.

Calls every pod of the namespace Running, and then Succeeded, as soon as it
sees it. What a task's process would have told Airflow's Execution API in
between, it writes into the metadata database itself, for all pods at once that
it has seen by then. Prints a line when it watches; runs until it is killed.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy as sa

from bench.bare import MERGE, Pods, Refused, each, pods_of

_SUCCESS = sa.text("""
UPDATE task_instance ti
   SET state = 'success', start_date = coalesce(ti.start_date, now()), end_date = now(), duration = 0
  FROM unnest(CAST(:dag AS text[]), CAST(:task AS text[]), CAST(:run AS text[]), CAST(:index AS int[]))
       AS pod (dag, task, run, index)
 WHERE ti.dag_id = pod.dag AND ti.task_id = pod.task AND ti.run_id = pod.run AND ti.map_index = pod.index
   AND ti.state IN ('queued', 'running')
""")


def success_of(pods: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The parameters that name the tasks of these pods, by the annotations of both executors."""
    noted = [pod["metadata"].get("annotations") or {} for pod in pods]
    tasks = [notes for notes in noted if {"dag_id", "task_id", "run_id"} <= notes.keys()]
    return {
        "dag": [notes["dag_id"] for notes in tasks],
        "task": [notes["task_id"] for notes in tasks],
        "run": [notes["run_id"] for notes in tasks],
        "index": [int(notes.get("map_index", -1)) for notes in tasks],
    }


def status_of(phase: str, pod: dict[str, Any], at: str) -> str:
    """What a kubelet says of a pod of one container, as a merge patch."""
    running = {"running": {"startedAt": at}}
    ended = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": at, "finishedAt": at}}
    container = pod["spec"]["containers"][0]
    told = {
        "name": container["name"],
        "image": container["image"],
        "imageID": "none",
        "restartCount": 0,
        "ready": phase == "Running",
        "state": running if phase == "Running" else ended,
    }
    return json.dumps({"status": {"phase": phase, "startTime": at, "containerStatuses": [told]}})


async def run(kubeconfig: str, namespace: str, dsn: str) -> None:
    """Until cancelled."""
    engine = sa.create_engine(dsn)
    async with pods_of(kubeconfig, namespace) as pods:
        seen: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        ending = asyncio.create_task(_end_all(pods, seen, engine))
        watching = asyncio.create_task(take_in(pods, seen))
        print("ready", flush=True)
        await asyncio.gather(ending, watching)


async def take_in(pods: Pods, seen: asyncio.Queue[dict[str, Any]]) -> None:
    """Each pod that has not begun, once; until cancelled."""
    # By uid. Where a watch has ended, as an API server ends one that is slow to listen, the next list
    # shows pods again that are on their way to their end.
    taken: set[str] = set()
    while True:
        async for kind, pod in pods.events():
            if kind != "ADDED" or (pod.get("status") or {}).get("phase", "Pending") != "Pending":
                continue
            if (uid := pod["metadata"]["uid"]) not in taken:
                taken.add(uid)
                seen.put_nowait(pod)


async def _end_all(pods: Pods, seen: asyncio.Queue[dict[str, Any]], engine: sa.Engine) -> None:
    while True:
        batch = [await seen.get()]
        while not seen.empty():
            batch.append(seen.get_nowait())
        await asyncio.to_thread(_succeed, engine, batch)
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        await each(batch, partial(_end, pods, at))


async def _end(pods: Pods, at: str, pod: dict[str, Any]) -> None:
    path = f"{pod['metadata']['name']}/status"
    try:
        for phase in ("Running", "Succeeded"):
            await pods.send("PATCH", path, status_of(phase, pod, at), MERGE)
    except Refused as refused:
        # Whoever made it has taken it away.
        if refused.status != 404:
            raise


def _succeed(engine: sa.Engine, batch: Sequence[dict[str, Any]]) -> None:
    if (named := success_of(batch))["dag"]:
        with engine.begin() as connection:
            connection.execute(_SUCCESS, named)


if __name__ == "__main__":
    settings = (
        "KUBERNETES_EXECUTOR__CONFIG_FILE",
        "KUBERNETES_EXECUTOR__NAMESPACE",
        "DATABASE__SQL_ALCHEMY_CONN",
    )
    asyncio.run(run(*(os.environ[f"AIRFLOW__{name}"] for name in settings)))
