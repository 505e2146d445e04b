"""Fetches what a pod refers to: secrets, config maps, service-account tokens.

Called by ``provisions``. Asks for single objects by name, which is all that a
node may do. An object that does not exist is left out; ``environment`` and
``volumeplan`` say what that means. A refusal passes through in the server's words.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hybrid_executor.standalone.runner.client import ApiRefused, Client, NotFound
from hybrid_executor.standalone.runner.environment import ConfigRefused, NodeFacts, Objects, Surroundings
from hybrid_executor.standalone.runner.podstate import parse_instant
from hybrid_executor.standalone.runner.volumeplan import References, references

Manifest = Mapping[str, Any]
#: Volume and path in it.
TokenKey = tuple[str, str]

TOKEN_LIFE_S = 3600
#: A token is replaced after this part of its life, or after a day.
TOKEN_USED = 0.8
TOKEN_USED_MAX_S = 24 * 3600.0


@dataclass(frozen=True)
class Token:
    """A token, and the time of ``time.monotonic`` from which another one is to be asked for."""

    text: str = field(repr=False)
    due: float


async def resolve(client: Client, pod: Manifest, facts: NodeFacts, tokens: "TokenBook") -> Surroundings:
    """The pod with all that its variables and volumes refer to."""
    wanted = references(pod)
    base = f"/api/v1/namespaces/{pod['metadata']['namespace']}"
    try:
        objects = Objects(
            secrets=await _existing(client, f"{base}/secrets", wanted.secrets),
            configmaps=await _existing(client, f"{base}/configmaps", wanted.configmaps),
            tokens=await tokens.current(pod, wanted),
        )
    except ApiRefused as error:
        raise ConfigRefused(str(error)) from error
    return Surroundings(pod, objects, facts)


async def _existing(client: Client, path: str, names: frozenset[str]) -> dict[str, Manifest]:
    found: dict[str, Manifest] = {}
    for name in names:
        try:
            found[name] = await client.get(f"{path}/{name}")
        except NotFound:
            continue
    return found


class TokenBook:
    """One pod's service-account tokens, each bound to the pod and kept until it grows old."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tokens: dict[TokenKey, Token] = {}

    async def current(self, pod: Manifest, wanted: References) -> dict[TokenKey, str]:
        """A token for everything that wants one; a new one where the last is due."""
        for key, source in wanted.tokens.items():
            known = self._tokens.get(key)
            if known is None or known.due <= time.monotonic():
                self._tokens[key] = await self._request(pod, key[0], source)
        return {key: token.text for key, token in self._tokens.items()}

    def next_due(self) -> float | None:
        """When the first of them grows old; None if there are none."""
        return min((token.due for token in self._tokens.values()), default=None)

    async def _request(self, pod: Manifest, volume: str, source: Manifest) -> Token:
        meta = pod["metadata"]
        account = pod["spec"].get("serviceAccountName") or "default"
        spec = {
            "audiences": [source["audience"]] if source.get("audience") else [],
            "expirationSeconds": source.get("expirationSeconds") or TOKEN_LIFE_S,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
        }
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token"
        try:
            answer = await self._client.create(path, request)
        except ApiRefused as error:
            words = f'MountVolume.SetUp failed for volume "{volume}" : failed to fetch token: {error}'
            raise ConfigRefused(words) from error
        return Token(str(answer["status"]["token"]), time.monotonic() + _used_s(answer["status"]))


def _used_s(status: Manifest) -> float:
    """How long a token is used that was just issued."""
    life_s = (parse_instant(status["expirationTimestamp"]) - datetime.now(UTC)).total_seconds()
    return min(life_s * TOKEN_USED, TOKEN_USED_MAX_S)
