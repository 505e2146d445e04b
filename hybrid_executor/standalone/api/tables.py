"""The two other faces of an object: a row of a ``Table`` (what kubectl prints) and its metadata alone.

Pure. ``choose`` reads the Accept header; the answer turns an object into what
the client asked for.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from hybrid_executor.standalone.api.kinds import Kind

Body = Mapping[str, Any]
_META = "meta.k8s.io/v1"


class Face(Enum):
    """In which form objects are answered."""

    WHOLE = "whole"
    METADATA = "metadata"
    TABLE = "table"


def choose(accept: str) -> Face | None:
    """The first form among those accepted that is served; None if none is."""
    for offer in (accept or "*/*").split(","):
        media, *parameters = [part.strip() for part in offer.split(";")]
        if media not in {"application/json", "application/*", "*/*"}:
            continue
        values = dict(part.split("=", 1) for part in parameters if "=" in part)
        wanted = values.get("as", "")
        if wanted and (values.get("g"), values.get("v")) != ("meta.k8s.io", "v1"):
            continue
        if wanted == "Table":
            return Face.TABLE
        if wanted.startswith("PartialObjectMetadata"):
            return Face.METADATA
        if not wanted:
            return Face.WHOLE
    return None


def metadata_only(body: Body) -> dict[str, Any]:
    """The object without spec, status and data."""
    return {"kind": "PartialObjectMetadata", "apiVersion": _META, "metadata": body["metadata"]}


def table(
    kind: Kind, bodies: Sequence[Body], metadata: Body, include: str = "Metadata", *, headed: bool = True
) -> dict[str, Any]:
    """A Table of these objects. ``include`` is None, Metadata or Object."""
    columns = _COLUMNS.get(kind.plural, _PLAIN)
    now = datetime.now(UTC)
    return {
        "kind": "Table",
        "apiVersion": _META,
        "metadata": metadata,
        "columnDefinitions": [_definition(name) for name, _ in columns] if headed else None,
        "rows": [
            {"cells": [cell(body, now) for _, cell in columns]} | _embedded(body, include) for body in bodies
        ],
    }


def _embedded(body: Body, include: str) -> dict[str, Any]:
    if include == "None":
        return {}
    return {"object": body if include == "Object" else metadata_only(body)}


#: Columns that kubectl shows with ``-o wide`` alone.
_WIDE = frozenset({"IP", "Node", "Labels"})


def _definition(name: str) -> dict[str, Any]:
    wide = int(name in _WIDE)
    form = "name" if name == "Name" else ""
    return {"name": name, "type": "string", "format": form, "description": name, "priority": wide}


def _at(body: Body, *path: str) -> Any:
    value: Any = body
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def age(since: str | None, now: datetime) -> str:
    """``5s``, ``3m7s``, ``2h``, ``4d``: as short as kubectl prints it."""
    if not since:
        return "<unknown>"
    seconds = int((now - datetime.fromisoformat(re.sub(r"Z$", "+00:00", since))).total_seconds())
    if seconds < 0:
        return "0s"
    for limit, small, unit, rest in ((120, 1, "s", ""), (7200, 60, "m", "s"), (172_800, 3600, "h", "m")):
        if seconds < limit:
            left = seconds % small // (small // 60 or 1) if rest and seconds < small * 10 else 0
            return f"{seconds // small}{unit}" + (f"{left}{rest}" if left else "")
    return f"{seconds // 86_400}d"


def _age(body: Body, now: datetime) -> str:
    return age(body["metadata"].get("creationTimestamp"), now)


def _name(body: Body, _: datetime) -> str:
    return str(body["metadata"]["name"])


def _text(*path: str) -> Callable[[Body, datetime], str]:
    return lambda body, _: str(_at(body, *path) or "<none>")


def _ready(body: Body, _: datetime) -> str:
    states = _at(body, "status", "containerStatuses") or []
    total = len(_at(body, "spec", "containers") or [])
    return f"{sum(bool(state.get('ready')) for state in states)}/{total}"


def _restarts(body: Body, _: datetime) -> str:
    states = _at(body, "status", "containerStatuses") or []
    return str(sum(state.get("restartCount", 0) for state in states))


def _pod_status(body: Body, _: datetime) -> str:
    if "deletionTimestamp" in body["metadata"]:
        return "Terminating"
    shown = _at(body, "status", "reason") or _at(body, "status", "phase") or "Unknown"
    for state in _at(body, "status", "containerStatuses") or ():
        for part in ("waiting", "terminated"):
            if reason := _at(state, "state", part, "reason"):
                shown = reason
    return str(shown)


def _node_status(body: Body, _: datetime) -> str:
    conditions = _at(body, "status", "conditions") or []
    ready = any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
    cordoned = ",SchedulingDisabled" if _at(body, "spec", "unschedulable") else ""
    return ("Ready" if ready else "NotReady") + cordoned


def _count(*path: str) -> Callable[[Body, datetime], str]:
    return lambda body, _: str(len(_at(body, *path) or ()))


def _event_object(body: Body, _: datetime) -> str:
    subject = body.get("involvedObject") or {}
    return f"{str(subject.get('kind', '')).lower()}/{subject.get('name', '')}"


def _event_age(body: Body, now: datetime) -> str:
    return age(body.get("lastTimestamp") or body["metadata"].get("creationTimestamp"), now)


_Columns = tuple[tuple[str, Callable[[Body, datetime], str]], ...]
_PLAIN: _Columns = (("Name", _name), ("Age", _age))
_COLUMNS: Mapping[str, _Columns] = {
    "pods": (
        ("Name", _name),
        ("Ready", _ready),
        ("Status", _pod_status),
        ("Restarts", _restarts),
        ("Age", _age),
        ("IP", _text("status", "podIP")),
        ("Node", _text("spec", "nodeName")),
    ),
    "nodes": (
        ("Name", _name),
        ("Status", _node_status),
        ("Age", _age),
        ("Version", _text("status", "nodeInfo", "kubeletVersion")),
    ),
    "namespaces": (("Name", _name), ("Status", _text("status", "phase")), ("Age", _age)),
    "configmaps": (("Name", _name), ("Data", _count("data")), ("Age", _age)),
    "secrets": (("Name", _name), ("Type", _text("type")), ("Data", _count("data")), ("Age", _age)),
    "leases": (("Name", _name), ("Holder", _text("spec", "holderIdentity")), ("Age", _age)),
    "events": (
        ("Last Seen", _event_age),
        ("Type", _text("type")),
        ("Reason", _text("reason")),
        ("Object", _event_object),
        ("Message", _text("message")),
    ),
}
