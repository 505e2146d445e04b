"""Tasks that a route forgives an eviction: a Python one, a Bash one, and one that has deferred before."""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator
from hurt import FOLDER, stay, wait_for_file

BASH = f"""
name={FOLDER}/{{{{ run_id }}}}.{{{{ ti.try_number }}}}
echo "{{{{ run_id }}}} bash start $(date +%s.%N) $$" >> {FOLDER}/lines
while [ ! -e $name ]; do touch $name.bash.alive; sleep 0.5; done
"""


class DeferFirst(BaseOperator):
    """Is told to stop only after it has been resumed."""

    def execute(self, context: Any) -> None:
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=1)), method_name="resume")

    def resume(self, context: Any, event: Any = None) -> None:
        stay()


with DAG("spot", schedule=None, max_active_runs=10):
    wait_for_file.override(task_id="python", queue="spot")()
    BashOperator(task_id="bash", queue="spot", retries=0, bash_command=BASH)
    DeferFirst(task_id="deferring", queue="spot", retries=2)

with DAG("spot_one", schedule=None, max_active_runs=10):
    wait_for_file.override(task_id="python", queue="spot")()
