"""An ETL that is light but for one step: the heavy one runs in a pod of its own.

``extract`` and ``report`` are light and run on a warm Celery worker. ``aggregate``
reads all rows at once and needs more memory than a worker slot has, so its
queue sends it to a pod with a memory request of its own. Give ``path`` to work
on a file of yours (``key,amount`` with a header); else a million rows are made.
"""

import csv
import os
import resource
import tempfile
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task
from kubernetes.client import models as k8s

ROWS = 1_000_000
KEYS = 50_000
#: What the pod asks for; a worker slot of the demo has SLOT_MEMORY_MIB.
POD_MEMORY = "1Gi"
SLOT_MEMORY_MIB = 256

heavy_pod = k8s.V1Pod(
    spec=k8s.V1PodSpec(
        containers=[
            k8s.V1Container(
                name="base",
                resources=k8s.V1ResourceRequirements(
                    requests={"memory": POD_MEMORY}, limits={"memory": "2Gi"}
                ),
            )
        ]
    )
)


@dag(
    schedule=None,
    tags=["hybrid", "demo"],
    params={
        "path": Param(None, type=["null", "string"], description="CSV with the columns key and amount"),
        "folder": Param(None, type=["null", "string"], description="a folder that workers and pods share"),
    },
    doc_md=__doc__,
)
def mixed_etl():
    @task
    def extract() -> str:
        params = get_current_context()["params"]
        if params["path"]:
            return params["path"]
        folder = params["folder"] or os.environ.get("HYBRID_EXAMPLE_FOLDER") or tempfile.gettempdir()
        file = tempfile.NamedTemporaryFile("w", dir=folder, suffix=".csv", delete=False, newline="")
        with file:
            file.write("key,amount\n")
            file.writelines(f"{row % KEYS},{row * 7919 % 100_003}\n" for row in range(ROWS))
        return file.name

    @task(queue="kubernetes", executor_config={"pod_override": heavy_pod})
    def aggregate(path: str) -> dict[str, int]:
        """All rows in memory at once: a median needs them sorted."""
        with Path(path).open(newline="") as file:
            lines = csv.reader(file)
            next(lines)
            rows = [(key, int(amount)) for key, amount in lines]
        rows.sort(key=lambda row: row[1])
        totals: dict[str, int] = {}
        for key, amount in rows:
            totals[key] = totals.get(key, 0) + amount
        print(f"{len(rows):,} rows of {len(totals):,} keys")
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "rows": len(rows),
            "keys": len(totals),
            "total": sum(totals.values()),
            "median": rows[len(rows) // 2][1],
            "peak_mib": peak_kib // 1024,
        }

    @task
    def report(summary: dict[str, int]) -> str:
        text = ", ".join(f"{name} {value:,}" for name, value in summary.items())
        print(text)
        return text

    report(aggregate(extract()))


mixed_etl()
