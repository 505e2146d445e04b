"""Puts the parts together and serves them on 127.0.0.1 over TLS until told to stop.

Opens the journal, the port and nothing else; starts no thread and no process.
Called by ``__main__``, and by tests that want a server inside their process.
"""

import asyncio
import errno
import logging
import signal
from pathlib import Path

from aiohttp import web

from hybrid_executor.standalone.api.http import Api
from hybrid_executor.standalone.api.journal import SqliteJournal
from hybrid_executor.standalone.api.kinds import KINDS
from hybrid_executor.standalone.api.nodelogs import NodeLogs
from hybrid_executor.standalone.api.registry import Registry
from hybrid_executor.standalone.api.requests import BODY_MAX
from hybrid_executor.standalone.api.statefolder import HOST, StateFolder
from hybrid_executor.standalone.api.store import WINDOW, Store
from hybrid_executor.standalone.api.watching import Watching

log = logging.getLogger(__name__)

#: Open watches are ended by ``Watching.close``; this bounds what else is open.
_SHUTDOWN_S = 1.0
WHAT_IT_IS = (
    "Embedded Kubernetes API on https://%s:%s. It keeps objects and serves list, watch and logs; it has no "
    "scheduler, pulls no images, enforces no RBAC, quotas or network policy, and has no exec, attach or "
    "port-forward."
)


class Server:
    """One running API over one state folder."""

    #: What answers requests.
    handler: type[Api] = Api

    def __init__(self, folder: Path, port: int = 0, *, window: int = WINDOW) -> None:
        self.folder = StateFolder(folder)
        self._wanted_port = port
        self._window = window

    async def start(self) -> None:
        """Bind, write the kubeconfig, serve. The port of the last start is kept unless one is given."""
        self.folder.prepare()
        self._journal = SqliteJournal(self.folder.database)
        self.store = Store(KINDS, self._journal, self._window)
        registry = Registry(self.store)
        self._watching = Watching(self.store)
        self._logs = NodeLogs(registry, self.folder.token("node-token"), self.folder.client_context())
        self._runner = web.AppRunner(
            web.Application(client_max_size=BODY_MAX),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_S,
        )
        wanted = self._wanted_port or self.folder.port()
        api = self.handler(registry, self._watching, self._logs, self.folder.token())
        self._runner.app.router.add_route("*", "/{path:.*}", api.handle)
        await self._runner.setup()
        self.port = await self._bind_somewhere(wanted)
        self.folder.publish(self.port)
        log.warning(WHAT_IT_IS, HOST, self.port)

    async def _bind_somewhere(self, wanted: int) -> int:
        """The port asked for or nothing; the last start's port, or another if somebody has it now."""
        try:
            return await self._bind(wanted)
        except OSError as taken:
            if self._wanted_port or taken.errno != errno.EADDRINUSE:
                raise
        port = await self._bind(0)
        log.warning(
            "Port %s of the last start is taken: %s is used, and the kubeconfig written anew", wanted, port
        )
        return port

    async def _bind(self, wanted: int) -> int:
        site = web.TCPSite(self._runner, HOST, wanted, ssl_context=self.folder.server_context())
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """End watches, close connections and the journal."""
        self._watching.close()
        await self._runner.cleanup()
        await self._logs.close()
        self._journal.close()

    async def run_until_signalled(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        await self.start()
        try:
            await ended.wait()
        finally:
            await self.stop()
