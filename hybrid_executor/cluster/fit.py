"""Which node could hold a pod, now or ever, and what the nearest one lacks.

Looks at requests, ``nodeSelector``, taints, required node affinity and the labels
that topology rules go by. What else can make fewer nodes fit (other pods, the
volumes of claims) is not looked at, and said where a pod has it. So "no node could
ever hold it" is never said wrongly, and "this one could" is the scheduler's to confirm.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from hybrid_executor.cluster.affinity import ANYWHERE, Allowed, allowed
from hybrid_executor.cluster.quantity import about, parse_quantity

Manifest = Mapping[str, Any]
Resources = Mapping[str, Fraction]

#: The resource of which every pod takes one.
PODS = "pods"
_BINARY = ("memory", "ephemeral-storage", "hugepages-")
#: Taints that come and go with a node's health, or with a cordon.
_PASSING = "node.kubernetes.io/"
_REPELS = frozenset({"NoSchedule", "NoExecute"})
#: What a node can lack that is no resource: it is not there for others to give back.
FIXED = ("selector", "affinity", "topology", "taint")


@dataclass(frozen=True, slots=True)
class Need:
    """What a pod asks of a node. Hashable: pods of one template have the same."""

    requests: tuple[tuple[str, Fraction], ...]
    selector: tuple[tuple[str, str], ...] = ()
    #: (key, operator, value, effect) of each toleration; empty text where it is left out.
    tolerations: tuple[tuple[str, str, str, str], ...] = ()
    allowed: Allowed = ANYWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node, and what the pods bound to it ask for."""

    name: str
    allocatable: Resources
    labels: Mapping[str, str] = field(default_factory=dict)
    #: (key, value, effect), those that come and go left out.
    taints: tuple[tuple[str, str, str], ...] = ()
    requested: Resources = field(default_factory=dict)

    def free(self, resource: str) -> Fraction:
        return self.allocatable.get(resource, Fraction(0)) - self.requested.get(resource, Fraction(0))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a pod that waits."""

    #: Whether some node that is there could hold it, if it were empty.
    possible: bool
    #: The nearest node; None where there is none at all.
    node: str | None
    #: What it lacks: names of resources, or one of ``FIXED``; empty if there is room.
    lacking: tuple[str, ...]
    text: str


def requests(pod: Manifest) -> dict[str, Fraction]:
    """What the scheduler counts for a pod. Raises ``ValueError`` where a quantity is none.

    Its containers and sidecars together, or the init container that needs most
    beside the sidecars before it, if that is more; what is asked for the whole
    pod in their place; and its overhead.
    """
    spec = pod.get("spec") or {}
    running, peak = _sum(map(_of_container, spec.get("containers") or ())), dict[str, Fraction]()
    sidecars: dict[str, Fraction] = {}
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars = _sum([sidecars, _of_container(container)])
        else:
            peak = _largest(peak, _sum([sidecars, _of_container(container)]))
    counted = _largest(_sum([running, sidecars]), peak)
    counted |= _of_container(spec)
    return _sum([counted, _parsed(spec.get("overhead") or {}), {PODS: Fraction(1)}])


def need_of(pod: Manifest) -> Need:
    """Read a pod."""
    spec = pod.get("spec") or {}
    return Need(
        tuple(sorted((name, amount) for name, amount in requests(pod).items() if amount)),
        tuple(sorted((spec.get("nodeSelector") or {}).items())),
        tuple(sorted(map(_toleration, spec.get("tolerations") or ()))),
        allowed(spec),
    )


def _toleration(given: Manifest) -> tuple[str, str, str, str]:
    operator = given.get("operator") or "Equal"
    return given.get("key") or "", operator, given.get("value") or "", given.get("effect") or ""


def requested_by_node(pods: Iterable[Manifest]) -> dict[str, Resources]:
    """What the pods on each node ask for together; one that can't be read does not count."""
    found: dict[str, dict[str, Fraction]] = {}
    for pod in pods:
        if name := (pod.get("spec") or {}).get("nodeName"):
            try:
                found[name] = _sum([found.get(name, {}), requests(pod)])
            except ValueError:
                continue
    return dict(found)


def node_of(manifest: Manifest, requested: Resources | None = None) -> Node:
    """Read a node; ``requested`` is what the pods on it that have not ended ask for together."""
    meta, spec, status = manifest["metadata"], manifest.get("spec") or {}, manifest.get("status") or {}
    return Node(
        name=meta["name"],
        allocatable=_parsed(status.get("allocatable") or {}),
        labels=meta.get("labels") or {},
        taints=tuple(
            (taint["key"], taint.get("value") or "", taint["effect"])
            for taint in spec.get("taints") or ()
            if taint["effect"] in _REPELS and not taint["key"].startswith(_PASSING)
        ),
        requested=requested or {},
    )


