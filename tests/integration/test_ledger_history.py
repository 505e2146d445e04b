"""What people are told of the ledger is what its rows say, on SQLite, PostgreSQL and MariaDB."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine

from hybrid_executor.ledger import retention
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.ledger.history import History
from hybrid_executor.ledger.queries import Wanted
from hybrid_executor.ledger.tables import metadata
from hybrid_executor.model.attempt import BackendName, SubmissionId, TaskAddress, WorkloadKind
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Change, Outcome, PodRun, Stage, SubmissionRecord
from tests.contract.ledger_suite import START, a_full_record, a_record
from tests.contract.test_ledger import counted

LONG_AGO = START - timedelta(days=1000)
SEED = random.randrange(10**6)


def rows(chance: random.Random, count: int) -> list[SubmissionRecord]:
    """Submissions of every kind, many queued at the same time."""

    def time(chances: float) -> datetime | None:
        return START + timedelta(seconds=chance.randrange(100)) if chance.random() < chances else None

    def row() -> SubmissionRecord:
        submitted = time(0.8)
        started = time(0.7) if submitted else None
        ended = time(0.5)
        address = TaskAddress(
            dag_id=chance.choice(["etl", "ml"]),
            task_id=chance.choice(["load", "train"]),
            run_id=chance.choice(["r1", "r2"]),
            map_index=chance.randrange(-1, 3),
            try_number=chance.randrange(1, 3),
        )
        is_task = chance.random() < 0.9
        return a_record(
            kind=WorkloadKind.TASK if is_task else WorkloadKind.CALLBACK,
            address=address if is_task else None,
            queue=chance.choice(["default", "kubernetes"]),
            backend=chance.choice(list(BackendName)),
            scheduler_job=chance.choice(["1", "2"]),
            queued_at=START + timedelta(seconds=chance.randrange(10)),
            submitted_at=submitted,
            started_at=started,
            ended_at=ended,
            where=chance.choice(["celery@w1", "celery@w2"]) if started else None,
            waits_for=chance.choice([None, Reason.QUOTA, Reason.IN_QUEUE]),
            outcome=chance.choice(list(Outcome)) if ended else None,
            reason=chance.choice([None, Reason.QUOTA, Reason.OOM_KILLED]) if ended else None,
        )

    return [row() for _ in range(count)]


@pytest.fixture(params=["sqlite", "postgresql", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
    else:
        url = request.getfixturevalue("mariadb_url" if request.param == "mariadb" else "database_url")
    engine = create_engine(url)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def told(engine: Engine) -> tuple[History, list[SubmissionRecord]]:
    print(f"seed {SEED}")
    records = rows(random.Random(SEED), 300)
    DatabaseLedger(engine).record(records, [])
    return History(engine), records


def newest_first(records: list[SubmissionRecord]) -> list[SubmissionRecord]:
    return sorted(records, key=lambda r: (r.queued_at, *r.id), reverse=True)


def waits(record: SubmissionRecord) -> bool:
    return record.state in (Stage.QUEUED, Stage.SUBMITTED)


FILTERS = {
    "all": (Wanted(since=LONG_AGO), lambda _: True),
    "since": (
        Wanted(since=START + timedelta(seconds=5)),
        lambda r: r.queued_at >= START + timedelta(seconds=5),
    ),
    "task": (
        Wanted(since=LONG_AGO, dag_id="etl", run_id="r1", task_id="load", map_index=0),
        lambda r: (
            r.address is not None
            and (r.address.dag_id, r.address.run_id, r.address.task_id, r.address.map_index)
            == ("etl", "r1", "load", 0)
        ),
    ),
    "queue": (
        Wanted(since=LONG_AGO, queue="default", backend=BackendName.CELERY),
        lambda r: (r.queue, r.backend) == ("default", BackendName.CELERY),
    ),
    "reason": (
        Wanted(since=LONG_AGO, reason=Reason.QUOTA),
        lambda r: r.reason is Reason.QUOTA or (waits(r) and r.waits_for is Reason.QUOTA),
    ),
    **{
        state: (Wanted(since=LONG_AGO, state=state), lambda r, state=state: r.state is state)
        for state in (*Stage, *Outcome)
    },
}


@pytest.mark.parametrize("name", FILTERS)
def test_pages_hold_what_is_wanted_each_once_and_newest_first(
    told: tuple[History, list[SubmissionRecord]], name: str
) -> None:
    history, records = told
    wanted, is_wanted = FILTERS[name]
    shown: list[SubmissionRecord] = []
    page = history.page(wanted, 7)
    shown += page.records
    while page.following:
        page = history.page(wanted, 7, page.following)
        assert page.records
        shown += page.records
    assert shown == newest_first([record for record in records if is_wanted(record)])


def test_a_tasks_story_is_all_of_its_submissions_oldest_first(
    told: tuple[History, list[SubmissionRecord]],
) -> None:
    history, records = told
    of_task = [
        r
        for r in records
        if r.address and (r.address.dag_id, r.address.run_id, r.address.task_id) == ("ml", "r2", "train")
    ]
    found = history.of_task("ml", "r2", "train")
    assert found == sorted(found, key=lambda r: r.queued_at)
    assert sorted(r.id for r in found) == sorted(r.id for r in of_task)
    of_one = {r.id for r in of_task if r.address and r.address.map_index == 1}
    assert {r.id for r in history.of_task("ml", "r2", "train", 1)} == of_one


def test_counts_are_those_of_the_rows(told: tuple[History, list[SubmissionRecord]]) -> None:
    history, records = told
    since = START + timedelta(seconds=50)
    counted = {(c.backend, c.queue): c for c in history.counts(since)}
    assert set(counted) == {(r.backend, r.queue) for r in records}
    for (backend, queue), counts in counted.items():
        here = [r for r in records if (r.backend, r.queue) == (backend, queue)]
        assert counts.stages == Counter(r.state for r in here if r.ended_at is None)
        assert counts.ends == Counter(r.outcome for r in here if r.ended_at and r.ended_at >= since)
        assert counts.oldest_waiting == min((r.queued_at for r in here if waits(r)), default=None)
    running = [r for r in records if r.state is Stage.RUNNING]
    assert history.places() == Counter((r.backend, r.where or "?") for r in running)
    assert history.owners() == Counter(r.scheduler_job for r in records if r.ended_at is None)


def test_each_kind_of_wait_is_shown_by_its_oldest(told: tuple[History, list[SubmissionRecord]]) -> None:
    history, records = told
    found = {(w.oldest.backend, w.oldest.queue, w.oldest.waits_for): w for w in history.waits()}
    groups = {(r.backend, r.queue, r.waits_for): [] for r in records if waits(r)}
    for record in filter(waits, records):
        groups[record.backend, record.queue, record.waits_for].append(record)
    assert set(found) == set(groups)
    for key, group in groups.items():
        assert found[key].count == len(group)
        assert found[key].oldest == min(group, key=lambda r: (r.queued_at, r.id.attempt_id))


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_trimming_takes_what_ended_long_ago_and_no_attempt_that_is_open(
    told: tuple[History, list[SubmissionRecord]], engine: Engine, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, records = told
    monkeypatch.setattr(retention, "BATCH_ROWS", batch)
    began = next(record for record in records if record.state is Stage.RUNNING)
    first = replace(began, outcome=Outcome.REPLACED, ended_at=START)
    second = replace(began, id=SubmissionId(began.id.attempt_id, 2))
    other = replace(first, id=SubmissionId(str(uuid4()), 1))
    DatabaseLedger(engine).record(
        [second, other], [Change(id=first.id, ended_at=START, outcome=Outcome.REPLACED)]
    )
    before = START + timedelta(seconds=50)
    goes = {r.id for r in records if r.ended_at and r.ended_at < before} | {other.id}
    assert retention.count(engine, before) == len(goes)
    assert sum(retention.trim(engine, before)) == len(goes)
    left = {record.id for record in history.page(Wanted(since=LONG_AGO), 1_000).records}
    assert left == ({record.id for record in records} | {second.id}) - goes
    assert list(retention.trim(engine, before)) == []


def test_a_ledger_that_is_not_migrated_says_what_to_run(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(LedgerUnavailable, match="airflow db migrate"):
        History(engine).counts(START)
    engine.dispose()


def ran(hours: float, **values: Any) -> SubmissionRecord:
    return a_full_record(queued_at=START + timedelta(hours=hours), **values)


def test_what_ran_in_pods_is_read_in_slices_of_time(engine: Engine) -> None:
    other = TaskAddress(dag_id="other", task_id="load", run_id="r")
    wanted = [ran(0), ran(1), ran(5.999), ran(6), ran(47), ran(3, address=other)]
    unwanted = [
        ran(-1),
        ran(48),
        ran(1, backend=BackendName.CELERY),
        ran(1, started_at=None),
        ran(1, ended_at=None),
        ran(1, address=None),
    ]
    DatabaseLedger(engine).record([*wanted, *unwanted], [])
    until = START + timedelta(hours=48)
    with counted(engine) as sent:
        runs = list(History(engine).pod_runs(START, until))
    assert len(sent) == 8
    assert sorted(run.queued_at for run in runs) == sorted(record.queued_at for record in wanted)
    assert min(runs, key=lambda run: run.queued_at) == PodRun(
        dag_id="etl",
        task_id="load",
        queued_at=START,
        ran_s=1.0,
        outcome=Outcome.FAILED,
        reason=Reason.OOM_KILLED,
        cpu_request_m=500,
        memory_request_bytes=256 << 20,
        memory_limit_bytes=3 << 40,
        cpu_peak_m=1250,
        memory_peak_bytes=3 << 40,
    )
    [run] = History(engine).pod_runs(START, until, "other")
    assert run.dag_id == "other"
