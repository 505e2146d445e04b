"""The scheduler's transaction decides what is sent: real scheduler code, real PostgreSQL."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.observation import How
from tests.fixtures.airflow_side import SchedulerSide
from tests.fixtures.scheduler import SchedulerOverMemory


@pytest.fixture
def setup(scheduler_side: SchedulerSide) -> SchedulerOverMemory:
    return SchedulerOverMemory(scheduler_side)


def test_what_is_committed_is_recorded_and_sent_once_to_the_backend_of_its_queue(setup: SchedulerOverMemory):
    setup.side.serialize(celery=3, kubernetes=2)
    setup.side.trigger()
    setup.loops()
    celery, kubernetes = (setup.worlds[name] for name in (BackendName.CELERY, BackendName.KUBERNETES))
    assert len(celery.received) == len(set(celery.received)) == 3
    assert len(kubernetes.received) == len(set(kubernetes.received)) == 2
    assert {run.submission.attempt.queue for run in kubernetes.runs.values()} == {"kubernetes"}
    rows = setup.ledger_rows()
    assert {str(row["attempt_id"]) for row in rows} == {i.attempt_id for i in setup.received}
    assert all(row["submitted_at"] for row in rows)
    assert {r.external_executor_id for r in setup.side.rows()} == {i.attempt_id for i in setup.received}


class _LockNotAvailable(Exception):
    """What psycopg2 raises for a row lock that is held: SQLSTATE 55P03."""

    pgcode = "55P03"


def test_a_swallowed_lock_error_sends_nothing_and_leaves_no_row(setup: SchedulerOverMemory, monkeypatch):
    setup.side.serialize(celery=3)
    setup.side.trigger()
    real = setup.runner._enqueue_task_instances_with_queued_state

    def enqueue_then_meet_a_lock(*args, **kwargs):
        real(*args, **kwargs)
        raise OperationalError("SELECT ... FOR UPDATE NOWAIT", {}, _LockNotAvailable())

    monkeypatch.setattr(setup.runner, "_enqueue_task_instances_with_queued_state", enqueue_then_meet_a_lock)
    setup.loops()
    assert setup.received == []
    assert setup.ledger_rows() == []
    assert set(setup.side.states().values()) == {"scheduled"}
    monkeypatch.setattr(setup.runner, "_enqueue_task_instances_with_queued_state", real)
    setup.loops()
    assert len(setup.received) == 3


def test_a_commit_that_fails_sends_nothing_and_leaves_no_row(setup: SchedulerOverMemory):
    setup.side.serialize(celery=3)
    setup.side.trigger()
    setup.side.loop(setup.runner)  # the run starts, its tasks are not queued yet or are
    queued_before = set(setup.received)

    from airflow import settings

    with settings.engine.begin() as connection:
        connection.execute(
            text(
                """
                CREATE FUNCTION refuse() RETURNS trigger AS $$
                BEGIN RAISE EXCEPTION 'the disk is full'; END $$ LANGUAGE plpgsql;
                CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON hybrid_submission
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
                """
            )
        )
    setup.side.trigger()
    for _ in range(3):
        with pytest.raises(Exception, match="the disk is full"):
            setup.loops()
    setup.executor.heartbeat()
    assert set(setup.received) == queued_before
    assert {str(row["attempt_id"]) for row in setup.ledger_rows()} == {i.attempt_id for i in queued_before}


def test_an_insert_of_ours_that_fails_neither_stops_the_scheduler_nor_sends_unrecorded(
    setup: SchedulerOverMemory,
):
    from airflow import settings

    setup.side.serialize(celery=3)
    setup.side.trigger()
    with settings.engine.begin() as connection:
        connection.execute(text("ALTER TABLE hybrid_submission RENAME TO hidden"))
    setup.loops()
    assert set(setup.side.states().values()) == {"queued"}
    assert setup.received == []
    with settings.engine.begin() as connection:
        connection.execute(text("ALTER TABLE hidden RENAME TO hybrid_submission"))
    setup.loops()
    assert len(setup.received) == len(set(setup.received)) == 3
    assert len(setup.ledger_rows()) == 3


def test_a_closed_session_discards_what_it_staged(setup: SchedulerOverMemory):
    from airflow.executors.workloads import ExecuteTask
    from airflow.models import TaskInstance
    from airflow.utils.session import create_session

    setup.side.serialize(celery=1)
    setup.side.trigger()
    setup.loops(1)
    with create_session(scoped=False) as session:
        ti = session.query(TaskInstance).first()
        workload = ExecuteTask.make(ti, generator=setup.executor.jwt_generator)
        workload.ti.external_executor_id = "6b0a7a0e-1111-4222-8333-444455556666"
    from airflow import settings

    session = settings.NonScopedSession()
    session.execute(text("select 1"))
    setup.executor.queue_workload(workload, session)
    session.close()
    session.execute(text("select 1"))
    session.commit()
    setup.executor.heartbeat()
    assert "6b0a7a0e-1111-4222-8333-444455556666" not in {i.attempt_id for i in setup.received}


def test_a_killed_schedulers_attempts_are_adopted_and_none_is_sent_twice_af25021(setup: SchedulerOverMemory):
    from airflow.utils.session import create_session

    setup.side.serialize(celery=3, kubernetes=2)
    setup.side.trigger()
    setup.loops()
    sent = list(setup.received)
    setup.killed()
    assert setup.runner.adopt_or_reset_orphaned_tasks() == 0
    setup.loops()
    assert setup.received == sent
    assert len(setup.executor.controller.inflight) == 5
    assert {row["scheduler_job"] for row in setup.ledger_rows()} == {str(setup.executor.job_id)}
    for world in setup.worlds.values():
        for submission in list(world.runs):
            world.start(submission)
    with create_session(scoped=False) as session:
        session.execute(text("update task_instance set state = 'success'"))
    for world in setup.worlds.values():
        for submission in list(world.runs):
            world.end(submission, How.SUCCEEDED)
    setup.loops()
    assert len(setup.executor.controller.inflight) == 0
    assert all(row["outcome"] == "succeeded" for row in setup.ledger_rows())


def test_an_adopted_attempt_is_not_taken_for_stuck_because_no_scheduler_lived(setup: SchedulerOverMemory):
    from airflow.jobs.job import Job
    from airflow.utils.session import create_session

    setup.side.serialize(celery=2)
    setup.side.trigger()
    setup.loops()
    for backend in setup.backends.values():
        backend.stop(1.0)
    with create_session(scoped=False) as session:
        session.get(Job, setup.runner.job.id).state = "failed"
        session.execute(text("update task_instance set queued_dttm = now() - interval '1 hour'"))
    setup.new_scheduler()
    assert setup.runner.adopt_or_reset_orphaned_tasks() == 0
    setup.runner._handle_tasks_stuck_in_queued()
    assert set(setup.side.states().values()) == {"queued"}


def test_attempts_that_were_recorded_and_never_sent_are_sent_by_who_adopts_them(
    setup: SchedulerOverMemory, monkeypatch
):
    from airflow.jobs.job import Job
    from airflow.utils.session import create_session

    setup.side.serialize(celery=2)
    setup.side.trigger()
    for backend in setup.backends.values():
        monkeypatch.setattr(backend, "submit", lambda batch: None)
    setup.loops()
    assert setup.received == []
    assert len(setup.ledger_rows()) == 2
    with create_session(scoped=False) as session:
        session.get(Job, setup.runner.job.id).state = "failed"
    setup.new_scheduler()
    assert setup.runner.adopt_or_reset_orphaned_tasks() == 0
    import time

    for _ in range(40):
        setup.loops(1)
        if len(setup.received) == 2:
            break
        time.sleep(0.1)
    assert len(setup.received) == 2
    assert {i.number for i in setup.received} == {2}


def test_a_ledger_that_is_away_at_adoption_costs_no_attempt(setup: SchedulerOverMemory):
    from airflow import settings
    from airflow.jobs.job import Job
    from airflow.utils.session import create_session

    setup.side.serialize(celery=2, kubernetes=1)
    setup.side.trigger()
    setup.loops()
    sent = list(setup.received)
    assert len(sent) == 3
    for backend in setup.backends.values():
        backend.stop(1.0)
    with create_session(scoped=False) as session:
        session.get(Job, setup.runner.job.id).state = "failed"
    with settings.engine.begin() as connection:
        connection.execute(text("ALTER TABLE hybrid_submission RENAME TO hidden"))
    setup.new_scheduler()
    assert setup.runner.adopt_or_reset_orphaned_tasks() == 0
    setup.loops()
    assert set(setup.side.states().values()) == {"queued"}
    with settings.engine.begin() as connection:
        connection.execute(text("ALTER TABLE hidden RENAME TO hybrid_submission"))
    setup.loops()
    assert len(setup.executor.controller.inflight) == 3
    assert setup.received == sent


def test_an_adopted_attempt_is_not_sent_before_its_backend_has_answered(
    setup: SchedulerOverMemory, monkeypatch
):

    setup.side.serialize(celery=1, kubernetes=1)
    setup.side.trigger()
    setup.loops()
    sent = list(setup.received)
    setup.killed()
    for backend in setup.backends.values():
        monkeypatch.setattr(backend, "adopt", lambda ids, cluster: None)
        monkeypatch.setattr(backend, "poll", list)
    assert setup.runner.adopt_or_reset_orphaned_tasks() == 0
    setup.loops()
    assert len(setup.executor.controller.inflight) == len(sent) == 2
    assert setup.received == sent