def judge(need: Need, nodes: Sequence[Node], *, counted: bool) -> Verdict:
    """Why a pod waits; ``counted`` says whether the nodes' ``requested`` is known."""
    if not nodes:
        return Verdict(False, None, (), "the cluster has no node")
    able = [node for node in nodes if not lacks(need, node, node.allocatable)]
    if not able:
        nearest = min(nodes, key=lambda node: _distance(need, node, node.allocatable))
        lacking = lacks(need, nearest, nearest.allocatable)
        why = "; ".join(_in_words(need, nearest, name) for name in lacking)
        text = f"none of {_count(nodes)} could hold it, even empty; {nearest.name} comes nearest, but {why}"
        return Verdict(False, nearest.name, lacking, text)
    if not counted:
        return Verdict(True, able[0].name, (), f"{able[0].name} could hold it{_caveat(need)}")
    nearest = min(able, key=lambda node: _distance(need, node, _free(node)))
    lacking = lacks(need, nearest, _free(nearest))
    if not lacking:
        return Verdict(True, nearest.name, (), f"{nearest.name} has room for it{_caveat(need)}")
    why = "; ".join(_in_words(need, nearest, name, used=True) for name in lacking)
    text = f"{nearest.name} could hold it and is nearest, but {why}{_caveat(need)}"
    return Verdict(True, nearest.name, lacking, text)


def _caveat(need: Need) -> str:
    """What may rule a node out all the same."""
    unseen = need.allowed.unseen
    return f" (not looked at: {', '.join(unseen)})" if unseen else ""


def lacks(need: Need, node: Node, offered: Resources) -> tuple[str, ...]:
    """What keeps a pod from a node that offers so much."""
    found = [name for name, amount in need.requests if amount > offered.get(name, Fraction(0))]
    if any(node.labels.get(key) != value for key, value in need.selector):
        found.append("selector")
    if not need.allowed.matches(node.name, node.labels):
        found.append("affinity")
    if need.allowed.missing_key(node.labels) is not None:
        found.append("topology")
    if any(not _tolerates(need, taint) for taint in node.taints):
        found.append("taint")
    return tuple(found)


def _tolerates(need: Need, taint: tuple[str, str, str]) -> bool:
    key, value, effect = taint
    return any(
        (not wanted_key or wanted_key == key)
        and (operator == "Exists" or (bool(wanted_key) and wanted_value == value))
        and (not wanted_effect or wanted_effect == effect)
        for wanted_key, operator, wanted_value, wanted_effect in need.tolerations
    )


def _distance(need: Need, node: Node, offered: Resources) -> tuple[int, float, str]:
    """How far a node is from holding a pod: what can't be bought first, then the largest shortage."""
    lacking = lacks(need, node, offered)
    fixed = sum(name in FIXED for name in lacking)
    ratios = [
        float(amount / available) if (available := offered.get(name, Fraction(0))) > 0 else float("inf")
        for name, amount in need.requests
    ]
    return fixed, max(ratios, default=0.0), node.name


def _free(node: Node) -> Resources:
    return {name: node.free(name) for name in node.allocatable}


def _in_words(need: Need, node: Node, lacking: str, *, used: bool = False) -> str:
    if lacking == "selector":
        missing = next(f"{key}={value}" for key, value in need.selector if node.labels.get(key) != value)
        return f"lacks the label {missing}"
    if lacking == "affinity":
        return f"is not allowed by its node affinity ({need.allowed})"
    if lacking == "topology":
        return f"lacks the label {need.allowed.missing_key(node.labels)}, by which its topology rules go"
    if lacking == "taint":
        key, value, effect = next(taint for taint in node.taints if not _tolerates(need, taint))
        return f"has the taint {key}{f'={value}' if value else ''}:{effect}, which it does not tolerate"
    wanted = _amount(lacking, dict(need.requests)[lacking])
    has = _amount(lacking, node.allocatable.get(lacking, Fraction(0)))
    if not used:
        return f"has {has} {lacking} of the {wanted} that it asks for"
    taken = _amount(lacking, node.requested.get(lacking, Fraction(0)))
    return f"{taken} of its {has} {lacking} are taken by others, and it asks for {wanted}"


def _amount(resource: str, amount: Fraction) -> str:
    return about(amount) if resource.startswith(_BINARY) else f"{float(amount):g}"


def _count(nodes: Sequence[Node]) -> str:
    return "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"


def _of_container(container: Manifest) -> dict[str, Fraction]:
    """Limits stand for requests that are left out, as the API server fills them in."""
    resources = container.get("resources") or {}
    return _parsed({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _parsed(amounts: Mapping[str, Any]) -> dict[str, Fraction]:
    return {name: parse_quantity(amount) for name, amount in amounts.items()}


def _sum(parts: Iterable[Resources]) -> dict[str, Fraction]:
    total: dict[str, Fraction] = {}
    for part in parts:
        for name, amount in part.items():
            total[name] = total.get(name, Fraction(0)) + amount
    return total


def _largest(left: Resources, right: Resources) -> dict[str, Fraction]:
    none = Fraction(0)
    return {name: max(left.get(name, none), right.get(name, none)) for name in {*left, *right}}
