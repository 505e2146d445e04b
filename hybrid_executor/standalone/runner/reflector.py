"""Keeps a live copy of one set of objects: list, then watch, list again when told to.

Called by ``agent`` and ``binder``. It survives a server that restarts, a 410, and a watch that
falls silent; what it reports is the difference to what it reported before, so
a relist makes no event for an object that did not change.
"""

import logging
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.standalone.runner.client import ApiRefused, Backoff, Client, Gone

Object = dict[str, Any]

log = logging.getLogger(__name__)

PAGE_SIZE = 500


@dataclass(frozen=True)
class Change:
    """An object as it is now, or, if ``gone``, as it was last; neither after a full list."""

    object: Object | None
    gone: bool = False

    @property
    def listed(self) -> bool:
        """The list is complete: everything that exists has been reported."""
        return self.object is None


class Reflector:
    """The objects at ``path`` under a field selector, by UID."""

    def __init__(self, client: Client, path: str, field_selector: str) -> None:
        self._client, self._path, self._selector = client, path, field_selector
        self.objects: dict[str, Object] = {}

    async def changes(self) -> AsyncIterator[Change]:
        """Every change, for ever."""
        backoff = Backoff()
        version = ""
        while True:
            try:
                if not version:
                    found, version = await self._list()
                    for change in self._replace(found):
                        yield change
                    yield Change(None)
                async for event in self._watch(version):
                    backoff.reset()
                    version = event["object"]["metadata"]["resourceVersion"]
                    if (applied := self._apply(event)) is not None:
                        yield applied
            except Gone:
                log.info("%s: resourceVersion %s is too old, listing again", self._path, version)
                version = ""
            except ApiUnavailable as error:
                log.warning("%s: %s", self._path, error)
                await backoff.wait(error.retry_after_s)
            except ApiRefused as error:
                log.error("%s: the API refused: %s", self._path, error)  # noqa: TRY400 - its words say it all
                version = ""
                await backoff.wait()

    async def _list(self) -> tuple[list[Object], str]:
        found: list[Object] = []
        parameters = {"fieldSelector": self._selector, "limit": str(PAGE_SIZE)}
        while True:
            page = await self._client.get(self._path, **parameters)
            found += page.get("items") or []
            token = page["metadata"].get("continue")
            if not token:
                return found, page["metadata"]["resourceVersion"]
            parameters["continue"] = token

    def _watch(self, version: str) -> AsyncIterator[Object]:
        # Short and uneven: a silent watch is noticed soon, and watches don't end together.
        return self._client.watch(
            self._path,
            timeout_s=random.randint(30, 45),  # noqa: S311
            fieldSelector=self._selector,
            resourceVersion=version,
            allowWatchBookmarks="true",
        )

    def _replace(self, found: list[Object]) -> list[Change]:
        fresh = {item["metadata"]["uid"]: item for item in found}
        gone = [Change(item, gone=True) for uid, item in self.objects.items() if uid not in fresh]
        changed = [
            Change(item) for uid, item in fresh.items() if _version(self.objects.get(uid)) != _version(item)
        ]
        self.objects = fresh
        return gone + changed

    def _apply(self, event: Object) -> Change | None:
        if event["type"] == "BOOKMARK":
            return None
        item = event["object"]
        uid = item["metadata"]["uid"]
        if event["type"] == "DELETED":
            self.objects.pop(uid, None)
            return Change(item, gone=True)
        self.objects[uid] = item
        return Change(item)


def _version(item: Object | None) -> str | None:
    return item["metadata"]["resourceVersion"] if item else None
