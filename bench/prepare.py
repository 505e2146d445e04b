"""Brings one DAG with one run into the database that the environment names: ``python -m bench.prepare``.

Its task instances are what every side copies; see ``airflow_side.add_tasks``.
"""

import os
from pathlib import Path

from sqlalchemy import text

from tests.fixtures.airflow_side import SchedulerSide


def main() -> None:
    """Airflow's own steps."""
    from airflow import settings

    side = SchedulerSide(Path(os.environ["AIRFLOW_HOME"]))
    side.serialize("bench", celery=1, kubernetes=1)
    side.trigger("bench")
    with settings.engine.begin() as connection:
        connection.execute(text("update dag_run set state = 'running'"))


if __name__ == "__main__":
    main()
