"""From a URL path to what it names. Pure."""

from dataclasses import dataclass

from hybrid_executor.standalone.api import kinds
from hybrid_executor.standalone.api.kinds import Kind


@dataclass(frozen=True, slots=True)
class Place:
    """A collection (``name`` empty), an object, or one of its subresources.

    ``namespace`` is empty for cluster-wide kinds and for lists over all namespaces.
    """

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def everywhere(self) -> bool:
        """A collection over all namespaces: it can be listed and watched only."""
        return self.kind.namespaced and not self.namespace


def parse(path: str) -> Place | None:
    """The place that a path names, None if nothing is served there."""
    steps = path.strip("/").split("/")
    if steps[:2] == ["api", "v1"]:
        return _place("", "v1", steps[2:])
    if steps[0] == "apis" and len(steps) > 3:
        return _place(steps[1], steps[2], steps[3:])
    return None


def _place(group: str, version: str, steps: list[str]) -> Place | None:
    namespace = ""
    if len(steps) > 2 and steps[0] == "namespaces" and steps[2] not in {"status", "finalize"}:
        namespace, steps = steps[1], steps[2:]
    if steps == ["bindings"] and namespace:
        return Place(kinds.PODS, namespace, "", "binding")
    if steps[2:3] == ["proxy"]:  # what follows is a path of what is asked through it
        steps = steps[:3]
    kind = kinds.find(group, version, steps[0]) if steps and len(steps) <= 3 else None
    if kind is None or (kind.namespaced is not bool(namespace) and (namespace or len(steps) > 1)):
        return None
    name, subresource = [*steps[1:], "", ""][:2]
    return Place(kind, namespace, name, subresource)
