"""The mixed ETL on the whole stack, its heavy step in a container of the Airflow image on a real kubelet."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.airflow_pods import stack_with_images
from tests.cluster.kubelet import images, layers
from tests.cluster.kubelet.node import KubeletNode
from tests.e2e.examples import Run, Sums, write_rows
from tests.fixtures.podwatch import watched_pods
from tests.fixtures.stack import wait_until

pytestmark = pytest.mark.timeout(900)


class Etl:
    """One finished run, its pod as it was last, and what must come of the test's own file."""

    def __init__(self, run: Run, pods: dict[str, dict[str, Any]], sums: Sums) -> None:
        self.run, self.pods, self.sums = run, pods, sums


@pytest.fixture(scope="module")
def etl(session_kubelet: KubeletNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etl]:
    session_kubelet.heal()
    with stack_with_images(session_kubelet, tmp_path_factory.mktemp("image-stack")) as stack:
        csv = stack.stack.setup.data / "rows.csv"
        sums = write_rows(csv)
        with watched_pods(stack.kubeconfig, stack.namespace) as pods:
            run_id = stack.trigger("mixed_etl", {"path": str(csv)})
            run = Run(stack, "mixed_etl", run_id, stack.wait_run("mixed_etl", run_id, 400))
            assert set(run.states.values()) == {"success"}, f"{run.states} {pods.pods}"
            wait_until(
                lambda: bool(pods.pods) and pods.pods.keys() == pods.deleted,
                60,
                lambda: f"not deleted: {pods.pods.keys() - pods.deleted}",
            )
            yield Etl(run, pods.of_run(run_id), sums)


def test_every_task_succeeds_where_its_queue_says(etl: Etl) -> None:
    tasks = {"extract": "celery", "aggregate": "kubernetes", "report": "celery"}
    assert etl.run.states == dict.fromkeys(tasks, "success")
    submissions = etl.run.submissions()
    assert {task: [row.backend for row in rows] for task, rows in submissions.items()} == {
        task: [backend] for task, backend in tasks.items()
    }


def test_the_heavy_step_finds_the_sum_that_the_test_wrote(etl: Etl) -> None:
    found, sums = etl.run.result("aggregate"), etl.sums
    assert [found[name] for name in ("rows", "keys", "total", "median")] == [
        sums.rows, sums.keys, sums.total, sums.median,
    ]  # fmt: skip
    assert f"total {sums.total:,}" in etl.run.result("report")


def test_its_pod_was_a_container_of_the_image_on_the_node(etl: Etl, session_kubelet: KubeletNode) -> None:
    [pod] = etl.pods.values()
    assert pod["spec"]["nodeName"] == session_kubelet.name
    [status] = pod["status"]["containerStatuses"]
    assert status["image"] == images.AIRFLOW
    assert status["containerID"].startswith("containerd://")
    assert status["state"]["terminated"]["exitCode"] == 0
    assert pod["status"]["podIP"] in map(str, session_kubelet.place.number.network)


def test_its_log_was_written_by_the_user_of_the_image_and_is_shown(etl: Etl) -> None:
    assert "rows of" in etl.run.log("aggregate")
    logs = etl.run.stack.stack.setup.state / "task-logs"
    [written] = logs.glob("**/task_id=aggregate/attempt=1.log")
    assert written.stat().st_uid == layers.AIRFLOW_USER
