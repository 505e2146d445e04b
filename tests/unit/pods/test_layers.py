"""Each field of a pod belongs to the layer that set it last, and the YAML says so."""

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.pods.build import SEALED
from hybrid_executor.pods.layers import Layer, annotated, layers_of
from hybrid_executor.pods.template import field_name


def container(**fields: Any) -> dict[str, Any]:
    return {"name": "base", **fields}


def named(stages: list[Any]) -> dict[str, str]:
    return {field_name(path): str(layer) for path, layer in layers_of(stages, SEALED).items()}


def test_a_field_belongs_to_the_last_layer_that_changed_it() -> None:
    stages = [
        (Layer.TEMPLATE, {"spec": {"containers": [container(image="a", env=[{"name": "A", "value": "1"}])]}}),
        (Layer.EXECUTOR, {"spec": {"containers": [container(image="b", env=[{"name": "A", "value": "1"}])]}}),
        (
            Layer.POD_OVERRIDE,
            {"spec": {"containers": [container(image="b", env=[{"name": "A", "value": "2"}])]}},
        ),
    ]
    assert named(stages) == {
        "spec.containers[0].name": "template",
        "spec.containers[0].image": "executor",
        "spec.containers[0].env[0].name": "template",
        "spec.containers[0].env[0].value": "pod_override",
    }


def test_a_value_that_is_set_back_belongs_to_who_set_it_back() -> None:
    stages = [(layer, {"a": value}) for layer, value in zip(list(Layer)[:3], "xyx", strict=True)]
    assert named(stages) == {"a": str(list(Layer)[2])}


def test_an_item_put_in_front_takes_nothing_from_the_others() -> None:
    mount = {"name": "dags", "mountPath": "/dags"}
    before = {"spec": {"containers": [container(volumeMounts=[mount])], "tolerations": [{"key": "a"}]}}
    after = {
        "spec": {
            "containers": [
                {"name": "front", "volumeMounts": [mount]},
                container(volumeMounts=[{"name": "dags", "mountPath": "/new"}, mount]),
            ],
            "tolerations": [{"key": "b"}, {"key": "a"}],
        }
    }
    layers = named([(Layer.TEMPLATE, before), (Layer.POD_MUTATION_HOOK, after)])
    assert {field for field, layer in layers.items() if layer == "template"} == {
        "spec.containers[1].name",
        "spec.containers[1].volumeMounts[1].name",
        "spec.containers[1].volumeMounts[1].mountPath",
        "spec.tolerations[1].key",
    }


def test_a_second_item_of_the_same_name_is_another_one() -> None:
    one, two = {"name": "A", "value": "1"}, {"name": "A", "value": "2"}
    layers = named([(Layer.TEMPLATE, {"env": [one]}), (Layer.POD_OVERRIDE, {"env": [one, two]})])
    assert (layers["env[0].value"], layers["env[1].value"]) == ("template", "pod_override")


def test_what_is_sealed_belongs_to_the_seal_whoever_wrote_it_first() -> None:
    pod = {"metadata": {"name": "x"}, "spec": {"restartPolicy": "Never"}}
    assert set(named([(Layer.TEMPLATE, pod), (Layer.SEAL, pod)]).values()) == {"seal"}


def test_a_list_of_plain_values_is_one_field() -> None:
    pod = {"spec": {"containers": [container(args=["python", "-m"], command=[])]}}
    layers = layers_of([(Layer.EXECUTOR, pod)])
    assert [field_name(path) for path in layers] == [
        "spec.containers[0].name",
        "spec.containers[0].args",
        "spec.containers[0].command",
    ]
    lines = annotated(pod, layers).splitlines()
    assert [line.split() for line in lines if "#" in line] == [
        ["-", "name:", "base", "#", "executor"],
        ["args:", "#", "executor"],
        ["command:", "[]", "#", "executor"],
    ]


#: As Kubernetes allows them; and any value whatsoever.
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
texts = st.text(max_size=20) | st.sampled_from(["true", "1", "# no", "a: b", "a\n\nb", "\x85"])
manifests = st.dictionaries(
    keys,
    st.recursive(
        st.none() | st.booleans() | st.integers() | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=12,
    ),
    max_size=4,
)


@given(manifests, manifests)
def test_any_manifest_is_still_itself_with_its_comments(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    layers = layers_of([(Layer.TEMPLATE, before), (Layer.POD_OVERRIDE, after)])
    text = annotated(after, layers)
    assert yaml.safe_load(text) == after
    assert sum(line.endswith(("# template", "# pod_override")) for line in text.splitlines()) >= bool(layers)
