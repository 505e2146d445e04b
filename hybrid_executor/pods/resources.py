"""What a pod says of the resources of the container that runs the task.

Requests and limit are those that the API server admitted, so what a LimitRange
or a webhook put in counts. Measurements come from the container's own
termination message, where our entry point has left a line, or from the
annotation of a node of processes. A container that was killed for memory had
all that it may have. Total for every pod; called by ``diagnosis``.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hybrid_executor.cluster.quantity import parse_quantity
from hybrid_executor.model import start
from hybrid_executor.model.resources import MARK, Resources, from_line
from hybrid_executor.naming import ANNOTATION_USED

#: What a signed column of 64 bits holds.
_MOST = 2**63 - 1


def resources_of(pod: Mapping[str, Any], name: str, ended: Mapping[str, Any]) -> Resources | None:
    """Of the container of that name, whose terminated state is ``ended`` (empty while it lives).

    None where nothing at all is known.
    """
    spec = pod.get("spec") or {}
    containers = [c for c in spec.get("containers") or () if c.get("name") == name]
    wanted = (containers[0].get("resources") if containers else None) or {}
    requests, limits = wanted.get("requests") or {}, wanted.get("limits") or {}
    limit = _amount(limits, "memory")
    found = replace(
        _used(pod, name, ended),
        cpu_request_m=_amount(requests, "cpu", 1000),
        memory_request_bytes=_amount(requests, "memory"),
        memory_limit_bytes=limit,
    )
    if ended.get("reason") == "OOMKilled" and limit is not None:
        return replace(found, memory_peak_bytes=max(limit, found.memory_peak_bytes or 0))
    return found if found != Resources() else None


def said(ended: Mapping[str, Any]) -> str:
    """A container's termination message without the lines that our entry point added."""
    lines = str(ended.get("message") or "").splitlines()
    return "\n".join(line for line in lines if not line.startswith((MARK, start.MARK)))


def _used(pod: Mapping[str, Any], name: str, ended: Mapping[str, Any]) -> Resources:
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    lines = [annotations.get(ANNOTATION_USED + name) or "", *str(ended.get("message") or "").splitlines()]
    # The last one is the entry point's: what a task printed there stands before it.
    return next((found for line in reversed(lines) if (found := from_line(line))), Resources())


def _amount(quantities: Mapping[str, Any], name: str, times: int = 1) -> int | None:
    try:
        return min(math.ceil(parse_quantity(quantities[name]) * times), _MOST)
    except (KeyError, ValueError):
        return None
