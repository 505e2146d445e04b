"""The clusters that a command asks: all that are configured, or those that ``--cluster`` names.

All are asked at the same time and each by itself, so that one that is away
hides nothing of the others.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.inventory import Inventory
from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.naming import shown_cluster
from hybrid_executor.routing.clusters import cluster_of
from hybrid_executor.settings import Settings

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Answers(Generic[_T]):
    """What came of asking."""

    found: list[_T]
    #: Why the others did not answer, one line each.
    problems: list[str]

    def exit_if_incomplete(self) -> None:
        """With the problems; to be called when all is shown that is known."""
        if self.problems:
            raise SystemExit("\n".join(self.problems))


def chosen(settings: Settings, names: Sequence[str] | None) -> list[KubernetesConfig]:
    """Exits for a name that is not configured."""
    known = settings.every_cluster
    if unknown := [name for name in names or () if cluster_of(name) not in known]:
        have = ", ".join(shown_cluster(name) for name in known)
        raise SystemExit(f"no cluster is named {unknown[0]!r}; there are: {have}")
    wanted = dict.fromkeys(cluster_of(name) for name in names) if names else known
    return [known[name] for name in wanted]


def ask(
    configs: Sequence[KubernetesConfig],
    work: Callable[[Inventory, KubernetesConfig], Coroutine[Any, Any, _T]],
) -> Answers[_T]:
    """Run what asks the API servers; a refusal is a problem, with the server's words."""

    async def asking(config: KubernetesConfig) -> _T | ApiUnavailable:
        api = Inventory(config)
        try:
            return await work(api, config)
        except ApiUnavailable as error:
            return error
        finally:
            await api.close()

    async def asking_all() -> list[_T | ApiUnavailable]:
        return await asyncio.gather(*map(asking, configs))

    try:
        answers = asyncio.run(asking_all())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    return Answers(
        [answer for answer in answers if not isinstance(answer, ApiUnavailable)],
        [str(answer) for answer in answers if isinstance(answer, ApiUnavailable)],
    )
