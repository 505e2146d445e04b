"""HTTP: authenticates, reads a request, lets ``registry`` or ``store`` decide, writes the answer.

Decides nothing about objects. Every refusal is a ``Status``. Made and served
by ``server``.
"""

import hmac

from aiohttp import web

from hybrid_executor.standalone import limits
from hybrid_executor.standalone.api import discovery, listing, paths, problems, requests, responses
from hybrid_executor.standalone.api.kinds import PODS
from hybrid_executor.standalone.api.nodelogs import NodeLogs
from hybrid_executor.standalone.api.paths import Place
from hybrid_executor.standalone.api.problems import Problem
from hybrid_executor.standalone.api.registry import Registry
from hybrid_executor.standalone.api.selectors import Selection, parse_fields
from hybrid_executor.standalone.api.store import Store, encode
from hybrid_executor.standalone.api.watching import Ask, Watching

_HEALTH = frozenset({"/healthz", "/livez", "/readyz"})
#: Answered without a token, as a cluster does by default.
_PUBLIC = _HEALTH | {"/version"}
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Api:
    """The handler of every request."""

    def __init__(self, registry: Registry, watching: Watching, logs: NodeLogs, token: str) -> None:
        self._registry = registry
        self._store: Store = registry.store
        self._watching = watching
        self._logs = logs
        self._token = f"Bearer {token}".encode()
        self._documents = discovery.documents()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, a refusal included."""
        try:
            return await self._answer(request)
        except Problem as problem:
            return responses.refusal(problem)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/")
        if path in _HEALTH:
            return web.Response(text="ok")
        if path not in _PUBLIC:
            self._authenticate(request)
        if any(name.lower().startswith("impersonate-") for name in request.headers):
            raise problems.limited(limits.IMPERSONATION)
        if path in self._documents:
            return responses.json_response(encode(self._documents[path]))
        if path == _ACCESS_REVIEWS and request.method == "POST":
            question = await requests.read_question(request)
            return responses.json_response(encode(discovery.access_review(question)), 201)
        place = paths.parse(path)
        if place is None:
            limit = limits.at(path)
            raise problems.limited(limit) if limit else problems.no_such_path()
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
            case "GET" if requests.flag(request.query, "watch"):
                return await self._watch(request, place)
            case "GET":
                return responses.json_response(
                    responses.renderer(kind, request)(self._registry.get(kind, key))
                )
            case "PUT" | "PATCH":
                return await self._change(request, place, "")
            case "DELETE":
                return await self._delete(request, place)
        raise problems.method_not_allowed()

    async def _change(self, request: web.Request, place: Place, part: str) -> web.Response:
        edit = await requests.read_edit(request)
        key = (place.namespace, place.name)
        stored = self._registry.update(place.kind, key, edit, part=part, dry_run=requests.dry_run(request))
        return responses.kept(responses.renderer(place.kind, request)(stored), request)

    async def _delete(self, request: web.Request, place: Place) -> web.Response:
        options = await requests.delete_options(request)
        key, dry_run = (place.namespace, place.name), requests.dry_run(request)
        stored, gone = self._registry.delete(place.kind, key, options, dry_run=dry_run)
        if gone and place.kind is not PODS:
            return responses.json_response(encode(responses.success(place.kind, stored)))
        return responses.json_response(responses.renderer(place.kind, request)(stored))

    async def _subresource(self, request: web.Request, place: Place) -> web.StreamResponse:
        served = dict(place.kind.subresources)
        if limit := limits.SUBRESOURCES.get((place.kind.plural, place.subresource)):
            raise problems.limited(limit)
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
        body = await requests.read_object(request)
        name = place.name or (body.get("metadata") or {}).get("name") or ""
        self._registry.bind((place.namespace, name), body, dry_run=requests.dry_run(request))
        return responses.json_response(encode(responses.CREATED), 201)

    async def _evict(self, request: web.Request, place: Place) -> web.Response:
        body = await requests.read_object(request)
        options = requests.parse_delete_options(body.get("deleteOptions") or {}, {})
        self._registry.evict((place.namespace, place.name), options, dry_run=requests.dry_run(request))
        return responses.json_response(encode(responses.CREATED), 201)

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
            case "GET" if requests.flag(request.query, "watch"):
                return await self._watch(request, place)
            case "GET":
                return self._list(request, place)
            case "POST" if not place.everywhere:
                return await self._create(request, place)
            case "DELETE" if not place.everywhere:
                return await self._delete_collection(request, place)
        raise problems.method_not_allowed()

    async def _create(self, request: web.Request, place: Place) -> web.Response:
        body = await requests.read_object(request)
        stored = self._registry.create(place.kind, place.namespace, body, dry_run=requests.dry_run(request))
        return responses.kept(responses.renderer(place.kind, request)(stored), request, 201)

    def _list(self, request: web.Request, place: Place) -> web.Response:
        page = listing.page(
            self._store, place.kind, requests.selection_of(place, request.query), request.query
        )
        return responses.json_response(
            responses.rendered_list(place.kind, page.items, page.metadata, request)
        )

    async def _delete_collection(self, request: web.Request, place: Place) -> web.Response:
        options = await requests.delete_options(request)
        if requests.dry_run(request):
            return self._list(request, place)
        gone = self._registry.delete_all(place.kind, requests.selection_of(place, request.query), options)
        metadata = {"resourceVersion": str(self._store.revision)}
        return responses.json_response(responses.rendered_list(place.kind, gone, metadata, request))

    async def _watch(self, request: web.Request, place: Place) -> web.StreamResponse:
        ask = self._ask(request, place)
        response = web.StreamResponse(headers={"Content-Type": requests.JSON})
        response.enable_chunked_encoding()
        await response.prepare(request)
        async for chunk in self._watching.stream(ask, responses.renderer(place.kind, request)):
            await response.write(chunk)
        return response

    def _ask(self, request: web.Request, place: Place) -> Ask:
        query = request.query
        selection = requests.selection_of(place, query)
        if place.name:
            named = parse_fields(f"metadata.name={place.name}", place.kind.plural)
            selection = Selection(place.namespace, selection.labels, named)
        revision = listing.revision_of(query.get("resourceVersion", ""))
        initial = requests.flag(query, "sendInitialEvents")
        if initial and query.get("resourceVersionMatch") != "NotOlderThan":
            raise problems.unprocessable_options(
                "sendInitialEvents is forbidden unless resourceVersionMatch is NotOlderThan"
            )
        if revision is not None and initial and revision > self._store.revision:
            raise problems.too_large_revision(revision, self._store.revision)
        everything = initial or revision in {None, 0}
        bookmarks = requests.flag(query, "allowWatchBookmarks")
        return Ask(
            kind=place.kind,
            selection=selection,
            revision=None if everything else revision,
            timeout_s=requests.watch_timeout_s(query.get("timeoutSeconds", "")),
            bookmarks=bookmarks,
            mark_initial=initial and bookmarks,
        )
