"""A template is checked as a whole, with a line and a field for every problem."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.model.errors import ConfigError
from hybrid_executor.pods.template import MINIMAL_TEMPLATE, parse_template

GOOD = "kind: Pod\nspec:\n  containers:\n  - name: base\n"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_template(text, "pod.yaml")
    return list(caught.value.problems)


def test_a_document_is_a_fresh_copy_each_time() -> None:
    template = parse_template(GOOD, "pod.yaml")
    template.document()["spec"]["containers"].clear()
    assert template.document()["spec"]["containers"] == [{"name": "base"}]
    assert template.document()["apiVersion"] == "v1"


def test_the_minimal_template_is_valid() -> None:
    assert parse_template(MINIMAL_TEMPLATE, "minimal").document()["spec"]["restartPolicy"] == "Never"


def test_every_problem_is_named_at_once_with_line_and_field() -> None:
    text = (
        "kind: Deployment\n"
        "replicas: 3\n"
        "metadata:\n"
        "  labels: [a]\n"
        "spec:\n"
        "  volumes:\n"
        "  - emptyDir: {}\n"
        "  securityContext: {runAsUser: root, runAsNonRoot: 'yes'}\n"
        "  containers:\n"
        "  - name: proxy\n"
        "  - name: base\n"
        "    env: {A: 1}\n"
    )
    assert problems(text) == [
        "pod.yaml:8: spec.securityContext.runAsUser: must be a whole number, not 'root'",
        "pod.yaml:8: spec.securityContext.runAsNonRoot: must be true or false without quotes, not 'yes'",
        "pod.yaml:2: replicas: unknown; a Pod has apiVersion, kind, metadata, spec, status",
        "pod.yaml:1: kind: must be Pod, not 'Deployment'",
        "pod.yaml:4: metadata.labels: must be a mapping",
        "pod.yaml:7: spec.volumes[0]: must be a mapping with a name",
        "pod.yaml:12: spec.containers[1].env: must be a list",
        (
            "pod.yaml:11: spec.containers[1]: `base` must be the first container: "
            "pod_override is merged by position"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a pod template is a mapping"),
        ("- a\n", "a pod template is a mapping"),
        ("kind: [Pod\n", "not valid YAML"),
        (GOOD + "---\n" + GOOD, "not valid YAML"),
        ("a: &x [*x]\n", "not valid YAML"),
        ("a: !!python/object:os.system {}\n", "not valid YAML"),
        ("kind: Pod\n", "spec: must be a mapping with containers"),
        ("spec: {}\n", "needs a container named `base`"),
        ("spec: {containers: []}\n", "needs a container named `base`"),
        ("spec: {containers: {name: base}}\n", "spec.containers: must be a list"),
        ("spec: {containers: [{name: base}, {name: base}]}\n", "more than one container is named 'base'"),
        ("spec: {containers: [{name: base, env: [{value: a}]}]}\n", "env[0]: must be a mapping with a name"),
        ("metadata: 1\n" + GOOD, "metadata: must be a mapping"),
        ("metadata: {labels: {a: {b: c}}}\n" + GOOD, "metadata.labels.a: must be text"),
    ],
)
def test_a_bad_template_says_what_is_wrong(text: str, said: str) -> None:
    assert any(said in problem for problem in problems(text))


def test_merge_keys_and_anchors_keep_working() -> None:
    text = GOOD + "    <<: {image: a, tty: true}\n"
    assert parse_template(text, "x").document()["spec"]["containers"][0] == {
        "name": "base",
        "image": "a",
        "tty": True,
    }


yaml_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "kind",
                    "metadata",
                    "spec",
                    "containers",
                    "env",
                    "name",
                    "labels",
                    "volumes",
                    "runAsUser",
                    "tty",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def is_template_or_problems(text: str) -> bool:
    try:
        template = parse_template(text, "x")
    except ConfigError as error:
        return bool(error.problems)
    return bool(template.document()["spec"]["containers"][0]["name"] == "base")


@given(st.dictionaries(st.sampled_from(["kind", "metadata", "spec", "status"]), yaml_like))
def test_any_structure_is_a_template_or_a_list_of_problems(value: object) -> None:
    assert is_template_or_problems(yaml.safe_dump(value))


@given(st.text(max_size=60))
def test_any_text_is_a_template_or_a_list_of_problems(text: str) -> None:
    assert is_template_or_problems(text)
