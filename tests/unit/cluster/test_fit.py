"""What nodes offer against what pods ask for, in exact numbers."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.cluster.fit import (
    Need,
    Node,
    judge,
    lacks,
    need_of,
    node_of,
    requested_by_node,
    requests,
)

CPU, MEMORY, GPU = "cpu", "memory", "nvidia.com/gpu"
AMOUNTS = st.sampled_from(["0", "1m", "250m", "1", "1.5", "4", "2e1"])
SIZES = st.sampled_from(["0", "1Mi", "512Mi", "1G", "1Gi", "7.8Gi", "64Gi"])


def container(cpu: str | None = None, memory: str | None = None, **more: Any) -> dict[str, Any]:
    asked = {name: amount for name, amount in ((CPU, cpu), (MEMORY, memory)) if amount is not None}
    return {"name": "c", "resources": {"requests": asked}, **more}


CONTAINERS = st.lists(st.builds(container, AMOUNTS, SIZES), min_size=1, max_size=3)
INITS = st.lists(
    st.builds(container, AMOUNTS, SIZES, restartPolicy=st.sampled_from(["Always", None])), max_size=4
)


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": list(containers), **spec}}


def node(name: str = "n", cpu: str = "4", memory: str = "8Gi", **more: Any) -> Node:
    spec = {key: more.pop(key) for key in ("taints",) if key in more}
    offered = {CPU: cpu, MEMORY: memory, "pods": "110", **more.pop("offered", {})}
    manifest = {
        "metadata": {"name": name, "labels": more.pop("labels", {})},
        "spec": spec,
        "status": {"allocatable": offered},
    }
    return node_of(manifest, **more)


class TestRequests:
    @given(CONTAINERS, INITS)
    def test_they_cover_every_moment_of_the_pods_life(
        self, containers: list[dict[str, Any]], inits: list[dict[str, Any]]
    ) -> None:
        """The kubelet starts sidecars in their order, each init container beside those before it."""
        counted = requests(pod(*containers, initContainers=inits))
        moments, sidecars = [], []
        for init in inits:
            moments.append([*sidecars, init])
            if init["restartPolicy"] == "Always":
                sidecars.append(init)
        moments.append([*sidecars, *containers])
        for name in (CPU, MEMORY):
            needed = [sum(requests(pod(part))[name] for part in moment) for moment in moments]
            assert counted[name] == max(needed)

    def test_what_the_whole_pod_asks_for_goes_before_its_containers(self) -> None:
        asked = pod(container("1", "1Gi"), resources={"requests": {CPU: "3"}}, overhead={CPU: "100m"})
        assert requests(asked) == {CPU: Fraction(31, 10), MEMORY: 2**30, "pods": 1}

    def test_a_limit_stands_for_a_request_that_is_left_out(self) -> None:
        given_ = {"resources": {"limits": {CPU: "2", GPU: "1"}, "requests": {CPU: "1"}}}
        assert requests(pod(given_)) == {CPU: 1, GPU: 1, "pods": 1}

    def test_those_on_a_node_are_added_up_and_what_can_not_be_read_is_left_out(self) -> None:
        on = {"nodeName": "a"}
        pods = [pod(container("1"), **on), pod(container("500m"), **on), pod(container("2")), pod(**on)]
        pods.append(pod(container("many"), **on))
        assert requested_by_node(pods) == {"a": {CPU: Fraction(3, 2), "pods": 3}}


class TestFit:
    @given(AMOUNTS, SIZES, AMOUNTS, SIZES)
    def test_a_pod_fits_exactly_where_nothing_it_asks_for_is_more_than_there_is(
        self, cpu: str, memory: str, has_cpu: str, has_memory: str
    ) -> None:
        need, there = need_of(pod(container(cpu, memory))), node(cpu=has_cpu, memory=has_memory)
        asked = dict(need.requests)
        fits = all(asked[name] <= there.allocatable[name] for name in asked)
        assert (lacks(need, there, there.allocatable) == ()) is fits
        assert judge(need, [there], counted=False).possible is fits

    @given(st.lists(st.builds(node, st.uuids().map(str), AMOUNTS, SIZES), max_size=5), AMOUNTS, SIZES)
    def test_one_more_node_never_makes_a_pod_impossible(
        self, nodes: list[Node], cpu: str, memory: str
    ) -> None:
        need = need_of(pod(container(cpu, memory)))
        more = [*nodes, node("huge", "1000", "1000Gi")]
        assert judge(need, more, counted=False).possible
        if judge(need, nodes, counted=True).possible:
            assert judge(need, more, counted=True).possible

    @pytest.mark.parametrize(
        ("tolerations", "fits"),
        [
            ([], False),
            ([{"key": "gpu", "operator": "Exists"}], True),
            ([{"key": "gpu", "value": "yes"}], True),
            ([{"key": "gpu", "value": "no"}], False),
            ([{"operator": "Exists"}], True),
            ([{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}], False),
            ([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}], True),
        ],
    )
    def test_a_taint_repels_who_does_not_tolerate_it(
        self, tolerations: list[dict[str, str]], fits: bool
    ) -> None:
        tainted = node(taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
        assert judge(need_of(pod(tolerations=tolerations)), [tainted], counted=False).possible is fits

    @pytest.mark.parametrize("key", ["node.kubernetes.io/not-ready", "node.kubernetes.io/unschedulable"])
    def test_a_taint_that_passes_makes_nothing_impossible(self, key: str) -> None:
        assert judge(Need(()), [node(taints=[{"key": key, "effect": "NoSchedule"}])], counted=False).possible

    def test_a_preference_is_no_taint(self) -> None:
        soft = node(taints=[{"key": "x", "effect": "PreferNoSchedule"}])
        assert judge(Need(()), [soft], counted=False).possible


class TestWords:
    def test_the_nearest_node_and_what_it_lacks_are_named(self) -> None:
        nodes = [
            node("small", "64", "4Gi"),
            node("large", "4", "60Gi"),
            node("gone", "64", "1Ti", taints=TAINT),
        ]
        verdict = judge(need_of(pod(container("2", "64Gi"))), nodes, counted=True)
        assert (verdict.possible, verdict.node, verdict.lacking) == (False, "large", ("memory",))
        assert verdict.text == (
            "none of 3 nodes could hold it, even empty; large comes nearest, but has 60Gi memory of the 64Gi"
            " that it asks for"
        )

    def test_a_resource_that_no_node_has_is_named(self) -> None:
        asked = pod({"resources": {"limits": {GPU: "2"}}})
        assert judge(need_of(asked), [node()], counted=False).text == (
            "none of 1 node could hold it, even empty; n comes nearest, but has 0 nvidia.com/gpu of the 2"
            " that it asks for"
        )

    def test_a_label_and_a_taint_are_named(self) -> None:
        verdict = judge(need_of(pod(nodeSelector={"disk": "fast"})), [node(taints=TAINT)], counted=False)
        assert "lacks the label disk=fast; has the taint team=b:NoSchedule, which it does not" in verdict.text

    def test_what_is_taken_by_others_is_named(self) -> None:
        full = node("full", requested={CPU: Fraction(7, 2)})
        fuller = node("fuller", requested={CPU: Fraction(4)})
        verdict = judge(need_of(pod(container("1"))), [fuller, full], counted=True)
        assert verdict.possible
        assert verdict.lacking == (CPU,)
        assert verdict.text == (
            "full could hold it and is nearest, but 3.5 of its 4 cpu are taken by others, and it asks for 1"
        )

    def test_room_is_told_and_a_cluster_without_nodes_too(self) -> None:
        assert judge(Need(()), [node()], counted=True).text == "n has room for it"
        assert judge(Need(()), [], counted=True).text == "the cluster has no node"


TAINT = [{"key": "team", "value": "b", "effect": "NoSchedule"}]
