"""Label and field selectors: parsing, and matching of objects.

Pure. Whatever is malformed is a ``SelectorError`` whose text names the part;
``registry`` answers it with 400.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_KEY = r"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
_EXISTS = re.compile(rf"\s*(!?)\s*({_KEY})\s*")
_EQUALS = re.compile(rf"\s*({_KEY})\s*(==|=|!=)\s*({_VALUE})\s*")
_AMONG = re.compile(rf"\s*({_KEY})\s+(in|notin)\s*\(([^()]*)\)\s*")
_ORDERED = re.compile(rf"\s*({_KEY})\s*([<>])\s*(-?\d+)\s*")
_WHOLE_VALUE = re.compile(_VALUE)
#: Commas that do not stand between parentheses.
_SEPARATOR = re.compile(r",(?![^()]*\))")

Labels = Mapping[str, str]
Test = Callable[[Labels], bool]


class SelectorError(ValueError):
    """A selector that can't be read."""


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold. ``pinned`` are those of the form ``key=value``, for an index."""

    tests: tuple[Test, ...] = ()
    pinned: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tests)

    def matches(self, labels: Labels) -> bool:
        """Whether an object with these labels is selected."""
        return all(test(labels) for test in self.tests)


def parse_labels(text: str) -> LabelSelector:
    """Read ``a=1,b!=2,c in (x,y),d notin (z),e,!f,g>1``."""
    tests: list[Test] = []
    pinned: list[tuple[str, str]] = []
    for part in _SEPARATOR.split(text) if text.strip() else ():
        test, pin = _requirement(part)
        tests.append(test)
        pinned.extend(pin)
    return LabelSelector(tuple(tests), tuple(pinned))


def _requirement(part: str) -> tuple[Test, list[tuple[str, str]]]:
    if found := _EQUALS.fullmatch(part):
        key, operator, value = found.groups()
        if operator == "!=":
            return (lambda labels: labels.get(key) != value), []
        return (lambda labels: labels.get(key) == value), [(key, value)]
    if found := _AMONG.fullmatch(part):
        key, operator, values = found.groups()
        return _among(key, operator, _values(values, part)), []
    if found := _EXISTS.fullmatch(part):
        negation, key = found.groups()
        return (lambda labels: (key in labels) is not bool(negation)), []
    if found := _ORDERED.fullmatch(part):
        return _ordered(*found.groups()), []
    raise SelectorError(f"unable to parse requirement: found '{part.strip()}'")


def _values(text: str, part: str) -> frozenset[str]:
    values = frozenset(value.strip() for value in text.split(","))
    if wrong := sorted(value for value in values if not _WHOLE_VALUE.fullmatch(value)):
        raise SelectorError(f"unable to parse requirement: invalid value '{wrong[0]}' in '{part.strip()}'")
    return values


def _among(key: str, operator: str, values: frozenset[str]) -> Test:
    if operator == "in":
        return lambda labels: labels.get(key) in values
    return lambda labels: key not in labels or labels[key] not in values


def _ordered(key: str, operator: str, bound: str) -> Test:
    limit = int(bound)

    def test(labels: Labels) -> bool:
        try:
            value = int(labels[key])
        except (KeyError, ValueError):
            return False
        return value > limit if operator == ">" else value < limit

    return test


#: Fields by which a kind can be selected, besides name and namespace, as kube-apiserver has them.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
    "events": (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
}
_FALSE_WHEN_UNSET = frozenset({"spec.hostNetwork", "spec.unschedulable"})
_TERM = re.compile(r"\s*([\w./-]+)\s*(==|=|!=)\s*(.*?)\s*")


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All terms must hold. ``equal`` maps a field to the value that it must have."""

    terms: tuple[tuple[str, bool, str], ...] = ()
    equal: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.terms)

    def matches(self, body: Mapping[str, Any]) -> bool:
        """Whether the object is selected."""
        return all((_value_at(body, path) == value) is wanted for path, wanted, value in self.terms)


def parse_fields(text: str, plural: str) -> FieldSelector:
    """Read ``metadata.name=x,status.phase!=Running`` for one kind."""
    known = {"metadata.name", "metadata.namespace", *_FIELDS.get(plural, ())}
    terms: list[tuple[str, bool, str]] = []
    for part in text.split(",") if text.strip() else ():
        found = _TERM.fullmatch(part)
        if found is None:
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{part}'")
        path, operator, value = found.groups()
        if path not in known:
            raise SelectorError(f"field label not supported: {path}")
        terms.append((path, operator != "!=", value))
    return FieldSelector(tuple(terms), {path: value for path, wanted, value in terms if wanted})


def _value_at(body: Mapping[str, Any], path: str) -> str:
    value: Any = body
    for step in ("source.component" if path == "source" else path).split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if value is None:
        return "false" if path in _FALSE_WHEN_UNSET else ""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list or a watch asks for: a namespace (empty: all), labels and fields."""

    namespace: str = ""
    labels: LabelSelector = field(default_factory=LabelSelector)
    fields: FieldSelector = field(default_factory=FieldSelector)

    def matches(self, body: Mapping[str, Any]) -> bool:
        """Whether the object is selected."""
        metadata = body["metadata"]
        if self.namespace and metadata.get("namespace", "") != self.namespace:
            return False
        if self.labels and not self.labels.matches(metadata.get("labels") or {}):
            return False
        return not self.fields or self.fields.matches(body)
