"""The routing table: an ordered list of queue rules that ends with one that takes everything.

Decides the route of a queue; does no I/O and can't fail. Built by
``hybrid_executor.settings.load_routing``; asked by the executor for every
attempt and by ``airflow hybrid routes`` and ``explain``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from hybrid_executor.model.attempt import BackendName, Route

#: Queues whose route is remembered. Deployments have dozens; the bound is against generated names.
CACHE_SIZE = 4096


@dataclass(frozen=True, slots=True)
class QueueRule:
    """One line of the table: a queue glob, matched with its case, and the route of what it takes."""

    pattern: str
    route: Route


DEFAULT_RULE = QueueRule(
    "*", Route(backend=BackendName.CELERY, rule="default: every queue that no rule sends elsewhere")
)


@dataclass(frozen=True)
class RoutingTable:
    """Rules in the order in which they are asked; the first match wins, and Celery takes the rest."""

    rules: tuple[QueueRule, ...] = ()
    _seen: dict[str, Route] = field(default_factory=dict, init=False, repr=False, compare=False)

    def route(self, queue: str) -> Route:
        """Return the route of any queue whatsoever."""
        known = self._seen.get(queue)
        if known is None:
            if len(self._seen) >= CACHE_SIZE:
                self._seen.clear()
            known = self._seen[queue] = self._first_match(queue)
        return known

    def _first_match(self, queue: str) -> Route:
        return next(rule.route for rule in self.rows() if fnmatchcase(queue, rule.pattern))

    def rows(self) -> tuple[QueueRule, ...]:
        """Every rule in order, the one that takes the rest at the end."""
        return (*self.rules, DEFAULT_RULE)


def kubernetes_rules(queues: Iterable[str], source: str) -> tuple[QueueRule, ...]:
    """Make the rules of a setting (``source``) that lists queues for Kubernetes."""
    return tuple(
        QueueRule(queue, Route(backend=BackendName.KUBERNETES, rule=f"{source}: queue {queue}"))
        for queue in queues
    )
