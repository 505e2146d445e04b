"""A pod's status becomes a phase and words for the person on call."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.model import start
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import LABEL_ATTEMPT, LABEL_OWNER, LABEL_SUBMISSION
from hybrid_executor.pods.diagnosis import PodPhase, observe

LABELS = {LABEL_ATTEMPT: "a-b", LABEL_SUBMISSION: "2", LABEL_OWNER: "42"}


def pod(phase: str, *, deleted: bool = False, node: str | None = "n1", **status: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "p", "namespace": "ns", "uid": "u", "labels": LABELS}
    if deleted:
        metadata["deletionTimestamp"] = "2026-11-21T10:00:00Z"
    containers = [{"name": "base", "resources": {"limits": {"memory": "536870912"}}}, {"name": "proxy"}]
    return {
        "metadata": metadata,
        "spec": {"nodeName": node, "containers": containers},
        "status": {"phase": phase, **status},
    }


def container(state: str, name: str = "base", **fields: Any) -> dict[str, Any]:
    return {"name": name, "state": {state: fields}}


def condition(kind: str, status: str, reason: str, message: str = "") -> list[dict[str, str]]:
    return [{"type": kind, "status": status, "reason": reason, "message": message}]


def test_a_view_names_submission_owner_and_node() -> None:
    view = observe(pod("Running", containerStatuses=[container("running")]))
    assert view.submission == SubmissionId("a-b", 2)
    assert (view.owner, view.node, view.namespace, view.name) == ("42", "n1", "ns", "p")
    assert (view.phase, view.started, view.waits, view.diagnosis) == (PodPhase.RUNNING, True, None, None)


def test_a_foreign_pod_has_no_submission() -> None:
    assert observe({"metadata": {"labels": {LABEL_ATTEMPT: "a"}}}).submission is None


WAITS = [
    (pod("Pending", node=None), Reason.POD_PENDING, "not bound"),
    (
        pod(
            "Pending",
            node=None,
            conditions=condition("PodScheduled", "False", "Unschedulable", "0/3 nodes: Insufficient cpu"),
        ),
        Reason.UNSCHEDULABLE,
        "Insufficient cpu",
    ),
    (
        pod("Pending", node=None, conditions=condition("PodScheduled", "False", "SchedulingGated")),
        Reason.POD_PENDING,
        "SchedulingGated",
    ),
    *(
        (pod("Pending", containerStatuses=[container("waiting", reason=why, message="m")]), reason, why)
        for why, reason in [
            ("ErrImagePull", Reason.IMAGE_PULL),
            ("ImagePullBackOff", Reason.IMAGE_PULL),
            ("InvalidImageName", Reason.IMAGE_PULL),
            ("ErrImageNeverPull", Reason.IMAGE_PULL),
            ("CreateContainerConfigError", Reason.CONTAINER_CONFIG),
            ("CreateContainerError", Reason.CONTAINER_CONFIG),
            ("RunContainerError", Reason.CONTAINER_CONFIG),
            ("ContainerCreating", Reason.POD_PENDING),
            ("PodInitializing", Reason.POD_PENDING),
        ]
    ),
    (
        pod(
            "Pending",
            initContainerStatuses=[
                container("waiting", "clone", reason="CrashLoopBackOff", message="back-off")
            ],
            containerStatuses=[container("waiting", reason="PodInitializing")],
        ),
        Reason.INIT_FAILED,
        "clone: CrashLoopBackOff",
    ),
    (
        pod(
            "Pending",
            containerStatuses=[
                container("running", "proxy"),
                container("waiting", reason="ImagePullBackOff"),
            ],
        ),
        Reason.IMAGE_PULL,
        "base",
    ),
    (pod("Unknown", containerStatuses=[container("running")]), Reason.NODE_LOST, "n1 has stopped"),
]


@pytest.mark.parametrize(("given_pod", "reason", "said"), WAITS)
def test_a_pod_that_does_not_run_says_why(given_pod: dict[str, Any], reason: Reason, said: str) -> None:
    view = observe(given_pod)
    assert not view.ended
    assert view.diagnosis is None
    assert view.waits is not None
    assert (view.waits.reason, said in view.waits.message) == (reason, True)


def ended(code: int, reason: str, message: str | None = None) -> list[dict[str, Any]]:
    return [container("terminated", exitCode=code, reason=reason, message=message)]


def disrupted(reason: str) -> dict[str, Any]:
    return pod("Failed", conditions=condition("DisruptionTarget", "True", reason, "because"))


FAILURES = [
    (pod("Failed", containerStatuses=ended(1, "Error")), Reason.ERROR, "exit code 1", 1),
    (pod("Failed", containerStatuses=ended(137, "OOMKilled")), Reason.OOM_KILLED, "limit of 512Mi", 137),
    (
        pod("Failed", containerStatuses=ended(128, "StartError", "no such file")),
        Reason.CONTAINER_CONFIG,
        "no such",
        128,
    ),
    (
        pod("Failed", containerStatuses=ended(127, "ContainerCannotRun")),
        Reason.CONTAINER_CONFIG,
        "started",
        127,
    ),
    (
        pod("Failed", containerStatuses=ended(137, "ContainerStatusUnknown")),
        Reason.NODE_LOST,
        "lost track",
        137,
    ),
    (
        pod("Failed", reason="Evicted", message="low on memory", containerStatuses=ended(137, "Error")),
        Reason.EVICTED,
        "low on memory",
        137,
    ),
    (pod("Failed", reason="DeadlineExceeded"), Reason.DEADLINE_EXCEEDED, "DeadlineExceeded", None),
    (pod("Failed", reason="NodeLost"), Reason.NODE_LOST, "NodeLost", None),
    (pod("Failed", reason="Terminated", message="node shutdown"), Reason.NODE_LOST, "node shutdown", None),
    (pod("Failed", reason="Preempting"), Reason.PREEMPTED, "Preempting", None),
    (
        pod("Failed", reason="OutOfcpu", message="m"),
        Reason.UNSCHEDULABLE,
        "refused by its node: OutOfcpu",
        None,
    ),
    (pod("Failed", reason="UnexpectedAdmissionError"), Reason.UNSCHEDULABLE, "refused by its node", None),
    (disrupted("PreemptionByScheduler"), Reason.PREEMPTED, "because", None),
    (disrupted("DeletionByTaintManager"), Reason.EVICTED, "because", None),
    (disrupted("EvictionByEvictionAPI"), Reason.EVICTED, "because", None),
    (disrupted("TerminationByKubelet"), Reason.EVICTED, "because", None),
    (disrupted("DeletionByPodGC"), Reason.NODE_LOST, "because", None),
    (
        pod("Failed", initContainerStatuses=[container("terminated", "clone", exitCode=2, reason="Error")]),
        Reason.INIT_FAILED,
        "init container clone: Error, exit code 2",
        2,
    ),
    (
        pod("Failed", deleted=True, containerStatuses=ended(137, "ContainerStatusUnknown")),
        Reason.POD_DELETED,
        "deleted",
        137,
    ),
    (pod("Running", deleted=True, containerStatuses=ended(143, "Error")), Reason.POD_DELETED, "deleted", 143),
    (pod("Running", deleted=True, containerStatuses=ended(1, "Error")), Reason.ERROR, "exit code 1", 1),
    (pod("Failed"), Reason.ERROR, "without a reason", None),
]


@pytest.mark.parametrize(("given_pod", "reason", "said", "code"), FAILURES)
def test_a_failed_pod_says_why(
    given_pod: dict[str, Any], reason: Reason, said: str, code: int | None
) -> None:
    view = observe(given_pod)
    assert view.phase is PodPhase.FAILED
    assert view.diagnosis is not None
    assert (view.diagnosis.reason, view.diagnosis.exit_code) == (reason, code)
    assert said in view.diagnosis.message


IN_VAIN = f"Airflow did not answer: ReadTimeout\n{start.to_line('10.1.2.3')}\n"


def test_a_pod_that_was_never_let_start_says_so_and_by_what_name_it_asked() -> None:
    view = observe(pod("Failed", containerStatuses=ended(start.EXIT_CODE, "Error", IN_VAIN)))
    assert view.asked_as == "10.1.2.3"
    assert view.diagnosis is not None
    assert view.diagnosis.reason is Reason.NOT_STARTED
    assert view.diagnosis.message == "the task was not started: Airflow did not answer: ReadTimeout"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (1, IN_VAIN),
        (start.EXIT_CODE, None),
        (start.EXIT_CODE, "the program's own exit code"),
        (start.EXIT_CODE, IN_VAIN[:-5]),
        (start.EXIT_CODE, start.MARK + "7"),
    ],
)
def test_neither_an_exit_code_nor_a_line_alone_says_that_a_task_never_started(
    code: int, message: str | None
) -> None:
    view = observe(pod("Failed", containerStatuses=ended(code, "Error", message)))
    assert view.asked_as is None
    assert view.diagnosis is not None
    assert view.diagnosis.reason is Reason.ERROR


@pytest.mark.parametrize("code", [0, 3])
def test_an_attempt_ends_with_its_main_container_though_a_sidecar_runs_on(code: int) -> None:
    statuses = [container("running", "proxy"), *ended(code, "Completed" if code == 0 else "Error")]
    view = observe(pod("Running", containerStatuses=statuses))
    assert view.phase is (PodPhase.FAILED if code else PodPhase.SUCCEEDED)
    assert view.ended
    assert view.is_outlived


def test_a_native_sidecar_is_ended_by_its_node_and_outlives_nothing() -> None:
    sidecar = [container("running", "proxy", restartPolicy="Always")]
    assert not observe(
        pod("Running", containerStatuses=ended(0, "Completed"), initContainerStatuses=sidecar)
    ).is_outlived
    still = [container("running"), container("running", "proxy")]
    assert not observe(pod("Running", containerStatuses=still)).is_outlived


def test_a_sidecar_that_fails_after_the_main_container_changes_nothing() -> None:
    statuses = [*ended(0, "Completed"), container("terminated", "proxy", exitCode=1)]
    view = observe(pod("Failed", containerStatuses=statuses))
    assert (view.phase, view.diagnosis) == (PodPhase.SUCCEEDED, None)


def test_a_pod_being_deleted_has_not_ended_while_its_process_lives() -> None:
    view = observe(pod("Running", deleted=True, containerStatuses=[container("running")]))
    assert (view.phase, view.ended, view.started) == (PodPhase.DELETING, False, True)
    assert view.diagnosis is not None
    assert view.diagnosis.reason is Reason.POD_DELETED


#: A pod of a killed node, as an API server 1.36 had it after the taint's eviction.
SILENT = {
    "conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-21T16:09:57Z"},
        {"type": "ContainersReady", "status": "True", "lastTransitionTime": "2026-11-21T16:09:53Z"},
        {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
        },
    ],
    "containerStatuses": [container("running", startedAt="2026-11-21T16:09:53Z")],
}


@pytest.mark.parametrize("phase", ["Running", "Failed"])
def test_a_pod_of_a_node_that_fell_silent_is_lost_and_not_evicted(phase: str) -> None:
    """While it lingers, and once it was collected."""
    view = observe(pod(phase, deleted=True, **SILENT))
    assert view.phase is (PodPhase.FAILED if phase == "Failed" else PodPhase.DELETING)
    assert view.diagnosis is not None
    assert view.diagnosis.reason is Reason.NODE_LOST
    assert "n1 fell silent" in view.diagnosis.message


def test_a_node_that_came_back_has_told_how_the_process_ended() -> None:
    back = {**SILENT, "containerStatuses": ended(137, "Error")}
    view = observe(pod("Failed", deleted=True, **back))
    assert view.diagnosis is not None
    assert (view.diagnosis.reason, view.diagnosis.exit_code) == (Reason.EVICTED, 137)


def test_a_process_that_could_not_be_started_never_started() -> None:
    assert not observe(pod("Failed", containerStatuses=ended(128, "StartError"))).started
    assert observe(pod("Failed", containerStatuses=ended(1, "Error"))).started
    assert not observe(pod("Failed", reason="OutOfcpu")).started


def test_what_is_deleted_before_it_has_a_container_never_started_though_its_node_calls_it_ended() -> None:
    never = ended(137, "ContainerStatusUnknown")
    assert not observe(pod("Failed", deleted=True, containerStatuses=never)).started
    lost = [{**never[0], "containerID": "containerd://1"}]
    assert observe(pod("Failed", deleted=True, containerStatuses=lost)).started


def test_a_renamed_main_container_is_still_found() -> None:
    renamed = pod("Running", containerStatuses=[container("terminated", "mine", exitCode=0)])
    renamed["spec"]["containers"] = [{"name": "mine"}, {"name": "proxy"}]
    assert observe(renamed).phase is PodPhase.SUCCEEDED


def test_a_long_message_is_cut_and_has_one_line() -> None:
    view = observe(pod("Failed", containerStatuses=ended(1, "Error", "line\n" * 500)))
    assert view.diagnosis is not None
    assert len(view.diagnosis.message) == 300
    assert "\n" not in view.diagnosis.message


states = st.fixed_dictionaries(
    {},
    optional={
        "running": st.just({}),
        "waiting": st.fixed_dictionaries({}, optional={"reason": st.sampled_from(["ErrImagePull", "X"])}),
        "terminated": st.fixed_dictionaries(
            {"exitCode": st.integers(0, 255)},
            optional={"reason": st.sampled_from(["OOMKilled", "Error", "StartError", "X"])},
        ),
    },
)
statuses = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["base", "proxy", "x"])}, optional={"state": states}),
    max_size=3,
)


@given(
    phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown", ""]),
    deleted=st.booleans(),
    status=st.fixed_dictionaries(
        {},
        optional={
            "containerStatuses": st.none() | statuses,
            "initContainerStatuses": st.none() | statuses,
            "reason": st.sampled_from(["Evicted", "OutOfpods", "Huh", ""]),
            "conditions": st.none() | st.just(condition("DisruptionTarget", "True", "Huh")),
        },
    ),
)
def test_every_pod_can_be_read(phase: str, deleted: bool, status: dict[str, Any]) -> None:
    view = observe(pod(phase, deleted=deleted, **status))
    failed = view.phase in (PodPhase.FAILED, PodPhase.DELETING)
    assert view.diagnosis is not None or not failed
    if view.diagnosis is not None and not failed:
        assert (view.phase, view.diagnosis.reason) == (PodPhase.SUCCEEDED, Reason.OOM_KILLED)
    assert view.waits is None or not view.ended
