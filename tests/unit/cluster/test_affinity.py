"""Which nodes a pod allows, by their labels and names."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.cluster.affinity import Expression, allowed
from hybrid_executor.cluster.fit import Node, judge, lacks, need_of, node_of
from hybrid_executor.standalone.api.selectors import parse_labels

ZONE = "topology.kubernetes.io/zone"
KEYS = st.sampled_from(["zone", "disk", "size"])
VALUES = st.sampled_from(["a", "b", "1", "10", "9"])
LABELS = st.dictionaries(KEYS, VALUES)
#: As a selector of the API writes each operator.
WRITTEN = {
    "In": "{key} in ({values})",
    "NotIn": "{key} notin ({values})",
    "Exists": "{key}",
    "DoesNotExist": "!{key}",
    "Gt": "{key}>{values}",
    "Lt": "{key}<{values}",
}


@st.composite
def expressions(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(sorted(WRITTEN)))
    if operator in ("Exists", "DoesNotExist"):
        return {"key": draw(KEYS), "operator": operator}
    if operator in ("Gt", "Lt"):
        values = [str(draw(st.integers(0, 12)))]
    else:
        values = draw(st.lists(VALUES, min_size=1, max_size=3, unique=True))
    return {"key": draw(KEYS), "operator": operator, "values": values}


TERMS = st.lists(st.lists(expressions(), max_size=3), min_size=1, max_size=3)


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    rule = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": rule}}


def beside(kind: str, key: str = ZONE) -> dict[str, Any]:
    """To run where pods of a kind do, or where they don't."""
    rule = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": "x"}}}
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [rule]}}}


def spread(when: str = "DoNotSchedule", key: str = ZONE) -> dict[str, Any]:
    return {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when}]}


def pod(**spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "c"}], **spec}}


def node(name: str = "n", **labels: str) -> Node:
    status = {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}
    return node_of({"metadata": {"name": name, "labels": labels}, "spec": {}, "status": status})


NODES = st.lists(
    st.builds(lambda name, labels: node(name, **labels), st.uuids().map(str), LABELS), max_size=4
)


class TestNodeAffinity:
    @given(expressions(), LABELS)
    def test_an_expression_selects_what_a_selector_of_the_api_selects(
        self, given_: dict[str, Any], labels: dict[str, str]
    ) -> None:
        """The two were written apart: one reads a manifest, the other a query."""
        values = ",".join(given_.get("values", ()))
        selector = parse_labels(WRITTEN[given_["operator"]].format(key=given_["key"], values=values))
        expression = Expression(given_["key"], given_["operator"], tuple(given_.get("values", ())))
        assert expression.matches("n", labels) is selector.matches(labels)

    @given(TERMS, LABELS)
    def test_one_term_must_match_as_a_whole_and_an_empty_one_matches_nothing(
        self, terms: list[list[dict[str, Any]]], labels: dict[str, str]
    ) -> None:
        allows = allowed(required(*({"matchExpressions": term} for term in terms)))
        alone = [allowed(required({"matchExpressions": [one]})) for term in terms for one in term]
        matched = iter([one.matches("n", labels) for one in alone])
        found = [[next(matched) for _ in term] for term in terms]
        assert allows.matches("n", labels) is any(bool(term) and all(term) for term in found)

    @pytest.mark.parametrize(
        ("operator", "fits"), [("In", ["left"]), ("NotIn", ["right"])], ids=["in", "not in"]
    )
    def test_a_node_may_be_named(self, operator: str, fits: list[str]) -> None:
        field = {"key": "metadata.name", "operator": operator, "values": ["left"]}
        need = need_of(pod(**required({"matchFields": [field]})))
        assert [n.name for n in (node("left"), node("right")) if not lacks(need, n, n.allocatable)] == fits

    def test_a_preference_and_an_operator_that_is_not_known_rule_nothing_out(self) -> None:
        soft = {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}
        preferred = {
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [soft]}}
        }
        unknown = required({"matchExpressions": [{"key": "zone", "operator": "Resembles", "values": ["a"]}]})
        for spec in (preferred, unknown):
            assert judge(need_of(pod(**spec)), [node()], counted=True).possible

    @given(TERMS, NODES)
    def test_a_node_that_matches_makes_any_affinity_possible_and_more_rules_make_none(
        self, terms: list[list[dict[str, Any]]], nodes: list[Node]
    ) -> None:
        spec = required(*({"matchExpressions": term} for term in terms))
        free, bound = need_of(pod()), need_of(pod(**spec))
        matching = [n for n in nodes if bound.allowed.matches(n.name, n.labels)]
        assert judge(bound, nodes, counted=True).possible is bool(matching)
        assert judge(free, nodes, counted=True).possible >= judge(bound, nodes, counted=True).possible

    def test_the_words_name_the_affinity(self) -> None:
        values = ["a", "b", "c", "d"]
        zones = {"matchExpressions": [{"key": "zone", "operator": "In", "values": values}]}
        disks = {
            "matchExpressions": [
                {"key": "disk", "operator": "Exists"},
                {"key": "size", "operator": "Gt", "values": ["9"]},
            ]
        }
        verdict = judge(need_of(pod(**required(zones, disks))), [node(zone="e")], counted=True)
        assert (verdict.possible, verdict.lacking) == (False, ("affinity",))
        assert verdict.text == (
            "none of 1 node could hold it, even empty; n comes nearest, but is not allowed by its node"
            " affinity (zone In a, b, c, … or disk Exists and size Gt 9)"
        )


