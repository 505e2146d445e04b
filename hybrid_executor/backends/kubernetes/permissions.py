"""Asks the API server whether it answers and what it lets the executor do with pods and Secrets.

Reads only: an access review stores nothing. Called by ``airflow hybrid
doctor``; the backend itself never asks, because an answer may change.
"""

from collections.abc import Collection

from hybrid_executor.backends.kubernetes.answer import Answer
from hybrid_executor.backends.kubernetes.client import PodApi
from hybrid_executor.model.errors import ApiUnavailable

#: (verb, resource, subresource).
Permission = tuple[str, str, str]
#: What the scheduler's backend does with pods.
NEEDED_FOR_PODS: tuple[Permission, ...] = (
    ("create", "pods", ""),
    ("get", "pods", ""),
    ("list", "pods", ""),
    ("watch", "pods", ""),
    ("patch", "pods", ""),
    ("delete", "pods", ""),
)
#: What it does besides where workloads are in Secrets (``[hybrid_executor] workload_secret``).
NEEDED_FOR_SECRETS: tuple[Permission, ...] = (
    ("create", "secrets", ""),
    ("update", "secrets", ""),
)
#: Everything that the scheduler's backend does: ``workers/rbac/scheduler-role.yaml``.
NEEDED = NEEDED_FOR_PODS + NEEDED_FOR_SECRETS
#: What it does with the pods of Celery workers, where these are in a namespace of their own.
NEEDED_FOR_WORKERS: tuple[Permission, ...] = (
    ("list", "pods", ""),
    ("watch", "pods", ""),
    ("patch", "pods", ""),
)
#: What shows logs of running pods, in Airflow's API server: ``workers/rbac/api-server-role.yaml``.
NEEDED_FOR_LOGS: tuple[Permission, ...] = (
    ("list", "pods", ""),
    ("get", "pods", "log"),
)
#: What ``airflow hybrid pods`` does, with its clean-up and logs: ``workers/rbac/operator-role.yaml``.
NEEDED_FOR_COMMANDS: tuple[Permission, ...] = (
    ("list", "pods", ""),
    ("delete", "pods", ""),
    ("get", "pods", "log"),
)
#: What ``[hybrid_executor] cluster_view`` reads, in the whole cluster.
NEEDED_FOR_VIEW: tuple[Permission, ...] = (
    ("list", "nodes", ""),
    ("list", "pods", ""),
)
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Permissions(PodApi):
    """Access reviews over the same connection settings as the backend's."""

    async def missing(self, namespace: str | None, needed: Collection[Permission]) -> list[str]:
        """What of it is not allowed in a namespace (None: in all), e.g. ``get pods/log``.

        An API server without access reviews is asked for a list of pods, which
        raises if that is not allowed. Raises ``ApiUnavailable``, also for a no.
        """
        try:
            return await self._reviewed(namespace, needed)
        except Answer as answer:
            if answer.code != 404:
                raise ApiUnavailable(f"it refuses: {answer}") from answer
        try:
            async for _ in self.pages(namespace, "kubernetes_executor=True"):
                break
        except Answer as answer:
            raise ApiUnavailable(f"it refuses to list pods: {answer}") from answer
        return []

    async def _reviewed(self, namespace: str | None, needed: Collection[Permission]) -> list[str]:
        return [
            f"{verb} {'/'.join(filter(None, (resource, sub)))}"
            for verb, resource, sub in needed
            if not await self._allowed(namespace, verb, resource, sub)
        ]

    async def _allowed(self, namespace: str | None, verb: str, resource: str, sub: str) -> bool:
        attributes = {"verb": verb, "resource": resource, "subresource": sub, "namespace": namespace or ""}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {name: value for name, value in attributes.items() if value}},
        }
        answer = await self._json("POST", _REVIEWS, body=review)
        return bool(answer.get("status", {}).get("allowed"))
