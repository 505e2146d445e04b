"""A stock pod is known by the workload in its arguments; whatever a pod holds, reading it never fails."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.pods.stock import workload_id

ID = "019b0000-0000-7000-8000-000000000000"
PAYLOAD = json.dumps({"ti": {"id": ID, "dag_id": "etl"}, "token": "secret"})


def pod(*arguments: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": metadata, "spec": {"containers": [{"name": "base", "args": list(arguments)}]}}


def test_the_payload_in_the_arguments_names_the_task_instance() -> None:
    arguments = ("python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", PAYLOAD)
    assert workload_id(pod(*arguments)) == ID


def test_the_annotation_of_later_versions_goes_first() -> None:
    assert workload_id(pod("--json-string", PAYLOAD, annotations={"task_instance_id": "other"})) == "other"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--json-string",),
        ("--json-string", "no JSON"),
        ("--json-string", "[]"),
        ("--json-string", '{"ti": {"id": 7}}'),
        ("--json-string", '{"ti": null}'),
        ("--json-path", "/workload.json"),
    ],
)
def test_what_names_none_is_none(arguments: tuple[str, ...]) -> None:
    assert workload_id(pod(*arguments)) is None


@given(st.lists(st.text() | st.just("--json-string")), st.none() | st.lists(st.text()))
def test_any_arguments_can_be_read(arguments: list[str], command: list[str] | None) -> None:
    made = pod(*arguments)
    made["spec"]["containers"][0]["command"] = command
    assert workload_id(made) is None


@pytest.mark.parametrize(
    "spec", [{}, {"spec": None}, {"spec": {"containers": None}}, {"spec": {"containers": [{}]}}]
)
def test_a_pod_without_containers_names_none(spec: dict[str, Any]) -> None:
    assert workload_id({"metadata": {"annotations": None}, **spec}) is None
