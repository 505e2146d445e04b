"""``pods/log``: asks the pod's node, as kube-apiserver asks a kubelet, and passes the stream on.

The node is found through its own object: an address of type InternalIP (else
Hostname) and ``status.daemonEndpoints.kubeletEndpoint.Port``. It must show a
certificate of the cluster's CA, and gets the bearer token in ``node-token``.
Used by ``http`` alone.
"""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from hybrid_executor.standalone.api import problems
from hybrid_executor.standalone.api.kinds import NODES, PODS
from hybrid_executor.standalone.api.registry import Registry
from hybrid_executor.standalone.api.store import Key

_PASSED_ON = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes")
_ADDRESS_TYPES = ("InternalIP", "Hostname")
_CONNECT_S = 5.0
_ERROR_TEXT_MAX = 10_000


class NodeLogs:
    """Reads logs from nodes over connections that are kept."""

    def __init__(self, registry: Registry, token: str, trust: ssl.SSLContext) -> None:
        self._registry = registry
        timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_S)
        headers = {"Authorization": f"Bearer {token}"}
        connector = aiohttp.TCPConnector(ssl=trust, limit=0)
        self._http = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers)

    async def close(self) -> None:
        """Drop the connections."""
        await self._http.close()

    def address(self, key: Key, query: Mapping[str, str]) -> str | None:
        """Where the log is; None for a pod that has no node yet."""
        pod = self._registry.get(PODS, key).body
        container = choose_container(pod, query.get("container", ""))
        _refuse_bad_options(pod, query)
        node = pod["spec"].get("nodeName")
        if not node:
            return None
        return f"{self._node_url(node)}/containerLogs/{key[0]}/{key[1]}/{container}"

    def _node_url(self, name: str) -> str:
        status = self._registry.get(NODES, ("", name)).body.get("status") or {}
        port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port")
        known = {item.get("type"): item.get("address") for item in status.get("addresses") or ()}
        host = next((known[kind] for kind in _ADDRESS_TYPES if known.get(kind)), None)
        if not port or not host:
            raise problems.Problem(
                500, "InternalError", f'node "{name}" says no address and port for its logs'
            )
        return f"https://{host}:{port}"

    @asynccontextmanager
    async def open(self, url: str, query: Mapping[str, str]) -> AsyncIterator[aiohttp.StreamReader]:
        """The log's bytes as they come."""
        passed = {name: query[name] for name in _PASSED_ON if name in query}
        try:
            response = await self._http.get(url, params=passed)
        except (aiohttp.ClientError, TimeoutError) as away:
            message = f'Get "{url}": {away or type(away).__name__}'
            raise problems.Problem(500, "InternalError", message) from away
        async with response:
            if response.status not in {200, 206}:
                raise _refused(response.status, (await response.content.read(_ERROR_TEXT_MAX)).decode())
            yield response.content


def _refused(status: int, text: str) -> problems.Problem:
    reasons = {400: "BadRequest", 404: "NotFound"}
    if status in reasons:
        return problems.Problem(status, reasons[status], text)
    return problems.Problem(500, "InternalError", f"the node answered {status}: {text}")


def choose_container(pod: Mapping[str, Any], asked: str) -> str:
    """The container whose log is meant; 400 where that is not clear."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    names = [item["name"] for item in spec["containers"]]
    every = [*(item["name"] for item in spec.get("initContainers") or ()), *names]
    if asked and asked not in every:
        raise problems.bad_request(f"container {asked} is not valid for pod {name}")
    if not asked and len(every) > 1:
        choice = " ".join(names)
        raise problems.bad_request(
            f"a container name must be specified for pod {name}, choose one of: [{choice}]"
        )
    return asked or names[0]


def _refuse_bad_options(pod: Mapping[str, Any], query: Mapping[str, str]) -> None:
    causes = []
    for option, least in (("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)):
        text = query.get(option)
        if text is None:
            continue
        if not text.lstrip("-").isdigit():
            raise problems.bad_request(f'{option}: invalid value "{text}": not a number')
        if int(text) < least:
            causes.append(problems.invalid(option, int(text), f"must be greater than or equal to {least}"))
    if "sinceSeconds" in query and "sinceTime" in query:
        causes.append(
            problems.forbidden_field("", "at most one of `sinceTime` or `sinceSeconds` may be specified")
        )
    if causes:
        raise problems.unprocessable(PODS, pod["metadata"]["name"], causes)
