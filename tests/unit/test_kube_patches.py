"""Merge, JSON and strategic merge patches."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.standalone.api import patches
from hybrid_executor.standalone.api.patches import PatchError, json_patch, merge_patch, strategic_merge

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), DOCUMENTS, max_size=3)


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_applied_twice_does_what_it_did_once(target: Any, patch: Any) -> None:
    before = copy.deepcopy((target, patch))
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert (target, patch) == before


@given(OBJECTS, OBJECTS)
def test_a_json_patch_that_replaces_the_whole_makes_the_other_object(one: Any, other: Any) -> None:
    assert json_patch(one, [{"op": "replace", "path": "", "value": other}]) == other


@given(OBJECTS)
def test_an_empty_patch_changes_nothing(target: Any) -> None:
    assert json_patch(target, []) == target
    assert merge_patch(target, {}) == target
    assert strategic_merge(target, {}) == target


# The examples of RFC 7386, appendix A.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ([1], {"a": "b"}, {"a": "b"}),
    ],
)
def test_merge_patch_follows_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@pytest.mark.parametrize(
    ("target", "operation", "result"),
    [
        ({"a": [1, 3]}, {"op": "add", "path": "/a/1", "value": 2}, {"a": [1, 2, 3]}),
        ({"a": [1]}, {"op": "add", "path": "/a/-", "value": 2}, {"a": [1, 2]}),
        ({"a": [1, 2]}, {"op": "remove", "path": "/a/0"}, {"a": [2]}),
        ({"a": 1, "b": 2}, {"op": "move", "from": "/a", "path": "/b"}, {"b": 1}),
        ({"a": {"x": 1}}, {"op": "copy", "from": "/a", "path": "/b"}, {"a": {"x": 1}, "b": {"x": 1}}),
        ({"x/y": 1, "m~n": 2}, {"op": "remove", "path": "/m~0n"}, {"x/y": 1}),
        ({"a": 1}, {"op": "replace", "path": "/a", "value": None}, {"a": None}),
    ],
)
def test_json_patch_operations(target: Any, operation: Any, result: Any) -> None:
    assert json_patch(target, [operation]) == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/none"},
        {"op": "replace", "path": "/none", "value": 1},
        {"op": "add", "path": "/none/deep", "value": 1},
        {"op": "add", "path": "/list/9", "value": 1},
        {"op": "remove", "path": "/list/x"},
        {"op": "test", "path": "/list", "value": []},
        {"op": "remove", "path": ""},
        {"op": "add", "path": "/text/x", "value": 1},
    ],
)
def test_an_operation_that_does_not_fit_is_refused(operation: Any) -> None:
    with pytest.raises(PatchError) as refused:
        json_patch({"list": [1], "text": "t"}, [operation])
    assert not refused.value.malformed


@pytest.mark.parametrize(
    "operations",
    [{}, [1], [{"op": "add"}], [{"op": "grow", "path": "/a"}], [{"op": "add", "path": "/a"}],
     [{"op": "add", "path": "a", "value": 1}], [{"op": "copy", "path": "/a"}]],
)  # fmt: skip
def test_a_malformed_json_patch_is_told_apart(operations: Any) -> None:
    with pytest.raises(PatchError) as refused:
        json_patch({}, operations)
    assert refused.value.malformed


def containers(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "image": "old"} for name in names]


def test_a_strategic_patch_merges_containers_and_their_env_by_name() -> None:
    target = {"containers": [{"name": "a", "image": "old", "env": [{"name": "X", "value": "1"}]}]}
    patch = {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}, {"name": "b"}]}
    assert strategic_merge(target, patch) == {
        "containers": [
            {
                "name": "a",
                "image": "old",
                "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
            },
            {"name": "b"},
        ]
    }


def test_a_strategic_patch_deletes_replaces_and_orders() -> None:
    target = {"containers": containers("a", "b")}
    deleted = strategic_merge(target, {"containers": [{"name": "a", "$patch": "delete"}]})
    assert deleted == {"containers": containers("b")}
    replaced = strategic_merge(target, {"containers": [{"$patch": "replace"}, {"name": "c"}]})
    assert replaced == {"containers": [{"name": "c"}]}
    order = [{"name": "b"}, {"name": "a"}]
    assert strategic_merge(target, {"$setElementOrder/containers": order}) == {
        "containers": containers("b", "a")
    }
    assert strategic_merge({"a": 1, "b": 2}, {"$patch": "replace", "c": 3}) == {"c": 3}


def test_a_strategic_patch_treats_finalizers_as_a_set_and_commands_as_one_value() -> None:
    target = {"finalizers": ["x"], "command": ["a", "b"]}
    assert strategic_merge(target, {"finalizers": ["x", "y"], "command": ["c"]}) == {
        "finalizers": ["x", "y"],
        "command": ["c"],
    }
    assert strategic_merge(target, {"$deleteFromPrimitiveList/finalizers": ["x"]})["finalizers"] == []


def test_a_strategic_patch_retains_only_the_keys_that_it_names() -> None:
    target = {"emptyDir": {}, "name": "v"}
    patch = {"$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}
    assert strategic_merge(target, patch) == {"name": "v", "secret": {"secretName": "s"}}


def test_a_list_item_without_its_merge_key_is_refused() -> None:
    with pytest.raises(PatchError):
        strategic_merge({}, {"containers": [{"image": "x"}]})


@pytest.mark.parametrize("media_type", [patches.MERGE, patches.STRATEGIC])
def test_a_patch_that_is_no_object_is_malformed(media_type: str) -> None:
    with pytest.raises(PatchError) as refused:
        patches.apply(media_type, {}, [])
    assert refused.value.malformed
