"""A scheduler killed at any line of a task's way: the next one takes over, nothing is lost, nothing twice.

Airflow's own queueing code and our heartbeat, on real PostgreSQL and Valkey and
the embedded API; two tasks for Celery and one for a pod in each case. A seed
chooses one of the lines of the product that a run executes between
``queue_workload`` and the last heartbeat, and which time that it is reached.
``make chaos SEEDS=200 ARGS="-k every_step"``; ``SEED=n`` begins with that seed.
"""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import hybrid_executor
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.chaos.conftest import KILLED
from tests.fixtures.servers import SharedPostgres
from tests.fixtures.stack import wait_until
from tests.steps.killer import Point
from tests.steps.stage import CELERY, Stage, set_up
from tests.steps.world import CLAIMS, GATE, SAME

PRODUCT = Path(hybrid_executor.__file__).parent
#: Of a line that is executed often, one of the first times.
NTH_MAX = 4


@pytest.fixture
def killed(request: pytest.FixtureRequest) -> Counter[str]:
    """Where schedulers were killed, by module; shown at the end."""
    return request.config.stash.setdefault(KILLED, Counter())


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory,
    postgres: SharedPostgres,
    airflow_template: str,
    valkey: ValkeyServer,
) -> Iterator[Stage]:
    home = tmp_path_factory.mktemp("steps") / "airflow"
    with (
        postgres.fresh_database(airflow_template) as dsn,
        set_up(home, dsn, valkey.url_of(0)) as stage,
    ):
        yield stage


def choose(stage: Stage, seed: int) -> Point:
    chance = random.Random(seed)
    module, line = chance.choice(sorted(stage.path))
    return Point(module, line, chance.randint(1, min(stage.path[module, line], NTH_MAX)))


def test_a_run_that_nobody_disturbs_keeps_every_promise(stage: Stage) -> None:
    assert not stage.run_case(None)
    stage.check()
    assert len({module for module, _ in stage.path}) > 20, stage.path


def test_a_scheduler_killed_at_any_step_loses_nothing_and_sends_nothing_twice(
    stage: Stage, step_seed: int, killed: Counter[str]
) -> None:
    point = choose(stage, step_seed)
    print(f"seed {step_seed}: killed at {point}")
    if stage.run_case(point):
        killed[point.module] += 1
    stage.check()


def line_of(module: str, words: str) -> Point:
    """The line of the product with these words."""
    lines = (PRODUCT / module).read_text(encoding="utf-8").splitlines()
    [number] = [number for number, line in enumerate(lines, 1) if words in line]
    return Point(module, number)


#: What has been published is not yet known to be, and what has ended is not yet told.
GAPS = {
    "the publishing and its answer": ("backends/celery/sender.py", "self._say(Accepted(submission, "),
    "the publishing and its record": ("controller.py", 'self._log.note(flight, "accepted", '),
    "the end and the event": ("executor.py", "contract.succeeded_state(key)"),
    "the event and the ledger": ("journal.py", "self._ledger.record("),
}


@pytest.mark.parametrize("between", GAPS.values(), ids=GAPS)
def test_a_scheduler_killed_between_publish_and_event_af58570(stage: Stage, between: tuple[str, str]) -> None:
    assert stage.run_case(line_of(*between))
    stage.check()


@pytest.mark.parametrize("between", [gap for gap in GAPS if "publishing" in gap])
def test_what_was_published_is_not_published_again_by_the_scheduler_that_adopts_it_af58570(
    stage: Stage, between: str
) -> None:
    """It waits in its queue, and Airflow's own fence has nothing to turn away."""
    with stage.paused():
        assert stage.begin_case(line_of(*GAPS[between]))
        ended = stage.adopt()
    ended.result()
    stage.check()


@pytest.mark.parametrize("ended", [False, True], ids=["while they run", "after their end"])
def test_an_old_snapshot_of_the_broker_runs_no_task_again_af58441(stage: Stage, ended: bool) -> None:
    """Its messages come a second time: to tasks that run, or over results that say SUCCESS."""
    with stage.put(GATE):
        with stage.paused():
            assert stage.begin_case(line_of(*GAPS["the publishing and its answer"]))
            old, messages = stage.snapshot()
            assert messages
        stage.wait_lines("executed", CELERY, " work ")
        if not ended:
            stage.restore(old)
            stage.wait_lines("received", CELERY + messages, "message ")
    if ended:
        stage.wait_lines("succeeded", CELERY, "message ")
        stage.restore(old)
        stage.wait_lines("received", CELERY + messages, "message ")
    stage.end_case()
    stage.check(redelivered=True)


def test_a_task_that_an_api_server_set_back_to_old_data_has_begun_in_an_older_pod_is_no_failure(
    stage: Stage,
) -> None:
    """The pod of submission 1 is there again and begins; that of submission 3 is refused and ends badly."""
    with stage.put(GATE):
        with stage.paused():
            ended = stage.begin()
            first = stage.wait_pod(1)
            old = stage.kube.backup()
            stage.delete_pod(first)
            stage.wait_pod(2)
            stage.kube.set_back(old)
            stage.wait_pod(3)
            assert stage.wait_pod(1) == first
        stage.wait_lines("executed", 1, " pod ")
        stage.wait_lines("received", 2, "pod ")
        wait_until(lambda: "mismatch=RunsElsewhere" in stage.whole_log(), 60, stage.log)
    assert not ended.result()
    stage.check()


def test_a_worker_that_claims_what_it_starts_lets_no_process_pass_that_looks_the_same_af58441(
    stage: Stage,
) -> None:
    with stage.put(SAME), stage.put(CLAIMS), stage.put(GATE):
        with stage.paused():
            assert stage.begin_case(line_of(*GAPS["the publishing and its answer"]))
            old, messages = stage.snapshot()
            assert messages
        stage.wait_lines("executed", CELERY, " work ")
        stage.restore(old)
        wait_until(lambda: stage.log().count("was started before") >= messages, 60, stage.log)
    stage.end_case()
    stage.check()


def test_a_process_that_looks_the_same_passes_airflows_fence_which_the_guarantees_say(stage: Stage) -> None:
    """No promise: what a reborn Celery worker of the same name and process id does today."""
    with stage.put(SAME), stage.put(GATE):
        with stage.paused():
            assert stage.begin_case(line_of(*GAPS["the publishing and its answer"]))
            old, messages = stage.snapshot()
            assert messages
        stage.wait_lines("executed", CELERY, " work ")
        stage.restore(old)
        stage.wait_lines("executed", CELERY + messages, " work ")
    stage.end_case()
    executed = Counter(line for line in stage.lines("executed") if " work " in line)
    assert sorted(executed.values()) == [1] * (CELERY - messages) + [2] * messages
