"""``airflow hybrid scaling``, and what the doctor says of pools, as a user runs them on a real database."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.model.attempt import BackendName, WorkloadKind
from tests.contract.ledger_suite import a_record
from tests.fixtures.site import MakeSite, Site

DAG = """
from airflow.sdk import DAG, task

with DAG("etl", schedule=None):

    @task
    def load(x): ...

    @task(queue="forgotten")
    def report(): ...

    load.expand(x=[1, 2, 3])
    report()
"""
POOLS = """
version: 1
pools:
  light:
    queues: [default, light]
    concurrency: 2
    max_replicas: 5
  heavy:
    queues: it's heavy
    concurrency: 4
    min_replicas: 1
    max_replicas: 2
"""


@pytest.fixture(scope="module")
def site(make_site: MakeSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three tasks of another executor run on ``default``; nine connection tests wait for ``it's heavy``."""
    site = make_site(DAG)
    pools = tmp_path_factory.mktemp("pools") / "pools.yaml"
    pools.write_text(POOLS)
    site.environment["AIRFLOW__HYBRID_EXECUTOR__POOLS_FILE"] = str(pools)
    done = site.run("dags", "trigger", "etl", "--run-id", "r")
    assert done.returncode == 0, done.stdout + done.stderr
    tests = [
        a_record(
            kind=WorkloadKind.CONNECTION_TEST,
            address=None,
            queue="it's heavy",
            backend=BackendName.CELERY,
            queued_at=datetime.now(UTC),
        )
        for _ in range(9)
    ]
    engine = create_engine(site.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    DatabaseLedger(engine).record(tests, [])
    with engine.begin() as connection:
        connection.execute(text("UPDATE task_instance SET state = 'running' WHERE task_id = 'load'"))
        connection.execute(text("UPDATE task_instance SET state = 'scheduled' WHERE task_id = 'report'"))
    engine.dispose()
    return site


def test_each_pool_is_shown_with_what_it_has_in_flight_and_the_replicas_that_follow(site: Site) -> None:
    light, heavy = site.rows("hybrid", "scaling")
    assert (light["pool"], light["queues"]) == ("light", "default, light")
    assert [light[name] for name in ("in_flight", "wanted", "min", "max", "replicas")] == list("32052")
    assert [heavy[name] for name in ("in_flight", "wanted", "min", "max", "replicas")] == list("93122")
    assert site.rows("hybrid", "scaling", "--pool", "heavy") == [heavy]


def test_the_query_is_printed_alone_and_answers_what_the_command_says(site: Site) -> None:
    done = site.run("hybrid", "scaling", "--pool", "heavy", "--query")
    assert done.returncode == 0, done.stdout + done.stderr
    engine = create_engine(site.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    with engine.connect() as connection:
        assert connection.exec_driver_sql(done.stdout).scalar_one() == 3
    engine.dispose()


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--query",), "add --pool, one of light, heavy"), (("--pool", "blue"), "no pool is named 'blue'")],
)
def test_what_can_not_be_shown_is_said_with_what_to_do(site: Site, words: tuple[str, ...], told: str) -> None:
    done = site.run("hybrid", "scaling", *words)
    assert done.returncode != 0
    assert told in done.stdout + done.stderr


def test_without_pools_the_command_says_where_they_are_named(site: Site) -> None:
    done = site.run("hybrid", "scaling", AIRFLOW__HYBRID_EXECUTOR__POOLS_FILE="")
    assert done.returncode != 0
    assert "pools_file" in done.stdout + done.stderr


def test_the_doctor_names_queues_that_no_pool_serves(site: Site, tmp_path: Path) -> None:
    report = site.run("hybrid", "doctor").stdout
    assert "no pool serves queue 'forgotten'" in report
    pools = tmp_path / "pools.yaml"
    pools.write_text(POOLS.replace("[default, light]", "[default, forgotten]"))
    report = site.run("hybrid", "doctor", AIRFLOW__HYBRID_EXECUTOR__POOLS_FILE=str(pools)).stdout
    assert "2 serve every queue that is in use" in report
