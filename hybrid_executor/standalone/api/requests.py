"""Reads requests: queries, bodies, patches and delete options, into what ``registry`` takes.

Decides nothing about objects; whatever can't be read is a ``Problem``. Used by
``http`` alone.
"""

import json
import random
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from hybrid_executor.standalone import limits
from hybrid_executor.standalone.api import patches, problems
from hybrid_executor.standalone.api.deletion import DeleteOptions
from hybrid_executor.standalone.api.paths import Place
from hybrid_executor.standalone.api.problems import Problem
from hybrid_executor.standalone.api.registry import Edit
from hybrid_executor.standalone.api.selectors import Selection, SelectorError, parse_fields, parse_labels
from hybrid_executor.standalone.api.store import Body

JSON: Final = "application/json"
_PATCHES = (patches.JSON_PATCH, patches.MERGE, patches.STRATEGIC)
_PROTOBUF = "application/vnd.kubernetes.protobuf"
_LIMITED_BODIES = {
    limits.APPLY_PATCH: limits.SERVER_SIDE_APPLY,
    "application/apply-patch+cbor": limits.SERVER_SIDE_APPLY,
    "application/yaml": limits.BODIES,
    "application/cbor": limits.BODIES,
    _PROTOBUF: limits.BODIES,
}
#: A watch without timeoutSeconds lasts one to two times this.
_WATCH_S = 1800.0
#: Requests above this many bytes are refused, as etcd would.
BODY_MAX = 3 * 1024 * 1024


def flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean of a query, written as Go or Python clients do."""
    return query.get(name, "").lower() in {"1", "true", "t"}


def selection_of(place: Place, query: Mapping[str, str]) -> Selection:
    """What a list, a watch or a deletecollection covers."""
    try:
        labels = parse_labels(query.get("labelSelector", ""))
        fields = parse_fields(query.get("fieldSelector", ""), place.kind.plural)
    except SelectorError as wrong:
        raise problems.bad_request(str(wrong)) from wrong
    return Selection(place.namespace, labels, fields)


def dry_run(request: web.Request) -> bool:
    """Whether nothing is to be kept."""
    return request.query.get("dryRun") == "All"


async def _read(request: web.Request, accepted: tuple[str, ...]) -> Any:
    if request.content_type not in accepted:
        if limit := _LIMITED_BODIES.get(request.content_type):
            raise problems.limited(limit)
        raise problems.unsupported_media_type(accepted)
    try:
        return json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge as large:
        message = f"Request entity too large: limit is {BODY_MAX}"
        raise Problem(413, "RequestEntityTooLarge", message) from large
    except ValueError as wrong:
        raise problems.bad_request(f"the body of the request is no JSON: {wrong}") from wrong


async def read_object(request: web.Request) -> Body:
    """The body, a JSON object."""
    # kubectl create --raw and curl leave the type unsaid.
    accepted = (JSON, "application/octet-stream") if "Content-Type" not in request.headers else (JSON,)
    body = await _read(request, accepted)
    if not isinstance(body, dict):
        raise problems.bad_request("the body of the request is no JSON object")
    return body


async def read_question(request: web.Request) -> Body:
    """The body of a review, or nothing of one in Protobuf, as kubectl sends it: the answer is the same."""
    return {} if request.content_type == _PROTOBUF else await read_object(request)


async def read_edit(request: web.Request) -> Edit:
    """What a PUT or PATCH makes of the object as it is."""
    if request.method == "PUT":
        body = await read_object(request)
        return lambda _: body
    patch = await _read(request, _PATCHES)

    def edit(current: Body) -> Body:
        try:
            return patches.apply(request.content_type, current, patch)
        except patches.PatchError as wrong:
            if wrong.malformed:
                raise problems.bad_request(str(wrong)) from wrong
            raise Problem(422, "Invalid", f"the server rejected our request: {wrong}") from wrong

    return edit


async def delete_options(request: web.Request) -> DeleteOptions:
    """The options of a DELETE, from its body or its query."""
    body = await read_object(request) if request.can_read_body and await request.read() else {}
    return parse_delete_options(body, request.query)


def parse_delete_options(body: Mapping[str, Any], query: Mapping[str, str]) -> DeleteOptions:
    """Delete options; the body has precedence."""
    grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    if grace is not None and not str(grace).lstrip("-").isdigit():
        raise problems.bad_request(f"gracePeriodSeconds: invalid value {grace!r}")
    propagation = body.get("propagationPolicy") or query.get("propagationPolicy")
    if propagation == "Foreground":
        raise problems.limited(limits.FOREGROUND)
    preconditions = body.get("preconditions") or {}
    return DeleteOptions(
        grace_s=None if grace is None else int(grace),
        uid=preconditions.get("uid"),
        revision=preconditions.get("resourceVersion"),
        orphan=propagation == "Orphan",
    )


def watch_timeout_s(text: str) -> float:
    """How long a watch lasts."""
    if text.isdigit() and int(text):
        return float(text)
    return _WATCH_S * (1 + random.random())  # noqa: S311 - spreads reconnections, nothing secret
