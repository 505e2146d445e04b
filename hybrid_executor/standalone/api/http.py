"""HTTP: authenticates, reads a request, lets ``registry`` or ``store`` decide, writes the answer.

Decides nothing about objects. Every refusal is a ``Status``. Made and served
by ``server``.
"""

import hmac
import json
import random
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from hybrid_executor.standalone.api import discovery, listing, patches, paths, problems, tables
from hybrid_executor.standalone.api.kinds import PODS, Kind
from hybrid_executor.standalone.api.nodelogs import NodeLogs
from hybrid_executor.standalone.api.paths import Place
from hybrid_executor.standalone.api.problems import Problem
from hybrid_executor.standalone.api.registry import DeleteOptions, Edit, Registry
from hybrid_executor.standalone.api.selectors import Selection, SelectorError, parse_fields, parse_labels
from hybrid_executor.standalone.api.store import Body, Store, Stored, encode
from hybrid_executor.standalone.api.tables import Face
from hybrid_executor.standalone.api.watching import Ask, Render, Watching

JSON: Final = "application/json"
#: Answered without a token, as a cluster does by default.
_PUBLIC = frozenset({"/version", "/healthz", "/livez", "/readyz"})
_HEALTH = frozenset({"/healthz", "/livez", "/readyz"})
_STREAMING_SUBRESOURCES = frozenset({"exec", "attach", "portforward", "proxy"})
_PATCHES = (patches.JSON_PATCH, patches.MERGE, patches.STRATEGIC)
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
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


