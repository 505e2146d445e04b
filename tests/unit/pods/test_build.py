"""A pod is built from the template, the route's defaults and the scheduler's settings."""

import copy
import importlib.util
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.model.attempt import WorkloadKind
from hybrid_executor.model.errors import ConfigError, InvalidPod
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import ANNOTATION_FATAL_WAIT, LABEL_ATTEMPT, LABEL_OWNER, LABEL_SUBMISSION
from hybrid_executor.pods.build import build_pod, seal
from hybrid_executor.pods.overlay import defaults_problems, lay_over, with_defaults
from hybrid_executor.pods.template import parse_template
from hybrid_executor.pods.workload import FOLDER
from tests.fixtures.submissions import ATTEMPT_ID, SETTINGS, pod_submission

TEXT = """\
kind: Pod
metadata: {labels: {team: data}}
spec:
  restartPolicy: OnFailure
  tolerations: [{key: spot, operator: Exists}]
  containers:
  - name: base
    env:
    - {name: FIRST, value: "1"}
    - name: AIRFLOW__CORE__EXECUTOR
      valueFrom: {configMapKeyRef: {name: conf, key: executor}}
    - {name: LAST, value: $(AIRFLOW__CORE__EXECUTOR)}
    volumeMounts: [{name: dags, mountPath: /dags}]
    resources: {requests: {memory: 1Gi, cpu: "1"}}
  - {name: proxy, image: "proxy:1"}
  volumes: [{name: dags, emptyDir: {}}]
"""
TEMPLATE = parse_template(TEXT, "pod.yaml")


