"""Who may read logs from this node: the API server decides, as it does for a kubelet.

A client certificate says who asks; whether that user may is asked of the API
by a SubjectAccessReview on ``nodes/proxy``, which system:kubelet-api-admin and
system:masters have. An answer is kept for a while. Called by ``logserver``.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.standalone.runner.client import ApiRefused, Client

REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
ALLOWED_S = 300.0
DENIED_S = 10.0
KEPT_MAX = 1000


@dataclass(frozen=True)
class Reader:
    """The user and the groups that a client certificate names."""

    user: str
    groups: tuple[str, ...]


def reader(certificate: Mapping[str, Any]) -> Reader | None:
    """Who bears a certificate, as ``ssl`` shows a verified one; None if it names nobody."""
    fields = [pair for part in certificate.get("subject") or () for pair in part]
    users = [value for name, value in fields if name == "commonName"]
    groups = tuple(value for name, value in fields if name == "organizationName")
    return Reader(users[-1], groups) if users else None


class LogAccess:
    """Asks, and remembers."""

    def __init__(self, client: Client, node: str) -> None:
        self._client, self._node = client, node
        self._known: dict[Reader, tuple[bool, float]] = {}

    async def allows(self, who: Reader) -> bool:
        """Whether this user may read logs here; False where the API can't be asked."""
        allowed, until = self._known.get(who, (False, 0.0))
        if time.monotonic() < until:
            return allowed
        allowed = await self._ask(who)
        if len(self._known) >= KEPT_MAX:
            self._known.clear()
        self._known[who] = allowed, time.monotonic() + (ALLOWED_S if allowed else DENIED_S)
        return allowed

    async def _ask(self, who: Reader) -> bool:
        wanted = {"verb": "get", "version": "v1", "resource": "nodes", "subresource": "proxy"}
        spec = {
            "user": who.user,
            "groups": list(who.groups),
            "resourceAttributes": {**wanted, "name": self._node},
        }
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        try:
            answer = await self._client.create(REVIEWS, body)
        except (ApiUnavailable, ApiRefused):
            return False
        return bool(answer["status"].get("allowed"))
