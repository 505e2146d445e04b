"""Label and field selectors, paths and faces: what is read, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.standalone.api import paths, tables
from hybrid_executor.standalone.api.kinds import EVENTS, LEASES, NAMESPACES, NODES, PODS
from hybrid_executor.standalone.api.paths import Place
from hybrid_executor.standalone.api.selectors import Selection, SelectorError, parse_fields, parse_labels
from hybrid_executor.standalone.api.tables import Face

KEYS = st.sampled_from(["a", "b", "example.com/c"])
VALUES = st.sampled_from(["", "1", "x.y_z-0"])
LABELS = st.dictionaries(KEYS, VALUES)


@given(KEYS, VALUES, LABELS)
def test_equality_and_its_negation_divide_all_objects(key: str, value: str, labels: dict[str, str]) -> None:
    equal, unequal = (
        parse_labels(f"{key}={value}").matches(labels),
        parse_labels(f"{key}!={value}").matches(labels),
    )
    assert equal is not unequal
    assert equal is (labels.get(key) == value)


@given(KEYS, st.lists(VALUES, min_size=1), LABELS)
def test_in_and_notin_divide_all_objects(key: str, values: list[str], labels: dict[str, str]) -> None:
    text = f"({', '.join(values)})"
    among = parse_labels(f"{key} in {text}").matches(labels)
    assert among is not parse_labels(f"{key} notin {text}").matches(labels)
    assert among is (labels.get(key) in values)


@given(KEYS, KEYS, LABELS)
def test_requirements_are_joined_by_and(one: str, other: str, labels: dict[str, str]) -> None:
    selector = parse_labels(f"{one}, !{other}")
    assert selector.matches(labels) is (one in labels and other not in labels)


@pytest.mark.parametrize(
    ("text", "labels", "selected"),
    [("n>3", {"n": "4"}, True), ("n<3", {"n": "4"}, False), ("n>3", {"n": "x"}, False), ("n>3", {}, False)],
)
def test_numbers_are_compared(text: str, labels: dict[str, str], selected: bool) -> None:
    assert parse_labels(text).matches(labels) is selected


@pytest.mark.parametrize(
    "text", ["a in b", "a in (b", "=x", "a=b=c", "a b", "a,,b", "a in (!)", "-a", "a=" + "x" * 64]
)
def test_a_malformed_label_selector_is_refused(text: str) -> None:
    with pytest.raises(SelectorError):
        parse_labels(text)


@pytest.mark.parametrize("text", ["spec.colour=red", "metadata.name", "=x", "status.phase>1"])
def test_a_malformed_or_unknown_field_is_refused(text: str) -> None:
    with pytest.raises(SelectorError):
        parse_fields(text, "pods")


def test_unset_fields_are_empty_or_false() -> None:
    body = {"metadata": {"name": "x"}, "spec": {}}
    assert parse_fields("spec.nodeName=", "pods").matches(body)
    assert parse_fields("spec.hostNetwork=false", "pods").matches(body)
    assert parse_fields("spec.unschedulable!=true", "nodes").matches(body)


def test_a_namespace_bounds_a_selection() -> None:
    body = {"metadata": {"name": "x", "namespace": "a"}}
    assert Selection("a").matches(body)
    assert not Selection("b").matches(body)
    assert Selection().matches(body)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/api/v1/pods", Place(PODS)),
        ("/api/v1/namespaces/n/pods", Place(PODS, "n")),
        ("/api/v1/namespaces/n/pods/p/status", Place(PODS, "n", "p", "status")),
        ("/api/v1/namespaces/n/pods/p/proxy/a/b", Place(PODS, "n", "p", "proxy")),
        ("/api/v1/namespaces/n/bindings", Place(PODS, "n", "", "binding")),
        ("/api/v1/namespaces", Place(NAMESPACES)),
        ("/api/v1/namespaces/n", Place(NAMESPACES, "", "n")),
        ("/api/v1/namespaces/n/status", Place(NAMESPACES, "", "n", "status")),
        ("/api/v1/namespaces/n/events", Place(EVENTS, "n")),
        ("/api/v1/nodes/n1", Place(NODES, "", "n1")),
        ("/apis/coordination.k8s.io/v1/namespaces/n/leases/l", Place(LEASES, "n", "l")),
    ],
)
def test_a_path_names_a_place(path: str, place: Place) -> None:
    assert paths.parse(path) == place


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v1",
        "/api/v2/pods",
        "/api/v1/pods/p",
        "/api/v1/namespaces/n/nodes",
        "/api/v1/namespaces/n/things",
        "/apis/apps/v1/deployments",
        "/api/v1/namespaces/n/pods/p/status/a/b",
    ],
)
def test_a_path_that_names_nothing_is_none(path: str) -> None:
    assert paths.parse(path) is None


@pytest.mark.parametrize(
    ("accept", "face"),
    [
        ("", Face.WHOLE),
        ("*/*", Face.WHOLE),
        ("application/vnd.kubernetes.protobuf,application/json", Face.WHOLE),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Face.TABLE),
        ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", Face.WHOLE),
        ("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", Face.METADATA),
        ("application/vnd.kubernetes.protobuf", None),
    ],
)
def test_the_first_served_form_that_is_accepted_is_chosen(accept: str, face: Face | None) -> None:
    assert tables.choose(accept) is face
