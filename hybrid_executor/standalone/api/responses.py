"""Writes answers: an object, a list or a refusal, in the form that the client accepts.

Decides nothing about objects. Used by ``http`` alone.
"""

from typing import Final

from aiohttp import web

from hybrid_executor.standalone import limits
from hybrid_executor.standalone.api import problems, tables
from hybrid_executor.standalone.api.kinds import Kind
from hybrid_executor.standalone.api.problems import Problem
from hybrid_executor.standalone.api.requests import JSON
from hybrid_executor.standalone.api.store import Body, Stored, encode
from hybrid_executor.standalone.api.tables import Face
from hybrid_executor.standalone.api.watching import Render

#: The answer to a binding or an eviction.
CREATED: Final[Body] = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Success",
    "code": 201,
}


def success(kind: Kind, stored: Stored) -> Body:
    """The answer to a deletion."""
    details = {"name": stored.key[1], "kind": kind.plural, "uid": stored.body["metadata"]["uid"]}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def json_response(raw: bytes, status: int = 200) -> web.Response:
    """JSON, as it is."""
    return web.Response(body=raw, status=status, content_type=JSON)


def kept(raw: bytes, request: web.Request, status: int = 200) -> web.Response:
    """An object that was kept, with a warning if the client believes that it was looked at more closely."""
    response = json_response(raw, status)
    if request.query.get("fieldValidation") == "Strict":
        response.headers["Warning"] = f'299 - "{limits.FIELD_VALIDATION.words}"'
    return response


def refusal(problem: Problem) -> web.Response:
    """The ``Status`` of a problem."""
    response = json_response(encode(problem.status()), problem.code)
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(problem.retry_after_s)
    return response


def _face(request: web.Request) -> Face:
    face = tables.choose(request.headers.get("Accept", ""))
    if face is None:
        raise problems.limited(limits.ANSWERS)
    return face


def renderer(kind: Kind, request: web.Request) -> Render:
    """How one object is written for this client."""
    face = _face(request)
    if face is Face.WHOLE:
        return lambda stored: stored.raw or encode(stored.body)
    if face is Face.METADATA:
        return lambda stored: encode(tables.metadata_only(stored.body))
    include = request.query.get("includeObject", "Metadata")
    return lambda stored: encode(
        tables.table(
            kind, [stored.body], {"resourceVersion": stored.body["metadata"]["resourceVersion"]}, include
        )
    )


def rendered_list(kind: Kind, items: list[Stored], metadata: Body, request: web.Request) -> bytes:
    """A list in the form that this client accepts."""
    face = _face(request)
    if face is Face.TABLE:
        include = request.query.get("includeObject", "Metadata")
        return encode(tables.table(kind, [stored.body for stored in items], metadata, include))
    if face is Face.METADATA:
        name, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        raws = [encode(tables.metadata_only(stored.body)) for stored in items]
    else:
        name, version = f"{kind.kind}List", kind.api_version
        raws = [stored.raw for stored in items]
    head = encode({"kind": name, "apiVersion": version, "metadata": metadata})
    return head[:-1] + b',"items":[' + b",".join(raws) + b"]}"
