"""One backend's backlog, whatever its priority, never delays the other."""

import time

from tests.chaos.scene import PARALLELISM, Scene
from tests.fixtures.stack import wait_until

WITHIN_S = 30


def time_of(scene: Scene, dag_id: str, within_s: float) -> float:
    """Run a DAG to its success and return the seconds that it took."""
    run = scene.stack.trigger(dag_id)
    began = time.monotonic()
    scene.stack.wait_run(dag_id, run, within_s)
    took_s = time.monotonic() - began
    scene.check_each_ran_once(dag_id, run)
    return took_s


def bound(scene: Scene, dag_id: str) -> float:
    """How long a DAG may take beside a backlog: 30 s, or on a machine that is busy twice its own time.

    Its first run also warms the workers, which import Airflow for their first task.
    """
    return max(WITHIN_S, 2 * time_of(scene, dag_id, 150))


def test_two_hundred_blocked_pods_do_not_delay_celery_tasks(scene: Scene) -> None:
    within_s = bound(scene, "twenty_light")
    blocked = scene.stack.trigger("blocked_pods")
    wait_until(
        lambda: scene.count("blocked_pods", blocked, "queued") > 2 * PARALLELISM,
        60,
        lambda: f"only {scene.count('blocked_pods', blocked, 'queued')} are queued",
    )
    took_s = time_of(scene, "twenty_light", within_s)
    print(f"20 Celery tasks beside 200 blocked pods: {took_s:.1f} s of {within_s:.1f} s")
    assert scene.count("blocked_pods", blocked, "queued") > PARALLELISM
    assert len(scene.pods()) == 4
    scene.fail_run("blocked_pods", blocked)
    scene.check_nothing_is_left(60)


def test_messages_without_a_broker_do_not_delay_pods(scene: Scene) -> None:
    within_s = bound(scene, "four_heavy")
    scene.stack.kill("valkey", hold=True)
    blocked = scene.stack.trigger("blocked_messages")
    wait_until(
        lambda: scene.count("blocked_messages", blocked, "queued") > 2 * PARALLELISM,
        60,
        lambda: f"only {scene.count('blocked_messages', blocked, 'queued')} are queued",
    )
    took_s = time_of(scene, "four_heavy", within_s)
    print(f"4 pods beside 40 messages without a broker: {took_s:.1f} s of {within_s:.1f} s")
    assert scene.count("blocked_messages", blocked, "queued") > PARALLELISM
    scene.stack.restart("valkey")
    scene.stack.wait_run("blocked_messages", blocked, 120)
    scene.check_each_ran_once("blocked_messages", blocked)
    scene.check_nothing_is_left()
