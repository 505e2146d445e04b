"""In Celery workers: a failure that follows a SIGTERM is left to the executor, as in pods (``worker.task``).

A worker that is ended while it runs tasks has its pool's processes told to
stop, and each of them, Airflow's supervisor, passes that on to its task and
then reports a failure, which uses up a retry, or ends a task that has none.
Here that report is kept back, and the Celery task ends as one whose worker was
lost: the executor reads ``WorkerLost`` from its result and decides whether the
try counts. Everything else that a task says goes out as ever.

Changes nothing until a signal comes. Imported by the worker, where its settings
name it: ``[celery] extra_celery_config = {"imports": ["hybrid_executor.worker.withholding"]}``.
"""

import signal
from typing import Any

import attrs
from airflow.sdk.execution_time import supervisor
from celery.exceptions import WorkerLostError

from hybrid_executor.worker.task import Supervised


@attrs.define(kw_only=True)
class OnWorker(Supervised):
    """A task's process and its supervisor, which ends as lost where the task failed after a SIGTERM."""

    def update_task_state_if_needed(self) -> None:
        """Raises ``WorkerLostError`` in place of a report that is kept back."""
        Supervised.died_of = None
        super().update_task_state_if_needed()
        died_of: signal.Signals | None = Supervised.died_of
        if died_of is not None:
            raise WorkerLostError(f"the worker was told to stop ({died_of.name}) while the task ran")

    def _killed_by(self) -> signal.Signals | None:
        """The kernel's SIGKILL of a task alone is the task's own failure: its worker lives on."""
        return signal.SIGTERM if self._stopped else None


def install(module: Any = supervisor) -> None:
    """Have every task that is started from now on in this process, and in its children, supervised so."""
    module.ActivitySubprocess = OnWorker


install()
