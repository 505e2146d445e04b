"""Each way in which a message may come a second time, on a stock worker: the task's own code runs once.

What keeps it so is told in docs/explanation/guarantees.md: Airflow's Execution
API refuses a start, and the executor neither reuses a name nor believes a word
that is not of the task instance's present attempt. Executions are lines that
tasks write.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import redis
import sqlalchemy as sa

from tests.chaos.scene import Scene
from tests.fixtures.stack import wait_until

QUEUE = "default"


@dataclass
class Broker:
    """The queue of the stack's Valkey, into which a test may put what was there before."""

    scene: Scene
    client: "redis.Redis[bytes]"
    results: "redis.Redis[bytes]"

    @contextmanager
    def without_worker(self) -> Iterator[None]:
        """Messages stay in their queue."""
        self.scene.stack.kill("worker", hold=True)
        try:
            yield
        finally:
            self.scene.stack.restart("worker")
            self.scene.stack.wait_healthy(90)

    def caught(self) -> bytes:
        """The one message that waits."""
        wait_until(lambda: self.client.llen(QUEUE) == 1, 60, lambda: f"{self.client.llen(QUEUE)} messages")
        [message] = self.client.lrange(QUEUE, 0, -1)
        return bytes(message)

    def deliver(self, message: bytes) -> None:
        """Let the broker deliver it once more, before all others."""
        self.client.rpush(QUEUE, message)

    def wait_taken(self) -> None:
        """Wait until a worker has taken all there is and is through with what does not run."""
        wait_until(lambda: not self.client.llen(QUEUE), 60, lambda: "the message stays")

    def result(self, message: bytes) -> str | None:
        """What Celery stores under the message's id."""
        keys = list(self.results.scan_iter(f"*celery-task-meta-{name_of(message)}"))
        stored = self.results.get(keys[0]) if keys else None
        return str(json.loads(stored)["status"]) if stored else None

    def wait_result(self, message: bytes, status: str) -> None:
        wait_until(
            lambda: self.result(message) == status,
            60,
            lambda: f"it is {self.result(message)}: {self.scene.stack.log('worker')[-3000:]}",
        )


def name_of(message: bytes) -> str:
    """The Celery task id."""
    return str(json.loads(message)["headers"]["id"])


@pytest.fixture
def broker(scene: Scene) -> Iterator[Broker]:
    setup = scene.stack.stack.setup
    with (
        redis.Redis.from_url(setup.broker_url) as client,
        redis.Redis.from_url(setup.result_url) as results,
    ):
        yield Broker(scene, client, results)


def outcomes(scene: Scene, run_id: str) -> list[tuple[int, str]]:
    """Of all submissions of a run: number and outcome, in the order in which they were queued."""
    query = sa.text(
        "SELECT submission, outcome FROM hybrid_submission WHERE run_id = :run ORDER BY queued_at, submission"
    )
    with scene.stack.db.connect() as connection:
        return [(number, outcome) for number, outcome in connection.execute(query, {"run": run_id})]


def check(scene: Scene, dag_id: str, run_id: str, task: str, executions: int) -> None:
    """It ended well, was executed so often, nothing is left, and nobody was told of a failure."""
    assert scene.stack.wait_run(dag_id, run_id, 120) == {task: "success"}
    scene.check_nothing_is_left(60)
    assert scene.starts(run_id) == {task: executions}
    assert [event for _, _, event, _ in scene.event_log(run_id) if event == "failed"] == []


def test_a_duplicate_after_the_end_is_refused_and_fails_nothing_af58441(scene: Scene, broker: Broker) -> None:
    """Celery's Redis store keeps SUCCESS by itself; ``test_every_step`` has the store that lost it."""
    with broker.without_worker():
        run = scene.stack.trigger("one_light")
        message = broker.caught()
    check(scene, "one_light", run, "light", executions=1)
    broker.deliver(message)
    refused = f"[{name_of(message)}] raised unexpected"
    wait_until(lambda: refused in scene.stack.log("worker"), 60, lambda: "it was not refused")
    check(scene, "one_light", run, "light", executions=1)
    assert outcomes(scene, run) == [(1, "succeeded")]
    # And while the task is queued again: it has another id by then, which the old message does not name.
    with broker.without_worker():
        scene.clear_task("one_light", run, "light")
        broker.caught()
        broker.deliver(message)
    check(scene, "one_light", run, "light", executions=2)
    assert outcomes(scene, run) == [(1, "succeeded"), (1, "succeeded")]


def test_a_duplicate_of_a_running_task_is_turned_away_af58441(scene: Scene, broker: Broker) -> None:
    with broker.without_worker():
        run = scene.stack.trigger("endless_light")
        message = broker.caught()
    wait_until(lambda: scene.lives(run, 1), 60, lambda: "it does not run")
    broker.deliver(message)
    broker.wait_taken()
    wait_until(
        lambda: "already running elsewhere" in scene.stack.log("worker"), 60, lambda: "nobody turned it away"
    )
    assert scene.lives(run, 1)
    scene.let_go(run, 1)
    check(scene, "endless_light", run, "light", executions=1)
    assert outcomes(scene, run) == [(1, "succeeded")]


def test_a_message_that_was_lost_and_comes_back_beside_its_second_submission_runs_once(
    scene: Scene, broker: Broker
) -> None:
    with broker.without_worker():
        run = scene.stack.trigger("one_light")
        first = broker.caught()
        broker.client.delete(QUEUE)
        second = broker.caught()
        assert name_of(second) != name_of(first)
        broker.deliver(first)
    check(scene, "one_light", run, "light", executions=1)
    assert outcomes(scene, run) == [(1, "replaced"), (2, "succeeded")]


def test_an_older_attempts_message_that_starts_a_rescheduled_task_stands_for_the_newer_one(
    scene: Scene, broker: Broker
) -> None:
    """Reschedules, deferrals and requeues keep id and try, so Airflow can't tell the two messages apart."""
    with broker.without_worker():
        run = scene.stack.trigger("sensing")
        older = broker.caught()
    broker.wait_result(older, "SUCCESS")
    with broker.without_worker():
        newer = broker.caught()
        looked = scene.starts(run)["look"]
        assert name_of(newer) != name_of(older)
        scene.let_go(run, 1)
        broker.deliver(older)
    check(scene, "sensing", run, "look", executions=looked + 1)
    assert {outcome for _, outcome in outcomes(scene, run)} <= {"succeeded", "replaced"}