def build(defaults: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    template = TEMPLATE if defaults is None else with_defaults(TEMPLATE, defaults, "routes.yaml rule 1")
    return build_pod(pod_submission(), template, replace(SETTINGS, **settings))


def env(pod: dict[str, Any]) -> dict[str, Any]:
    return {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}


def test_the_schedulers_executor_string_takes_the_place_of_the_templates() -> None:
    names = list(env(build()))
    assert names == ["FIRST", "AIRFLOW__CORE__EXECUTOR", "LAST", "AIRFLOW_IS_K8S_EXECUTOR_POD"]
    assert env(build())["AIRFLOW__CORE__EXECUTOR"] == "hybrid_executor.HybridExecutor"


def test_the_operators_environment_goes_over_the_templates() -> None:
    values = env(build(env={"FIRST": "2", "NEW": "3", "AIRFLOW__CORE__EXECUTOR": "no"}))
    assert (values["FIRST"], values["NEW"]) == ("2", "3")
    assert values["AIRFLOW__CORE__EXECUTOR"] == "hybrid_executor.HybridExecutor"


def test_a_pod_bears_its_attempt_its_submission_and_its_owner() -> None:
    labels = build()["metadata"]["labels"]
    assert labels[LABEL_ATTEMPT] == ATTEMPT_ID
    assert labels[LABEL_SUBMISSION] == "1"
    assert labels[LABEL_OWNER] == "42"
    assert labels["team"] == "data"


def test_the_same_submission_gets_the_same_pod_and_the_next_one_another_name() -> None:
    second = build_pod(pod_submission(number=2), TEMPLATE, SETTINGS)
    assert build() == build()
    assert second["metadata"]["name"] != build()["metadata"]["name"]


def test_a_container_is_never_restarted_in_place() -> None:
    assert build()["spec"]["restartPolicy"] == "Never"


def test_pods_share_nothing_that_can_be_changed() -> None:
    first, before = build(), json.dumps(build())
    for container in first["spec"]["containers"]:
        container.clear()
    first["spec"]["volumes"].clear()
    first["metadata"]["labels"].clear()
    assert json.dumps(build()) == before


def test_only_tasks_run_in_pods() -> None:
    submission = pod_submission()
    attempt = replace(submission.attempt, address=None, kind=WorkloadKind.CALLBACK)
    with pytest.raises(InvalidPod, match="callback can't run in a pod"):
        build_pod(replace(submission, attempt=attempt), TEMPLATE, SETTINGS)


def test_sealing_undoes_what_would_lose_the_pod() -> None:
    robbed = {
        "metadata": {"name": "mine", "generateName": "x-", "namespace": None, "labels": {"a": "b"}},
        "spec": {"restartPolicy": "Always", "containers": [{"name": "base"}]},
    }
    sealed = seal(robbed, pod_submission(), SETTINGS)
    assert sealed["metadata"]["name"] == build()["metadata"]["name"]
    assert "generateName" not in sealed["metadata"]
    assert sealed["metadata"]["namespace"] == "airflow"
    assert sealed["metadata"]["labels"][LABEL_ATTEMPT] == ATTEMPT_ID
    assert sealed["metadata"]["labels"]["a"] == "b"
    assert sealed["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize(("watched", "fits"), [(None, True), ({"team-a"}, True), ({"team-b"}, False)])
def test_a_pod_goes_only_where_it_is_watched(watched: set[str] | None, fits: bool) -> None:
    settings = replace(SETTINGS, watched=None if watched is None else frozenset(watched))
    pod = {"metadata": {"namespace": "team-a"}, "spec": {"containers": [{"name": "base"}]}}
    if fits:
        assert seal(pod, pod_submission(), settings)["metadata"]["namespace"] == "team-a"
    else:
        with pytest.raises(InvalidPod, match=r"'team-a' is not watched"):
            seal(pod, pod_submission(), settings)


def test_pod_defaults_merge_as_a_strategic_merge_does() -> None:
    pod = build(
        {
            "metadata": {"labels": {"queue": "gpu"}},
            "spec": {
                "nodeSelector": {"gpu": True},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "volumes": [{"name": "dags", "configMap": {"name": "x"}}, {"name": "new", "emptyDir": {}}],
                "containers": [
                    {
                        "name": "base",
                        "env": [{"name": "FIRST", "value": 9}, {"name": "ADDED", "value": "a"}],
                        "volumeMounts": [{"name": "new", "mountPath": "/new"}],
                        "resources": {"requests": {"memory": "8Gi", "cpu": None}},
                    },
                    {"name": "third", "image": "third:1"},
                ],
            },
        }
    )
    base, spec = pod["spec"]["containers"][0], pod["spec"]
    assert [c["name"] for c in spec["containers"]] == ["base", "proxy", "third"]
    assert base["resources"] == {"requests": {"memory": "8Gi"}}
    assert [m["mountPath"] for m in base["volumeMounts"]] == ["/dags", "/new", FOLDER]
    assert env(pod)["FIRST"] == "9"
    assert env(pod)["ADDED"] == "a"
    assert spec["nodeSelector"] == {"gpu": "True"}
    assert [t["key"] for t in spec["tolerations"]] == ["spot", "gpu"]
    assert spec["volumes"][:2] == [
        {"name": "dags", "configMap": {"name": "x"}},
        {"name": "new", "emptyDir": {}},
    ]
    assert pod["metadata"]["labels"] | {"team": "data", "queue": "gpu"} == pod["metadata"]["labels"]


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ({"status": {}}, "status: unknown; pod_defaults have apiVersion, kind, metadata, spec"),
        ({"kind": "Job"}, "kind: must be Pod, not 'Job'"),
        ({"spec": []}, "spec: must be a mapping"),
        ({"spec": {"containers": {"name": "base"}}}, "spec.containers: must be a list"),
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.containers[0]: must be a mapping with name"),
        ({"spec": {"containers": [{"name": "base", "env": ["A=1"]}]}}, "env[0]: must be a mapping with name"),
        ({"spec": {"containers": None}}, "spec.containers: must not be removed"),
        ({"spec": {"initContainers": [{"name": "proxy"}]}}, "more than one container is named 'proxy'"),
        ({"spec": {"priority": "high"}}, "spec.priority: must be a whole number"),
    ],
)
def test_bad_pod_defaults_fail_by_field_and_rule(defaults: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(defaults)
    assert said in str(caught.value)
    assert "routes.yaml rule 1" in str(caught.value)


def test_a_label_or_a_node_selector_may_bear_the_name_of_a_list() -> None:
    names = {"env": "prod", "volumes": "many", "tolerations": "none"}
    pod = build({"kind": "Pod", "metadata": {"labels": names}, "spec": {"nodeSelector": names}})
    assert pod["metadata"]["labels"].items() >= names.items()
    assert pod["spec"]["nodeSelector"] == names


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
mappings = st.dictionaries(st.sampled_from("abc"), json_like, max_size=3)


@given(mappings, mappings)
def test_laying_over_changes_neither_side_and_says_the_same_twice(base: Any, over: Any) -> None:
    kept = copy.deepcopy((base, over))
    once = lay_over(base, over)
    assert (base, over) == kept
    assert lay_over(once, over) == once


manifests = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["spec", "metadata", "containers", "env", "name", "volumes", "ports"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["spec", "metadata", "kind"]), manifests, max_size=3))
def test_any_pod_defaults_build_a_pod_or_are_refused(defaults: dict[str, Any]) -> None:
    try:
        pod = build(defaults)
    except ConfigError:
        return
    assert not defaults_problems(defaults)
    assert pod["spec"]["containers"][0]["name"] == "base"


def test_where_pods_are_measured_each_has_the_entry_point_that_measures() -> None:
    pod = build_pod(pod_submission(), TEMPLATE, replace(SETTINGS, measure_pods=True))
    assert pod["spec"]["containers"][0]["args"][2] == "hybrid_executor.worker.task"


def test_a_route_that_forgives_deaths_has_its_own_entry_point_and_its_limit_on_the_pod() -> None:
    sent = pod_submission()
    route = replace(
        sent.attempt.route, retry_on=frozenset({Reason.EVICTED}), retry_limit=3, fatal_wait_s=90.0
    )
    forgiving = replace(sent, attempt=replace(sent.attempt, route=route))
    plain, ours = (build_pod(one, TEMPLATE, SETTINGS) for one in (sent, forgiving))
    assert plain["spec"]["containers"][0]["args"][2] == "airflow.sdk.execution_time.execute_workload"
    assert ours["spec"]["containers"][0]["args"][2] == "hybrid_executor.worker.task"
    assert importlib.util.find_spec(ours["spec"]["containers"][0]["args"][2])
    assert ours["metadata"]["annotations"][ANNOTATION_FATAL_WAIT] == "90"
    assert ANNOTATION_FATAL_WAIT not in plain["metadata"]["annotations"]
