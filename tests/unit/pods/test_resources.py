"""What a pod says of what its task asked for and took."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.model.resources import Resources, to_line
from hybrid_executor.naming import ANNOTATION_USED
from hybrid_executor.pods.diagnosis import observe

USED = Resources(cpu_peak_m=120, cpu_used_s=7.25, memory_peak_bytes=200 << 20)
ASKED = {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}


def pod(resources: Any = None, annotations: Any = None, **ended: Any) -> dict[str, Any]:
    containers = [{"name": "sidecar", "resources": {"requests": {"cpu": "4"}}}, {"name": "base"}]
    if resources is not None:
        containers[1]["resources"] = resources
    statuses = [{"name": "base", "state": {"terminated": {"exitCode": 0, **ended}}}] if ended else []
    return {
        "metadata": {"name": "p", "annotations": annotations},
        "spec": {"containers": containers},
        "status": {"phase": "Running", "containerStatuses": statuses},
    }


def test_the_requests_are_those_of_the_container_that_runs_the_task() -> None:
    assert observe(pod(ASKED)).resources == Resources(
        cpu_request_m=250, memory_request_bytes=256 << 20, memory_limit_bytes=512 << 20
    )


@pytest.mark.parametrize("before", ["", "loaded 7 tables\n", "no newline of its own\n\n"])
def test_the_line_behind_a_tasks_own_message_is_the_measurement(before: str) -> None:
    found = observe(pod(ASKED, message=before + to_line(USED) + "\n")).resources
    assert found == Resources(
        cpu_request_m=250,
        memory_request_bytes=256 << 20,
        memory_limit_bytes=512 << 20,
        cpu_peak_m=120,
        cpu_used_s=7.25,
        memory_peak_bytes=200 << 20,
    )


def test_the_last_line_counts_since_a_task_may_write_what_it_likes() -> None:
    forged = to_line(Resources(memory_peak_bytes=1))
    assert observe(pod(message=f"{forged}\n{to_line(USED)}\n")).resources == USED


def test_a_node_of_processes_tells_in_an_annotation() -> None:
    told = {ANNOTATION_USED + "base": to_line(USED), ANNOTATION_USED + "sidecar": to_line(Resources())}
    assert observe(pod(annotations=told)).resources == USED


def test_a_container_that_was_killed_for_memory_had_all_that_it_may_have() -> None:
    killed = observe(pod(ASKED, reason="OOMKilled", exitCode=137)).resources
    assert killed is not None
    assert killed.memory_peak_bytes == 512 << 20
    lived_on = observe(pod(ASKED, reason="OOMKilled", message=to_line(USED))).resources
    assert lived_on is not None
    assert (lived_on.memory_peak_bytes, lived_on.cpu_peak_m) == (512 << 20, 120)
    without_limit = observe(pod(reason="OOMKilled", message=to_line(USED))).resources
    assert without_limit == USED


def test_words_for_people_are_the_tasks_own() -> None:
    failed = observe(pod(message=f"disk full\n{to_line(USED)}", exitCode=3)).diagnosis
    assert failed is not None
    assert failed.message == "container base ended with exit code 3: disk full"
    silent = observe(pod(ASKED, message=to_line(USED), reason="OOMKilled")).diagnosis
    assert silent is not None
    assert silent.message.endswith("memory limit of 512Mi")


def test_where_nothing_is_said_nothing_is_known() -> None:
    assert observe(pod()).resources is None
    assert observe(pod({"requests": {"cpu": "lots", "memory": None}})).resources is None


@given(cpu=st.text(max_size=5) | st.integers(), memory=st.text(max_size=5) | st.integers() | st.just("9E"))
def test_whatever_is_asked_for_fits_its_column(cpu: Any, memory: Any) -> None:
    found = observe(pod({"requests": {"cpu": cpu, "memory": memory}})).resources or Resources()
    assert (found.cpu_request_m or 0) < 2**63
    assert (found.memory_request_bytes or 0) < 2**63
