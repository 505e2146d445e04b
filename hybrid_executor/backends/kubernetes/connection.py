"""The connection to one API server: opened when it is first needed, its token read again when it is refused.

A kubeconfig may name a program or a file whose token lives for minutes (those
of cloud providers do), and kubernetes_asyncio reads it once. So a token that
is refused is read again, at most every ``READ_AGAIN_S``, however many requests
were refused at the same time. In a cluster the client renews it by itself. Sends
nothing; ``client`` is its user.
"""
# ruff: noqa: PLC0415 - the client is costly to import and most processes never use it

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import yaml

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.model.errors import ApiUnavailable

log = logging.getLogger("hybrid_executor.kubernetes")

READ_AGAIN_S = 10.0
_TOKEN = "BearerToken"  # noqa: S105 - the client's name for it

Lost = Callable[[BaseException], ApiUnavailable]


class Connection:
    """One ``ApiClient``. Use from one event loop; ``close`` when done."""

    def __init__(self, config: KubernetesConfig, lost: Lost) -> None:
        """``lost`` makes the error of a kubeconfig that can't be read: it counts as away."""
        self._config = config
        self._lost = lost
        self._client: Any = None
        self._opening = asyncio.Lock()
        self._read_at_s = float("-inf")

    async def client(self) -> Any:
        async with self._opening:
            if self._client is None:
                self._client = await self._open()
            return self._client

    async def has_other_token(self, refused: str) -> bool:
        """Whether there is another token than the one that was refused; looks for one if not."""
        async with self._opening:
            if self._client is None:
                return False
            is_old = time.monotonic() - self._read_at_s >= READ_AGAIN_S
            if token_of(self._client) == refused and is_old and not self._config.in_cluster:
                await self._read(self._client.configuration)
            return token_of(self._client) != refused

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _open(self) -> Any:
        from kubernetes_asyncio import client

        config, settings = self._config, client.Configuration()
        await self._read(settings)
        if not config.verify_ssl:
            settings.verify_ssl = False
        if config.ssl_ca_cert:
            settings.ssl_ca_cert = config.ssl_ca_cert
        watches = len(config.watched)
        settings.connection_pool_maxsize = (
            config.creation_concurrency + config.upkeep_concurrency + watches + 4
        )
        return client.ApiClient(settings)

    async def _read(self, settings: Any) -> None:
        """The kubeconfig or the service account, into the client's settings; no request."""
        from kubernetes_asyncio import config as loading

        config = self._config
        try:
            if config.in_cluster:
                loading.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            else:
                await loading.load_kube_config(
                    config_file=config.config_file,
                    context=config.cluster_context,
                    client_configuration=settings,
                )
        except (loading.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError) as error:
            raise self._lost(ValueError(f"{_place(config)}: {error}")) from error
        self._read_at_s = time.monotonic()


def token_of(client: Any) -> str:
    """The token that it sends now; empty for one that has a certificate alone."""
    return str(client.configuration.api_key.get(_TOKEN) or "")


def _place(config: KubernetesConfig) -> str:
    if config.in_cluster:
        return "in-cluster settings"
    context = f", context {config.cluster_context}" if config.cluster_context else ""
    return f"kubeconfig {config.config_file or '(default)'}{context}"
