"""The ``executor_config`` of Airflow 1 and 2, from the DAG's file to the pod."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.examples import Run
from tests.fixtures.podwatch import watched_pods
from tests.fixtures.stack import RunningStack, wait_until

DAG = "airflow_2_config"


@pytest.fixture(scope="module")
def ran(stack: RunningStack) -> Iterator[tuple[Run, list[dict[str, Any]]]]:
    """A finished run, and the pods that it had."""
    stack.wait_healthy()
    with watched_pods(stack.kubeconfig, stack.namespace) as pods:
        run_id = stack.trigger(DAG)
        states = stack.wait_run(DAG, run_id)
        wait_until(lambda: bool(pods.of_run(run_id)), 30, lambda: str(pods.pods))
        yield Run(stack, DAG, run_id, states), list(pods.of_run(run_id).values())


def test_the_dictionary_makes_the_pod_that_it_made(ran: tuple[Run, list[dict[str, Any]]]) -> None:
    run, pods = ran
    assert run.states["understood"] == "success"
    assert run.result("understood") == "hello from Airflow 2"
    [pod] = pods
    base, metadata = pod["spec"]["containers"][0], pod["metadata"]
    assert (metadata["labels"]["team"], metadata["annotations"]["test"]) == ("billing", "annotation")
    assert base["resources"] == {"requests": {"memory": "64Mi"}}
    assert {"name": "scratch", "mountPath": "/scratch"} in base["volumeMounts"]
    assert {"key": "dedicated", "operator": "Equal", "value": "airflow"} in pod["spec"]["tolerations"]


def test_it_is_said_once_what_to_write_instead(ran: tuple[Run, list[dict[str, Any]]]) -> None:
    run, _ = ran
    said = [line for line in run.stack.log("scheduler").splitlines() if f"{DAG}.understood: " in line]
    assert len(said) == 1
    assert "'envs' is spec.containers[base].env" in said[0]


def test_a_key_that_cannot_be_translated_fails_its_attempt_by_name(
    ran: tuple[Run, list[dict[str, Any]]],
) -> None:
    run, _ = ran
    assert run.states["misspelt"] == "failed"
    [row] = run.submissions()["misspelt"]
    assert row.reason == "InvalidPod"
    assert "the key 'request_ram' can't be translated: is unknown" in row.message
