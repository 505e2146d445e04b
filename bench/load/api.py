"""The embedded Kubernetes API, which counts what it is asked: ``python -m bench.load.api --state DIR``.

Answers ``/metrics`` with the counts, as a real API server does, to whoever has
its token. Everything else is ``hybrid_executor.standalone.api``.
"""

import argparse
import asyncio
import os
from collections import Counter
from pathlib import Path

from aiohttp import web

from bench.load.apicalls import text_of
from hybrid_executor.standalone.api import paths, requests
from hybrid_executor.standalone.api.http import Api
from hybrid_executor.standalone.api.server import Server

METRICS = "/metrics"


class CountingApi(Api):
    """The handler of every request, one after the other."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)  # type: ignore[arg-type]
        self.calls: Counter[str] = Counter()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Count, then answer."""
        if name := called(request.method, request.path, is_watch=requests.flag(request.query, "watch")):
            self.calls[name] += 1
        return await super().handle(request)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == METRICS:
            self._authenticate(request)
            return web.Response(text=text_of(self.calls))
        return await super()._answer(request)


def called(method: str, path: str, *, is_watch: bool) -> str | None:
    """What an API server calls a request; None for one about no resource."""
    place = paths.parse(path.rstrip("/"))
    if place is None:
        return None
    verb = method
    if method == "GET":
        verb = "WATCH" if is_watch else "GET" if place.name else "LIST"
    elif method == "DELETE" and not place.name:
        verb = "DELETECOLLECTION"
    where = f"{place.kind.plural}/{place.subresource}" if place.subresource else place.kind.plural
    return f"{verb} {where}"


class CountingServer(Server):
    """A server of it."""

    handler = CountingApi


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.load.api", description=__doc__)
    parser.add_argument("--state", required=True, type=Path)
    os.umask(0o077)
    asyncio.run(CountingServer(parser.parse_args().state).run_until_signalled())
