"""Lists, removes and reads pods for people, whoever owns them. Never started, never watches.

``Inventory`` is what ``airflow hybrid pods`` knows of the API server. It asks
for no more than a command needs, and what is refused comes out as
``ApiUnavailable`` with the right that is missing. Unlike the backend it ends:
what the server does not take is tried a few times.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

from hybrid_executor.backends.kubernetes.answer import Answer
from hybrid_executor.backends.kubernetes.book import of_deployment
from hybrid_executor.backends.kubernetes.client import Pod, PodApi, pods_path
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import LABEL_ATTEMPT, LABEL_EXECUTOR
from hybrid_executor.pods.inventory import PodSummary

#: Tries of one request before a command gives it up.
TRIES = 5
BACKOFF_MAX_S = 8.0
#: A list that is interrupted by 410 so often is not read to its end by patience.
LISTS_MAX = 5
ROLE = "workers/rbac/operator-role.yaml"


def attempts_of(config: KubernetesConfig, *, attempt_id: str = "") -> str:
    """The selector of the pods of one Airflow in one of its clusters, or of one attempt."""
    attempt = f"{LABEL_ATTEMPT}={attempt_id}" if attempt_id else LABEL_ATTEMPT
    return f"{LABEL_EXECUTOR}=True,{attempt},{of_deployment(config)}"


class Inventory(PodApi):
    """Pods over the same connection settings as the backend's."""

    async def list_pages(
        self, namespace: str | None, selector: str, field_selector: str = ""
    ) -> AsyncIterator[list[Pod]]:
        """Every pod once, a page at a time. Removing what a page names is safe between pages."""
        known: set[str] = set()
        for _ in range(LISTS_MAX):
            try:
                async for page in self.pages(namespace, selector, field_selector):
                    fresh = [pod for pod in page["items"] if pod["metadata"]["uid"] not in known]
                    known.update(pod["metadata"]["uid"] for pod in fresh)
                    yield fresh
                return
            except Answer as answer:
                # The list outlived the server's history; what it has named is known.
                if answer.code != 410:
                    raise _refused(answer, "list pods", namespace) from answer
        raise ApiUnavailable("the list of pods was too slow for the API server's history; try again")

    async def remove(self, pod: PodSummary) -> None:
        """Delete this very pod; one that is gone already, or made anew by that name, is let be."""
        options = {"preconditions": {"uid": pod.uid}}

        async def ask() -> None:
            try:
                await self.delete(pod.namespace, pod.name, options)
            except Answer as answer:
                if answer.code not in (404, 409):
                    raise

        await self._patiently(ask, "delete pods", pod.namespace)

    async def read_pod(self, namespace: str, selector: str, name: str) -> Pod | None:
        """One pod by its name, with no other right than to list; None if it is gone."""
        found = [
            pod
            async for page in self.list_pages(namespace, selector, f"metadata.name={name}")
            for pod in page
        ]
        return found[0] if found else None

    async def log(
        self, pod: PodSummary, container: str, *, follow: bool, tail_lines: int | None
    ) -> AsyncIterator[bytes]:
        """The log as it comes; ends with the container where it is followed."""
        query = {"container": container, "follow": str(follow).lower()}
        if tail_lines is not None:
            query["tailLines"] = str(tail_lines)
        path = f"{pods_path(pod.namespace, pod.name)}/log"
        timeout = None if follow else self._config.request_timeout_s
        response = await self._send("GET", path, query=query, timeout=_endless() if follow else timeout)
        try:
            if response.status != 200:
                answer = await self._answer(response)
                raise _refused(answer, "get pods/log", pod.namespace) from answer
            async for chunk in self._chunks(response):
                yield chunk
        finally:
            response.close()

    async def _patiently(self, ask: Callable[[], Awaitable[None]], right: str, namespace: str) -> None:
        tried = 0
        while True:
            tried += 1
            try:
                return await ask()
            except Answer as answer:
                if not answer.is_back_pressure or tried == TRIES:
                    raise _refused(answer, right, namespace) from answer
                asked_s = answer.retry_after_s
            except ApiUnavailable as error:
                if tried == TRIES:
                    raise
                asked_s = error.retry_after_s
            pause_s = min(BACKOFF_MAX_S, 0.125 * 2.0**tried) * random.uniform(0.5, 1.0)  # noqa: S311
            await asyncio.sleep(max(asked_s or 0.0, pause_s))


async def remove_all(
    api: Inventory, pods: Collection[PodSummary], concurrency: int
) -> list[tuple[PodSummary, ApiUnavailable | None]]:
    """Remove pods, so many at a time; each with what kept it, if anything did."""
    slots = asyncio.Semaphore(concurrency)

    async def remove(pod: PodSummary) -> tuple[PodSummary, ApiUnavailable | None]:
        async with slots:
            try:
                await api.remove(pod)
            except ApiUnavailable as error:
                return pod, error
            return pod, None

    return list(await asyncio.gather(*map(remove, pods)))


def _refused(answer: Answer, right: str, namespace: str | None) -> ApiUnavailable:
    where = f"in namespace {namespace}" if namespace else "in all namespaces"
    if answer.code in (401, 403):
        return ApiUnavailable(
            f"the right to {right} {where} is missing ({ROLE} has what this command needs): {answer.message}",
            reason=Reason.FORBIDDEN,
        )
    return ApiUnavailable(f"the API server refuses to {right} {where}: {answer}")


def _endless() -> Any:
    import aiohttp  # noqa: PLC0415 - most processes never use it

    from hybrid_executor.backends.kubernetes.client import CONNECT_TIMEOUT_S  # noqa: PLC0415

    return aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S)