class Api:
    """The handler of every request."""

    def __init__(
        self, registry: Registry, watching: Watching, logs: NodeLogs, token: str, address: str
    ) -> None:
        self._registry = registry
        self._store: Store = registry.store
        self._watching = watching
        self._logs = logs
        self._token = f"Bearer {token}".encode()
        self._documents = discovery.documents(address)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, a refusal included."""
        try:
            return await self._answer(request)
        except Problem as problem:
            return _refusal(problem)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/")
        if path in _HEALTH:
            return web.Response(text="ok")
        if path not in _PUBLIC:
            self._authenticate(request)
        if path in self._documents:
            return _json(encode(self._documents[path]))
        if path == _ACCESS_REVIEWS and request.method == "POST":
            return _json(encode(discovery.access_review(await _read_object(request))), 201)
        place = paths.parse(path)
        if place is None:
            raise problems.no_such_path()
        if place.subresource:
            return await self._subresource(request, place)
        if place.name:
            return await self._one(request, place)
        return await self._collection(request, place)

    def _authenticate(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, self._token):
            raise problems.unauthorized()

    # One object

    async def _one(self, request: web.Request, place: Place) -> web.StreamResponse:
        kind, key = place.kind, (place.namespace, place.name)
        match request.method:
            case "GET" if flag(request.query, "watch"):
                return await self._watch(request, place)
            case "GET":
                return _json(_renderer(kind, request)(self._registry.get(kind, key)))
            case "PUT" | "PATCH":
                return await self._change(request, place, "")
            case "DELETE":
                return await self._delete(request, place)
        raise problems.method_not_allowed()

    async def _change(self, request: web.Request, place: Place, part: str) -> web.Response:
        edit = await _edit(request)
        key = (place.namespace, place.name)
        stored = self._registry.update(place.kind, key, edit, part=part, dry_run=_dry_run(request))
        return _json(_renderer(place.kind, request)(stored))

    async def _delete(self, request: web.Request, place: Place) -> web.Response:
        options = await _delete_options(request)
        key, dry_run = (place.namespace, place.name), _dry_run(request)
        stored, gone = self._registry.delete(place.kind, key, options, dry_run=dry_run)
        if gone and place.kind is not PODS:
            return _json(encode(_success(place.kind, stored)))
        return _json(_renderer(place.kind, request)(stored))

    async def _subresource(self, request: web.Request, place: Place) -> web.StreamResponse:
        served = dict(place.kind.subresources)
        if place.subresource in _STREAMING_SUBRESOURCES and place.kind is PODS:
            raise problems.not_implemented(f"{place.kind.plural}/{place.subresource}")
        if place.subresource not in served:
            raise problems.no_such_path()
        match place.subresource, request.method:
            case "status", "GET":
                return await self._one(request, place)
            case "status", "PUT" | "PATCH":
                return await self._change(request, place, "status")
            case "log", "GET":
                return await self._log(request, place)
            case "binding", "POST":
                return await self._bind(request, place)
            case "eviction", "POST":
                return await self._evict(request, place)
        raise problems.method_not_allowed()

    async def _bind(self, request: web.Request, place: Place) -> web.Response:
        body = await _read_object(request)
        name = place.name or (body.get("metadata") or {}).get("name") or ""
        self._registry.bind((place.namespace, name), body, dry_run=_dry_run(request))
        return _json(encode(_SUCCESS), 201)

    async def _evict(self, request: web.Request, place: Place) -> web.Response:
        body = await _read_object(request)
        options = _read_delete_options(body.get("deleteOptions") or {}, {})
        self._registry.evict((place.namespace, place.name), options, dry_run=_dry_run(request))
        return _json(encode(_SUCCESS), 201)

    async def _log(self, request: web.Request, place: Place) -> web.StreamResponse:
        url = self._logs.address((place.namespace, place.name), request.query)
        if url is None:
            return web.Response(status=204)
        async with self._logs.open(url, request.query) as content:
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            await response.prepare(request)
            async for chunk in content.iter_any():
                await response.write(chunk)
            return response

    # Collections

    async def _collection(self, request: web.Request, place: Place) -> web.StreamResponse:
        match request.method:
            case "GET" if flag(request.query, "watch"):
                return await self._watch(request, place)
            case "GET":
                return self._list(request, place)
            case "POST" if not place.everywhere:
                return await self._create(request, place)
            case "DELETE" if not place.everywhere:
                return await self._delete_collection(request, place)
        raise problems.method_not_allowed()

    async def _create(self, request: web.Request, place: Place) -> web.Response:
        body = await _read_object(request)
        stored = self._registry.create(place.kind, place.namespace, body, dry_run=_dry_run(request))
        return _json(_renderer(place.kind, request)(stored), 201)

    def _list(self, request: web.Request, place: Place) -> web.Response:
        page = listing.page(self._store, place.kind, selection_of(place, request.query), request.query)
        return _json(_rendered_list(place.kind, page.items, page.metadata, request))

    async def _delete_collection(self, request: web.Request, place: Place) -> web.Response:
        options = await _delete_options(request)
        if _dry_run(request):
            return self._list(request, place)
        gone = self._registry.delete_all(place.kind, selection_of(place, request.query), options)
        metadata = {"resourceVersion": str(self._store.revision)}
        return _json(_rendered_list(place.kind, gone, metadata, request))

    async def _watch(self, request: web.Request, place: Place) -> web.StreamResponse:
        ask = self._ask(request, place)
        response = web.StreamResponse(headers={"Content-Type": JSON})
        response.enable_chunked_encoding()
        await response.prepare(request)
        async for chunk in self._watching.stream(ask, _renderer(place.kind, request)):
            await response.write(chunk)
        return response

    def _ask(self, request: web.Request, place: Place) -> Ask:
        query = request.query
        selection = selection_of(place, query)
        if place.name:
            named = parse_fields(f"metadata.name={place.name}", place.kind.plural)
            selection = Selection(place.namespace, selection.labels, named)
        revision = listing.revision_of(query.get("resourceVersion", ""))
        initial = flag(query, "sendInitialEvents")
        if initial and query.get("resourceVersionMatch") != "NotOlderThan":
            raise problems.unprocessable_options(
                "sendInitialEvents is forbidden unless resourceVersionMatch is NotOlderThan"
            )
        if revision is not None and initial and revision > self._store.revision:
            raise problems.too_large_revision(revision, self._store.revision)
        everything = initial or revision in {None, 0}
        bookmarks = flag(query, "allowWatchBookmarks")
        return Ask(
            kind=place.kind,
            selection=selection,
            revision=None if everything else revision,
            timeout_s=_timeout_s(query.get("timeoutSeconds", "")),
            bookmarks=bookmarks,
            mark_initial=initial and bookmarks,
        )


def _timeout_s(text: str) -> float:
    if text.isdigit() and int(text):
        return float(text)
    return _WATCH_S * (1 + random.random())  # noqa: S311 - spreads reconnections, nothing secret


_SUCCESS: Final[Body] = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Success",
    "code": 201,
}


def _success(kind: Kind, stored: Stored) -> Body:
    details = {"name": stored.key[1], "kind": kind.plural, "uid": stored.body["metadata"]["uid"]}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _json(raw: bytes, status: int = 200) -> web.Response:
    return web.Response(body=raw, status=status, content_type=JSON)


def _refusal(problem: Problem) -> web.Response:
    response = _json(encode(problem.status()), problem.code)
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(problem.retry_after_s)
    return response


def _dry_run(request: web.Request) -> bool:
    return request.query.get("dryRun") == "All"


def _face(request: web.Request) -> Face:
    face = tables.choose(request.headers.get("Accept", ""))
    if face is None:
        message = "only the following media types are accepted: application/json"
        raise Problem(406, "NotAcceptable", message)
    return face


def _renderer(kind: Kind, request: web.Request) -> Render:
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


def _rendered_list(kind: Kind, items: list[Stored], metadata: Body, request: web.Request) -> bytes:
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


async def _read(request: web.Request, accepted: tuple[str, ...]) -> Any:
    if request.content_type not in accepted:
        raise problems.unsupported_media_type(accepted)
    try:
        return json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge as large:
        message = f"Request entity too large: limit is {BODY_MAX}"
        raise Problem(413, "RequestEntityTooLarge", message) from large
    except ValueError as wrong:
        raise problems.bad_request(f"the body of the request is no JSON: {wrong}") from wrong


async def _read_object(request: web.Request) -> Body:
    # kubectl create --raw and curl leave the type unsaid.
    accepted = (JSON, "application/octet-stream") if "Content-Type" not in request.headers else (JSON,)
    body = await _read(request, accepted)
    if not isinstance(body, dict):
        raise problems.bad_request("the body of the request is no JSON object")
    return body


async def _edit(request: web.Request) -> Edit:
    if request.method == "PUT":
        body = await _read_object(request)
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


async def _delete_options(request: web.Request) -> DeleteOptions:
    body = await _read_object(request) if request.can_read_body and await request.read() else {}
    return _read_delete_options(body, request.query)


def _read_delete_options(body: Mapping[str, Any], query: Mapping[str, str]) -> DeleteOptions:
    grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    if grace is not None and not str(grace).lstrip("-").isdigit():
        raise problems.bad_request(f"gracePeriodSeconds: invalid value {grace!r}")
    preconditions = body.get("preconditions") or {}
    return DeleteOptions(
        grace_s=None if grace is None else int(grace),
        uid=preconditions.get("uid"),
        revision=preconditions.get("resourceVersion"),
        orphan=(body.get("propagationPolicy") or query.get("propagationPolicy")) == "Orphan",
    )
