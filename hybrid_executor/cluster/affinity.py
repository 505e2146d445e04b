"""Which nodes a pod allows: its required node affinity, and the labels that its topology rules go by.

Pure. Reads what can be told of a node by its labels and name alone, and names what can't: a
claim's volume, other pods, host ports, devices. Of an operator that it does not know it
assumes that it matches, so that no node is ruled out wrongly. Called by ``fit``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Manifest = Mapping[str, Any]

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_INTEGER = re.compile(r"[+-]?[0-9]+")
#: So many values are shown of a list.
_SHOWN = 3


@dataclass(frozen=True, slots=True, order=True)
class Expression:
    """One condition on a label, or on the node's name."""

    key: str
    operator: str
    values: tuple[str, ...] = ()
    of_name: bool = False

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether a node meets it."""
        value = name if self.of_name else labels.get(self.key)
        if self.operator in ("Gt", "Lt"):
            return self._compares(value)
        if self.operator == "In":
            return value in self.values
        if self.operator == "NotIn":
            return value not in self.values
        if self.operator == "Exists":
            return value is not None
        return value is None if self.operator == "DoesNotExist" else True

    def _compares(self, value: str | None) -> bool:
        found, wanted = _integer(value), _integer(self.values[0] if self.values else None)
        if found is None or wanted is None:
            return False
        return found > wanted if self.operator == "Gt" else found < wanted

    def __str__(self) -> str:
        shown = ", ".join(self.values[:_SHOWN]) + (", …" if len(self.values) > _SHOWN else "")
        return f"{self.key} {self.operator} {shown}".rstrip()


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a pod demands of a node beside room. Hashable."""

    #: One of these must match as a whole; None: no node affinity is required.
    terms: tuple[tuple[Expression, ...], ...] | None = None
    #: Labels that a node must have, with any value.
    keys: tuple[str, ...] = ()
    #: What else decides and can't be told from nodes alone, in words.
    unseen: tuple[str, ...] = ()

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether the node affinity allows a node."""
        return self.terms is None or any(
            # A term without a condition matches nothing.
            bool(term) and all(expression.matches(name, labels) for expression in term)
            for term in self.terms
        )

    def missing_key(self, labels: Mapping[str, str]) -> str | None:
        """The first label that the topology rules go by and a node does not have."""
        return next((key for key in self.keys if key not in labels), None)

    def __str__(self) -> str:
        """The node affinity."""
        return " or ".join(" and ".join(map(str, term)) for term in self.terms or ())


#: Of a pod that demands nothing.
ANYWHERE = Allowed()


def allowed(spec: Manifest) -> Allowed:
    """Read the spec of a pod."""
    affinity = spec.get("affinity") or {}
    required = (affinity.get("nodeAffinity") or {}).get(_REQUIRED)
    return Allowed(
        terms=None if required is None else tuple(map(_term, required.get("nodeSelectorTerms") or ())),
        keys=tuple(sorted({*_spread_keys(spec), *_affinity_keys(affinity)})),
        unseen=tuple(_unseen(spec, affinity)),
    )


def _integer(text: str | None) -> int | None:
    return int(text) if text and _INTEGER.fullmatch(text) else None


def _term(given: Manifest) -> tuple[Expression, ...]:
    return tuple(
        Expression(one["key"], one["operator"], tuple(one.get("values") or ()), of_name)
        for field, of_name in (("matchExpressions", False), ("matchFields", True))
        for one in given.get(field) or ()
    )


def _spread_keys(spec: Manifest) -> Iterator[str]:
    """A node without the key of a hard constraint is no place for the pod."""
    for rule in spec.get("topologySpreadConstraints") or ():
        if rule.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule":
            yield rule["topologyKey"]


def _affinity_keys(affinity: Manifest) -> Iterator[str]:
    """Affinity to pods needs the key; with aversion, a node that lacks it is none of the others' places."""
    for rule in (affinity.get("podAffinity") or {}).get(_REQUIRED) or ():
        yield rule["topologyKey"]


def _unseen(spec: Manifest, affinity: Manifest) -> Iterator[str]:
    volumes = spec.get("volumes") or ()
    if any(volume.get("persistentVolumeClaim") or volume.get("ephemeral") for volume in volumes):
        yield "the volumes of its claims"
    if any((affinity.get(kind) or {}).get(_REQUIRED) for kind in ("podAffinity", "podAntiAffinity")):
        yield "its affinity to other pods"
    if any(True for _ in _spread_keys(spec)):
        yield "how its like are spread"
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    if any(port.get("hostPort") for container in containers for port in container.get("ports") or ()):
        yield "its host ports"
    if spec.get("resourceClaims"):
        yield "its devices"
