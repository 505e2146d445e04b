"""A wire to an API server that can be cut: what a network partition is to one client.

Passes bytes on without reading them, so TLS and certificates are the client's
and the server's own. Used by tests of the backend.
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from hybrid_executor.standalone.api.statefolder import write_private
from hybrid_executor.standalone.stack.ports import LOOPBACK
from tests.cluster.access import Access
from tests.fixtures.kube import Loop

CHUNK = 65536


class Line:
    """Connects ``url`` to the plane until ``cut``, and again from ``mend`` on."""

    def __init__(self, plane: Access) -> None:
        place = urlsplit(plane.url)
        self._host, self._port = place.hostname, place.port
        self._plane = plane
        self._whole = True
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = Loop()
        self._server: asyncio.Server = self._loop.run(asyncio.start_server(self._connected, LOOPBACK, 0))
        self.url = f"https://{LOOPBACK}:{self._server.sockets[0].getsockname()[1]}"

    def kubeconfig(self, given: Path) -> Path:
        """The same identity, by this wire."""
        path = given.with_name(f"{given.name}.line")
        write_private(path, given.read_text().replace(self._plane.url, self.url))
        return path

    def cut(self) -> None:
        """Break what is open and whatever comes."""

        def all_off() -> None:
            self._whole = False
            for writer in list(self._open):
                writer.transport.abort()

        self._loop.call(all_off)

    def mend(self) -> None:
        self._whole = True

    def close(self) -> None:
        """Serve no more."""
        self.cut()
        self._loop.call(self._server.close)
        self._loop.run(self._gone())
        self._loop.close()

    async def _gone(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            with suppress(OSError):
                if self._whole:
                    await self._join(reader, writer)
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._open.add(far_writer)
        try:
            ways = [
                asyncio.create_task(_pass_on(reader, far_writer)),
                asyncio.create_task(_pass_on(far_reader, writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._open.discard(far_writer)
            far_writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
