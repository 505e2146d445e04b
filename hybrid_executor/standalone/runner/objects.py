"""Fetches what a pod refers to: secrets, config maps, service-account tokens.

Called by ``podworker`` before each start, so a restarted container sees
new values. An object that does not exist is left out; ``environment`` and
``volumeplan`` say what that means.
"""

from collections.abc import Mapping
from typing import Any

from hybrid_executor.standalone.runner.client import ApiRefused, Client, NotFound
from hybrid_executor.standalone.runner.environment import ConfigMissing, NodeFacts, Objects, Surroundings
from hybrid_executor.standalone.runner.volumeplan import References, references

Manifest = Mapping[str, Any]

TOKEN_LIFE_S = 3607


async def resolve(client: Client, pod: Manifest, facts: NodeFacts) -> Surroundings:
    """The pod with all that its variables and volumes refer to."""
    wanted = references(pod)
    base = f"/api/v1/namespaces/{pod['metadata']['namespace']}"
    try:
        objects = Objects(
            secrets=await _existing(client, f"{base}/secrets", wanted.secrets),
            configmaps=await _existing(client, f"{base}/configmaps", wanted.configmaps),
            tokens=await _tokens(client, base, pod, wanted),
        )
    except ApiRefused as error:
        raise ConfigMissing(str(error)) from error
    return Surroundings(pod, objects, facts)


async def _existing(client: Client, path: str, names: frozenset[str]) -> dict[str, Manifest]:
    found: dict[str, Manifest] = {}
    for name in names:
        try:
            found[name] = await client.get(f"{path}/{name}")
        except NotFound:
            continue
    return found


async def _tokens(client: Client, base: str, pod: Manifest, wanted: References) -> dict[tuple[str, str], str]:
    account = pod["spec"].get("serviceAccountName") or "default"
    bound = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
    }
    found = {}
    for key, source in wanted.tokens.items():
        spec = {
            "audiences": [source["audience"]] if source.get("audience") else [],
            "expirationSeconds": source.get("expirationSeconds") or TOKEN_LIFE_S,
            "boundObjectRef": bound,
        }
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        try:
            answer = await client.create(f"{base}/serviceaccounts/{account}/token", request)
            found[key] = str(answer["status"]["token"])
        except NotFound:
            continue
    return found
