"""What is wrong with an object that somebody wants to keep: metadata, data, and what pods need (422).

Pure. It checks what people get wrong and what this API relies on, with
kube-apiserver's words.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hybrid_executor.standalone.api.kinds import Kind
from hybrid_executor.standalone.api.names import key_problems, label_problems, name_problems
from hybrid_executor.standalone.api.podrules import pod_problems
from hybrid_executor.standalone.api.problems import Cause, invalid, required
from hybrid_executor.standalone.api.shapes import objects_in

Body = Mapping[str, Any]

_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
ANNOTATIONS_MAX = 256 * 1024
DATA_MAX = 1024 * 1024


def problems(kind: Kind, body: Body) -> list[Cause]:
    """Everything wrong with the object; empty if it may be kept."""
    causes = [*_metadata_problems(kind, body["metadata"])]
    if kind.plural == "pods":
        causes += pod_problems(body.get("spec") or {})
    elif kind.plural in {"configmaps", "secrets"}:
        causes += _data_problems(body)
    return causes


def _metadata_problems(kind: Kind, metadata: Body) -> Iterable[Cause]:
    yield from name_problems(kind, metadata.get("name") or "")
    for key, value in (metadata.get("labels") or {}).items():
        yield from label_problems("metadata.labels", key, value)
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        yield from key_problems("metadata.annotations", key)
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > ANNOTATIONS_MAX:
        yield Cause(
            "metadata.annotations",
            f"Too long: may not be more than {ANNOTATIONS_MAX} bytes",
            "FieldValueTooLong",
        )
    for place, owner in enumerate(objects_in(metadata.get("ownerReferences"))):
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                yield required(f"metadata.ownerReferences[{place}].{name}", "must not be empty")


def _data_problems(body: Body) -> Iterable[Cause]:
    data = body.get("data") or {}
    for key in data:
        if not _CONFIG_KEY.fullmatch(key):
            yield invalid(f"data[{key}]", key, "a valid config key must consist of alphanumeric characters")
    if sum(len(value) for value in data.values()) > DATA_MAX:
        yield Cause("data", f"Too long: may not be more than {DATA_MAX} bytes", "FieldValueTooLong")
