"""A pod's workload: as a file from a Secret, for the one container that runs the task."""

import base64
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.pods.build import build_pod, seal
from hybrid_executor.pods.template import MINIMAL_TEMPLATE, parse_template
from hybrid_executor.pods.workload import FILE, FOLDER, PATH, VOLUME, mounts_workload, workload_secret
from tests.fixtures.submissions import SETTINGS, TOKEN, pod_submission

TEMPLATE = parse_template(MINIMAL_TEMPLATE, "the minimal template")
MOUNT = {"name": VOLUME, "mountPath": FOLDER, "readOnly": True}
THEIRS = {"name": "dags", "mountPath": "/dags"}


@dataclass
class Pod:
    namespace: str = "airflow"
    name: str = "etl-heavy-x-1"
    uid: str = "u"


def built(**settings: Any) -> dict[str, Any]:
    return build_pod(pod_submission(), TEMPLATE, replace(SETTINGS, **settings))


def test_the_manifest_of_a_pod_holds_nothing_of_its_workload() -> None:
    pod = built()
    assert TOKEN not in json.dumps(pod)
    [base] = pod["spec"]["containers"]
    assert base["args"][-2:] == ["--json-path", PATH]
    assert base["volumeMounts"] == [MOUNT]
    [volume] = pod["spec"]["volumes"]
    assert volume["secret"] == {"secretName": pod["metadata"]["name"], "defaultMode": 0o444}
    assert mounts_workload(pod)


def test_the_stock_way_is_an_argument_and_no_volume() -> None:
    pod = built(workload_secret=False)
    [base] = pod["spec"]["containers"]
    assert base["args"][-2:] == ["--json-string", pod_submission().payload]
    assert "volumes" not in pod["spec"]
    assert not mounts_workload(pod)


mounts = st.lists(st.sampled_from([MOUNT, THEIRS, {**MOUNT, "mountPath": "/elsewhere"}]), max_size=3)
containers = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["base", "renamed", "proxy"])}, optional={"volumeMounts": mounts}
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda container: container["name"],
)
volumes = st.lists(
    st.sampled_from([{"name": VOLUME, "emptyDir": {}}, {"name": "dags", "emptyDir": {}}]), max_size=3
)


@given(containers, st.lists(containers, max_size=1), volumes)
def test_whatever_a_hook_left_the_task_has_the_file_and_no_other_container(
    mains: list[dict[str, Any]], inits: list[list[dict[str, Any]]], kept: list[dict[str, Any]]
) -> None:
    pod = {"spec": {"containers": mains, "volumes": kept, **({"initContainers": inits[0]} if inits else {})}}
    theirs = [volume for volume in kept if volume["name"] != VOLUME]
    seal(pod, pod_submission(), SETTINGS)
    seal(pod, pod_submission(), SETTINGS)
    task = next((c for c in mains if c["name"] == "base"), mains[0])
    for container in (*mains, *(inits[0] if inits else ())):
        ours = [m for m in container.get("volumeMounts") or () if m["name"] == VOLUME]
        assert ours == ([MOUNT] if container is task else [])
    [ours] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == VOLUME]
    assert ours["secret"]["secretName"] == pod["metadata"]["name"]  # type: ignore[index]
    assert [volume for volume in pod["spec"]["volumes"] if volume["name"] != VOLUME] == theirs


def test_the_secret_belongs_to_the_pod_and_blocks_nothing() -> None:
    secret = workload_secret(Pod(), {"a": "b"}, "{}")
    assert secret["metadata"] == {
        "name": "etl-heavy-x-1",
        "namespace": "airflow",
        "labels": {"a": "b"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "etl-heavy-x-1", "uid": "u"}],
    }


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_the_file_is_read_in_every_locale(encoding: str) -> None:
    payload = json.dumps({"dag_id": "straße-\N{ROCKET}", "token": TOKEN}, ensure_ascii=False)
    held = base64.b64decode(workload_secret(Pod(), {}, payload)["data"][FILE])
    assert json.loads(held.decode(encoding)) == json.loads(payload)
