"""Publish Celery workloads alone: no queueing, no ledger, no results."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from bench import airflow_side as side
from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.meter import Watch

FIGURE = Figure(
    name="publish",
    title="publish Celery workloads, alone",
    stocks={"stock": "CeleryExecutor"},
    cases=(
        Case("100", {"count": 100}, frozenset({Size.SMALL})),
        Case("1,000", {"count": 1000}),
        Case("1,000, 2 ms away", {"count": 1000}, delay_ms=2),
    ),
    readings=(
        Reading(name="wall", unit="ms each", target=Target(times=10)),
        Reading(name="cpu", unit="ms of processor each"),
        # The message, and the event that Flower hears of it.
        Reading(name="commands", unit="Redis commands each", counted=True, target=Target(at_most=2.5)),
    ),
    stock_does="keeps its bookkeeping of what was published; one round trip for each message",
    ours_does="serialises the workload as stock does, names the task for Flower without showing its token",
    limit_is="prebuilt messages, pushed in pipelines of 500 by redis-py",
)


def _timed(count: int, publish: Callable[[], Any]) -> dict[str, float]:
    commands, watch = side.commands(), Watch()
    publish()
    wall, cpu = watch.wall_ms(), watch.cpu_ms()
    # INFO itself is one.
    said = {"wall": wall / count, "cpu": cpu / count, "commands": (side.commands() - commands - 1) / count}
    assert side.valkey().llen("default") == count
    side.valkey().delete("default")
    return said


def stock(count: int) -> Turn:
    executor = side.stock_celery()
    workloads = side.add_tasks(count)

    def turn() -> dict[str, float]:
        executor.queued_tasks = {workload.ti.key: workload for workload in workloads}
        said = _timed(count, lambda: executor.trigger_tasks(count))
        for kept in (executor.running, executor.workloads, executor.event_buffer):
            kept.clear()
        return said

    turn()
    return turn


def ours(count: int) -> Turn:
    from hybrid_executor import contract
    from hybrid_executor.backends.celery.app import provider_app
    from hybrid_executor.backends.celery.config import CeleryConfig
    from hybrid_executor.backends.celery.publish import Published, Publisher
    from hybrid_executor.model.attempt import Submission

    publisher = Publisher(provider_app(), CeleryConfig(operation_timeout_s=30.0))
    tasks = contract.AirflowTasks(tokens=None, scheduler_grace_s=30.0)  # type: ignore[arg-type]
    attempts = [(_attempt(workload), workload) for workload in side.add_tasks(count)]

    def publish() -> None:
        batch = [
            Submission(attempt=attempt, number=1, payload=tasks.payload(workload, fresh_token=False))
            for attempt, workload in attempts
        ]
        assert all(isinstance(answer, Published) for answer in publisher.publish(batch))

    def turn() -> dict[str, float]:
        return _timed(count, publish)

    turn()
    return turn


def _attempt(workload: Any) -> Any:
    from hybrid_executor import contract
    from hybrid_executor.model.attempt import BackendName, Route

    route = Route(backend=BackendName.CELERY, rule="everything else goes to Celery")
    return contract.attempt_of(
        workload, route=lambda _: route, callback_route=lambda _: route, default_queue="default"
    )


def limit(count: int) -> Turn:
    import redis

    messages = _messages(count)
    client = redis.Redis.from_url(os.environ["AIRFLOW__CELERY__BROKER_URL"])

    def publish() -> None:
        for start in range(0, count, 500):
            pipeline = client.pipeline(transaction=False)
            for message in messages[start : start + 500]:
                pipeline.lpush("default", message)
            pipeline.execute()

    def turn() -> dict[str, float]:
        return _timed(count, publish)

    turn()
    return turn


def _messages(count: int) -> Sequence[bytes]:
    """What the stock executor publishes."""
    executor = side.stock_celery()
    for workload in side.add_tasks(count):
        executor.queued_tasks[workload.ti.key] = workload
    executor.trigger_tasks(count)
    messages: Sequence[bytes] = side.valkey().lrange("default", 0, -1)  # type: ignore[assignment]
    side.valkey().delete("default")
    return messages
