"""The stack of the soak test: two schedulers, and processes that play workers and a node."""

from dataclasses import replace
from pathlib import Path

from hybrid_executor.standalone.stack.environment import airflow_environment, worker_environment
from hybrid_executor.standalone.stack.stack import Stack
from hybrid_executor.standalone.stack.supervisor import Service
from tests.soak.world import LINES

ROOT = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"
WORKERS = ("worker-1", "worker-2", "worker-3")
SCHEDULERS = ("scheduler", "scheduler-2")
NODE = "node"
#: What all others stand on.
SERVERS = ("valkey", "postgres", "kubernetes", "api-server")
SETTINGS = {
    "AIRFLOW__CORE__PARALLELISM": "48",
    "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "64",
    # What a worker took along into its death is taken for stuck after so long, in place of ten minutes.
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
    # A process that was killed is missed after so long, in place of five minutes.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__API__WORKERS": "1",
    "PYTHONPATH": str(ROOT),
}


class SoakStack(Stack):
    """The demo's stack with another world around it."""

    @property
    def lines(self) -> Path:
        """What the world writes."""
        return self.setup.state / "lines"

    def services(self) -> list[Service]:
        mine = {s.name: s for s in super().services()}
        scheduler = mine["scheduler"]
        second = replace(
            scheduler,
            name="scheduler-2",
            command=self._airflow("scheduler-2", "scheduler", env=airflow_environment),
        )
        gone = ("worker", "flower", "triggerer", "runner")
        world = [
            *(self._world(name, "worker") for name in WORKERS),
            self._world(NODE, "node", str(self.setup.kubeconfig)),
        ]
        return [*(s for name, s in mine.items() if name not in gone), second, *world]

    def _world(self, name: str, *arguments: str) -> Service:
        command = self._command(
            name,
            ("-m", "tests.soak.world", *arguments),
            lambda: worker_environment(self.setup) | {LINES: str(self.lines)},
        )
        return Service(name=name, command=command, after=("valkey", "kubernetes"))
