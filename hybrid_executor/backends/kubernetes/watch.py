"""List, then watch: keeps one scope's pods known to somebody who cares, for ever.

``Stream`` is the parser: bytes in, events out, no I/O. ``Reflector`` is the
thin shell: it lists in pages, watches from that list's resourceVersion with a
short server timeout and bookmarks, goes on from the last resourceVersion seen,
and lists again when the server says 410 (over HTTP or inside the stream) or
when the watch is silent: it outlived its own server timeout, or came to its
end without an event or a bookmark (AF#36998). While the watch is healthy it
never lists. It never gives up and never decides what a pod means: ``Sink``
does.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from hybrid_executor.backends.kubernetes.answer import Answer
from hybrid_executor.backends.kubernetes.client import Pod, PodApi
from hybrid_executor.backends.kubernetes.config import WatchTiming
from hybrid_executor.model.errors import ApiUnavailable

log = logging.getLogger("hybrid_executor.kubernetes")


@dataclass(frozen=True, slots=True)
class Changed:
    """A pod is new, has changed or has come into the selection."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class Removed:
    """A pod is deleted or has left the selection; this is its last state within it."""

    pod: Pod


class Stream:
    """The bytes of one watch, cut into events. Remembers how far it has come."""

    def __init__(self, resource_version: str) -> None:
        #: Where the next watch may go on.
        self.resource_version = resource_version
        #: Whether the server has said anything at all, a bookmark included.
        self.spoke = False
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[Changed | Removed]:
        """Yield the events that this chunk completes. Raises ``Answer``."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                event = self._event(json.loads(line))
                if event:
                    yield event

    def _event(self, event: Mapping[str, Any]) -> Changed | Removed | None:
        kind, thing = event["type"], event["object"]
        if kind == "ERROR":
            raise _error(thing)
        self.spoke = True
        self.resource_version = thing["metadata"]["resourceVersion"]
        if kind in ("ADDED", "MODIFIED"):
            return Changed(thing)
        return Removed(thing) if kind == "DELETED" else None


def _error(status: Mapping[str, Any]) -> Answer:
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    code = 410 if reason in ("Expired", "Gone") else int(status.get("code") or 500)
    return Answer(code, reason, message)


class Sink(Protocol):
    """Who is told. Calls come from the loop's thread, in the server's order."""

    def listing(self, scope: str | None, began: float) -> None:
        """A list of the whole scope begins; ``began`` is monotonic, in seconds."""

    def listed(self, scope: str | None) -> None:
        """That list is complete: what it did not name is not in the selection."""

    def changed(self, pod: Pod) -> None: ...

    def removed(self, pod: Pod) -> None: ...


class Reflector:
    """Runs until cancelled, for one namespace or (None) all of them."""

    def __init__(
        self, api: PodApi, scope: str | None, selector: str, sink: Sink, timing: WatchTiming
    ) -> None:
        self._api = api
        self.scope = scope
        self._selector = selector
        self._sink = sink
        self._timing = timing
        #: None: everything has to be listed.
        self._version: str | None = None
        self._failures = 0
        #: When it last heard anything of the server, monotonic seconds; read by any thread.
        self.heard_at_s = time.monotonic()

    async def run(self) -> None:
        while True:
            try:
                if self._version is None:
                    self._version = await self._list()
                await self._watch(self._version)
                self._failures = 0
            except Answer as answer:
                if answer.code == 410:
                    self._list_again(f"its resourceVersion is gone: {answer.message}")
                await self._back_off(answer.retry_after_s, answer)
            except (ApiUnavailable, ValueError, KeyError) as error:
                await self._back_off(None, error)

    async def _list(self) -> str:
        self._sink.listing(self.scope, time.monotonic())
        version = ""
        async for page in self._api.pages(self.scope, self._selector):
            version = page["metadata"]["resourceVersion"]
            for pod in page["items"]:
                self._sink.changed(pod)
        self._sink.listed(self.scope)
        self.heard_at_s = time.monotonic()
        return version

    async def _watch(self, version: str) -> None:
        timeout_s = random.randint(  # noqa: S311
            self._timing.server_timeout_min_s, self._timing.server_timeout_max_s
        )
        query = {
            "watch": "true",
            "labelSelector": self._selector,
            "resourceVersion": version,
            "timeoutSeconds": str(timeout_s),
            "allowWatchBookmarks": "true",
        }
        stream, began = Stream(version), time.monotonic()
        try:
            with suppress(TimeoutError):
                async with self._api.watch(self.scope, query, timeout_s + self._timing.slack_s) as chunks:
                    async for chunk in chunks:
                        self._deliver(stream, chunk)
        finally:
            self._version = stream.resource_version
            if stream.spoke:
                self._failures = 0
        lasted_s = time.monotonic() - began
        if lasted_s >= timeout_s + self._timing.slack_s:
            self._list_again("the watch outlived its own timeout")
        elif not stream.spoke and lasted_s >= timeout_s - 0.5:
            self._list_again("the watch said nothing, not even a bookmark")
        elif not stream.spoke:
            # Closed early without a word, again and again: a proxy or a server that starts.
            await self._back_off(None, "the watch was closed at once")

    def _deliver(self, stream: Stream, chunk: bytes) -> None:
        self.heard_at_s = time.monotonic()
        for event in stream.feed(chunk):
            match event:
                case Changed(pod):
                    self._sink.changed(pod)
                case Removed(pod):
                    self._sink.removed(pod)

    def _list_again(self, why: str) -> None:
        log.info("listing pods in %s again: %s", self.scope or "all namespaces", why)
        self._version = None

    async def _back_off(self, asked_s: float | None, why: object) -> None:
        """Full jitter above half, so that schedulers cut off together don't return together."""
        log.debug("watch of pods in %s failed: %s", self.scope or "all namespaces", why)
        ceiling_s = min(self._timing.backoff_max_s, self._timing.backoff_first_s * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        await asyncio.sleep(max(asked_s or 0.0, ceiling_s * random.uniform(0.5, 1.0)))  # noqa: S311
