"""What a pod of the stock KubernetesExecutor says of itself.

Its labels name it only within one Airflow (job ids, DAG and task ids), and
several may share a namespace. The workload in its arguments names it for good:
Airflow's id of the task instance. Called by the Kubernetes backend when tasks
of another executor are taken over.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

#: The stock annotation with the task instance's id, from Airflow 3.4 on.
ANNOTATION_TASK_INSTANCE = "task_instance_id"
_PAYLOAD_FOLLOWS = "--json-string"


def workload_id(pod: Mapping[str, Any]) -> str | None:
    """Airflow's id of the task instance that a stock pod runs; None where it can't be told."""
    annotated = (pod["metadata"].get("annotations") or {}).get(ANNOTATION_TASK_INSTANCE)
    if annotated:
        return str(annotated)
    for container in (pod.get("spec") or {}).get("containers") or ():
        arguments = [*(container.get("command") or ()), *(container.get("args") or ())]
        for flag, payload in pairwise(arguments):
            if flag == _PAYLOAD_FOLLOWS:
                return _task_instance_of(payload)
    return None


def _task_instance_of(payload: str) -> str | None:
    try:
        found = json.loads(payload)["ti"]["id"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None