class TestTopology:
    @pytest.mark.parametrize("spec", [spread(), beside("podAffinity")], ids=["spread", "affinity"])
    def test_a_node_without_the_label_is_no_place(self, spec: dict[str, Any]) -> None:
        need = need_of(pod(**spec))
        verdict = judge(need, [node()], counted=True)
        assert (verdict.possible, verdict.lacking) == (False, ("topology",))
        assert f"n comes nearest, but lacks the label {ZONE}, by which its topology rules go" in verdict.text
        assert judge(need, [node(), node("m", **{ZONE: "a"})], counted=True).node == "m"

    @pytest.mark.parametrize("spec", [spread("ScheduleAnyway"), beside("podAntiAffinity")])
    def test_a_soft_rule_and_an_aversion_need_no_label(self, spec: dict[str, Any]) -> None:
        assert judge(need_of(pod(**spec)), [node()], counted=True).possible


class TestWhatIsNotSeen:
    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            (
                {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]},
                "the volumes of its claims",
            ),
            (
                {"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {}}}]},
                "the volumes of its claims",
            ),
            (beside("podAffinity"), "its affinity to other pods"),
            (beside("podAntiAffinity"), "its affinity to other pods"),
            (spread(), "how its like are spread"),
            ({"containers": [{"name": "c", "ports": [{"hostPort": 80}]}]}, "its host ports"),
            ({"resourceClaims": [{"name": "gpu"}]}, "its devices"),
            ({"volumes": [{"name": "v", "emptyDir": {}}]}, ""),
            (spread("ScheduleAnyway"), ""),
        ],
    )
    @pytest.mark.parametrize("counted", [True, False])
    def test_a_claim_of_room_says_what_was_not_looked_at(
        self, spec: dict[str, Any], words: str, counted: bool
    ) -> None:
        verdict = judge(need_of(pod(**spec)), [node(**{ZONE: "a"})], counted=counted)
        assert verdict.possible
        assert verdict.text.partition(" (not looked at: ")[2].rstrip(")") == words

    def test_what_is_impossible_is_so_whatever_was_not_looked_at(self) -> None:
        spec = beside("podAffinity") | {"volumes": [{"name": "v", "persistentVolumeClaim": {}}]}
        assert "not looked at" not in judge(need_of(pod(**spec)), [node()], counted=True).text
