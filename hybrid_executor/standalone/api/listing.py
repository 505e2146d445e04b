"""A list in pages, each of the same revision. Pure.

A continue token carries the revision of the first page and the last key that
was sent; a later page is cut from the store's state at that revision. Where
that is compacted the answer is an honest 410, not a page of another time.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass

from hybrid_executor.standalone.api import problems
from hybrid_executor.standalone.api.kinds import Kind
from hybrid_executor.standalone.api.selectors import Selection
from hybrid_executor.standalone.api.store import Body, Compacted, Key, Store, Stored

_CONTINUE_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You must start a new "
    "list without the continue parameter."
)


@dataclass(frozen=True, slots=True)
class Page:
    """Some objects of a list, and its metadata."""

    items: list[Stored]
    metadata: Body


def revision_of(text: str) -> int | None:
    """A resourceVersion from a query; None for "" (the newest)."""
    if not text:
        return None
    if not text.isdigit():
        raise problems.bad_request(f'resourceVersion: Invalid value: "{text}": invalid syntax')
    return int(text)


def page(store: Store, kind: Kind, selection: Selection, query: Mapping[str, str]) -> Page:
    """What a list request gets."""
    limit = _limit(query.get("limit", ""))
    token = query.get("continue", "")
    revision, after = _resume(token, query) if token else (_first_revision(store, query), None)
    try:
        items = (
            store.select(kind, selection) if revision is None else store.select_at(kind, selection, revision)
        )
    except Compacted as gone:
        raise problems.expired(_CONTINUE_TOO_OLD if token else str(gone)) from gone
    if after is not None:
        items = [stored for stored in items if stored.key > after]
    at = store.revision if revision is None else revision
    metadata: Body = {"resourceVersion": str(at)}
    if limit and len(items) > limit:
        metadata["continue"] = _token(at, items[limit - 1].key)
        if not selection.labels and not selection.fields:
            metadata["remainingItemCount"] = len(items) - limit
        items = items[:limit]
    return Page(items, metadata)


def _limit(text: str) -> int:
    if text and not text.isdigit():
        raise problems.bad_request(f'limit: Invalid value: "{text}": invalid syntax')
    return int(text or 0)


def _first_revision(store: Store, query: Mapping[str, str]) -> int | None:
    revision = revision_of(query.get("resourceVersion", ""))
    match = query.get("resourceVersionMatch", "")
    if match and revision is None:
        raise problems.bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is "
            "provided"
        )
    if revision is not None and revision > store.revision:
        raise problems.too_large_revision(revision, store.revision)
    return revision if match == "Exact" else None


def _token(revision: int, key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps([revision, *key]).encode()).decode()


def _resume(token: str, query: Mapping[str, str]) -> tuple[int, Key]:
    if query.get("resourceVersion", "") not in {"", "0"}:
        raise problems.bad_request("specifying resource version is not allowed when using continue")
    try:
        revision, namespace, name = json.loads(base64.urlsafe_b64decode(token))
        return int(revision), (str(namespace), str(name))
    except (binascii.Error, ValueError, TypeError) as wrong:
        raise problems.bad_request("continue key is not valid: the token can't be read") from wrong
