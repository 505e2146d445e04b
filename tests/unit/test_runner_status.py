"""What the API is told about a pod, given the states of its containers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.standalone.api.patches import strategic_merge
from hybrid_executor.standalone.runner.podstate import (
    ContainerState,
    PodState,
    Running,
    Terminated,
    Verdict,
    Waiting,
    initial,
    phase,
)
from hybrid_executor.standalone.runner.podstatus import qos_class, status

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def pod(*, mains: int = 1, inits: int = 0, sidecars: int = 0, before: Any = None) -> dict[str, Any]:
    spec = {
        "containers": [{"name": f"main{n}"} for n in range(mains)],
        "initContainers": [
            *({"name": f"init{n}"} for n in range(inits)),
            *({"name": f"side{n}", "restartPolicy": "Always"} for n in range(sidecars)),
        ],
    }
    return {"metadata": {"name": "p"}, "spec": spec, "status": before or {}}


def ended(code: int) -> ContainerState:
    return ContainerState(Terminated(code, "Error" if code else "Completed", NOW, NOW), finished=True)


def up() -> ContainerState:
    return ContainerState(Running(NOW))


def tell(manifest: dict[str, Any], state: PodState, now: datetime = NOW) -> None:
    """What an API server makes of a status that it is told."""
    manifest["status"] = strategic_merge(manifest["status"], status(manifest, state, now))


def with_states(manifest: dict[str, Any], **states: ContainerState) -> PodState:
    state = initial(manifest, "127.0.0.1")
    for name, container in states.items():
        state = state.with_container(name, container)
    return state


def test_a_pod_is_pending_until_every_container_has_started() -> None:
    manifest = pod(mains=2)
    assert phase(manifest, with_states(manifest, main0=up())) == "Pending"
    assert phase(manifest, with_states(manifest, main0=up(), main1=up())) == "Running"


def test_a_container_that_waits_for_its_restart_keeps_the_pod_running() -> None:
    manifest = pod()
    last = Terminated(1, "Error", NOW, NOW)
    waiting = ContainerState(Waiting("CrashLoopBackOff"), last=last, restarts=1)
    assert phase(manifest, with_states(manifest, main0=waiting)) == "Running"


@given(st.lists(st.integers(0, 255), min_size=1, max_size=4), st.integers(0, 255))
def test_a_pod_succeeds_only_if_all_its_containers_did_whatever_its_sidecar_did(
    codes: list[int], side: int
) -> None:
    manifest = pod(mains=len(codes), sidecars=1)
    states = {f"main{n}": ended(code) for n, code in enumerate(codes)}
    state = replace(with_states(manifest, side0=ended(side), **states), over=True)
    assert phase(manifest, state) == ("Failed" if any(codes) else "Succeeded")


def test_a_pod_that_is_over_before_a_container_ran_has_failed() -> None:
    manifest = pod(inits=1)
    state = replace(with_states(manifest, init0=ended(1)), over=True)
    shown = status(manifest, state, NOW)
    assert shown["phase"] == "Failed"
    assert shown["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}


def test_the_nodes_own_verdict_wins_and_shows_only_at_the_end() -> None:
    manifest = pod()
    verdict = Verdict("DeadlineExceeded", "too long")
    running = replace(with_states(manifest, main0=up()), verdict=verdict)
    assert phase(manifest, running) == "Running"
    assert "reason" not in status(manifest, running, NOW)
    over = replace(with_states(manifest, main0=ended(0)), verdict=verdict, over=True)
    shown = status(manifest, over, NOW)
    assert (shown["phase"], shown["reason"]) == ("Failed", "DeadlineExceeded")


def test_conditions_keep_their_time_until_they_change_and_others_are_left_alone() -> None:
    foreign = {"type": "Custom", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
    manifest = pod(before={"conditions": [foreign]})
    tell(manifest, with_states(manifest, main0=up()))
    tell(manifest, with_states(manifest, main0=ended(0)), NOW + timedelta(minutes=1))
    times = {c["type"]: c["lastTransitionTime"] for c in manifest["status"]["conditions"]}
    assert times["Custom"] == "2020-01-01T00:00:00Z"
    assert times["Initialized"] == "2026-11-21T12:00:00Z"
    assert times["Ready"] == "2026-11-21T12:01:00Z"


def test_conditions_name_the_containers_that_are_missing() -> None:
    manifest = pod(mains=2, inits=1)
    shown = status(manifest, with_states(manifest), NOW)
    messages = {c["type"]: c.get("message") for c in shown["conditions"]}
    assert messages["Initialized"] == "containers with incomplete status: [init0]"
    assert messages["Ready"] == "containers with unready status: [main0 main1]"


def test_every_condition_stands_once() -> None:
    manifest = pod()
    state = with_states(manifest, main0=up())
    for _ in range(3):
        tell(manifest, state)
    kinds = [condition["type"] for condition in manifest["status"]["conditions"]]
    assert len(kinds) == len(set(kinds))


def test_a_condition_that_others_set_meanwhile_is_not_taken_back() -> None:
    manifest = pod()
    said = status(manifest, with_states(manifest, main0=up()), NOW)
    disruption = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    after = strategic_merge({"conditions": [disruption]}, said)
    assert disruption in after["conditions"]


def test_a_reason_goes_with_the_condition_it_explained() -> None:
    manifest = pod()
    tell(manifest, with_states(manifest))
    tell(manifest, with_states(manifest, main0=up()))
    ready = next(c for c in manifest["status"]["conditions"] if c["type"] == "Ready")
    assert ready["status"] == "True"
    assert not {"reason", "message"} & set(ready)


def test_a_pod_is_ready_when_its_gates_are_open_too() -> None:
    manifest = pod()
    manifest["spec"]["readinessGates"] = [{"conditionType": "example.com/warm"}]
    tell(manifest, with_states(manifest, main0=up()))
    found = {c["type"]: c for c in manifest["status"]["conditions"]}
    assert (found["Ready"]["status"], found["ContainersReady"]["status"]) == ("False", "True")
    assert found["Ready"]["reason"] == "ReadinessGatesNotReady"
    manifest["status"]["conditions"].append({"type": "example.com/warm", "status": "True"})
    tell(manifest, with_states(manifest, main0=up()))
    found = {c["type"]: c for c in manifest["status"]["conditions"]}
    assert found["Ready"]["status"] == "True"


def test_the_class_that_the_server_has_set_is_left_as_it_is() -> None:
    manifest = pod(before={"qosClass": "Guaranteed"})
    assert status(manifest, with_states(manifest), NOW)["qosClass"] == "Guaranteed"


def test_a_status_says_which_generation_of_the_pod_it_is_about() -> None:
    manifest = pod()
    manifest["metadata"]["generation"] = 3
    said = status(manifest, with_states(manifest), NOW)
    assert {said["observedGeneration"], *(c["observedGeneration"] for c in said["conditions"])} == {3}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"limits": {"memory": "1Gi"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_the_quality_of_service_follows_the_resources(resources: Any, expected: str) -> None:
    manifest = {"spec": {"containers": [{"name": "a", "resources": resources}]}}
    assert qos_class(manifest) == expected
