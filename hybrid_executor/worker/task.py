"""Runs a workload in a pod: the stock entry point, but for one report, and with a measurement.

Pods of routes with ``retry_on`` start it, and all of them with ``[hybrid_executor]
measure_pods``.

Told to stop, a pod's supervisor passes the signal on to the task and then
reports that it failed, which uses up a retry, or ends a task that has none.
Why the pod was told to stop only the executor can see. So here a failure that
follows a SIGTERM, or a SIGKILL of the task's process alone (the kernel's, for
memory), is not reported: this process ends as one that was killed, the task
instance stays RUNNING, and the executor, which sees the pod's end, decides
whether the try counts. Every other word of the task goes out as ever: a
success, a deferral, a skip, and a failure of its own.

Where Airflow's Execution API never answers the request to start, the task's
process is ended before it has done anything, and this one ends in a way that
says so (``model.start``), which uses up no retry.

A process that ends well leaves what its container took in the termination
message (``gauge``), which costs no request and no right. To Airflow it reports
nothing that the stock one would not, and it decides nothing. Pods start it as
``python -m hybrid_executor.worker.task``.

Written for Airflow 3.3. Where a supervisor lets its task finish instead, as 3.4's
does, a failure after a SIGTERM is the task's own, and is reported.
"""

import signal
import sys
from contextlib import nullcontext
from types import FrameType
from typing import Any, ClassVar

import airflow.sdk
import attrs
import httpx
import structlog
from airflow.sdk.api.client import get_hostname
from airflow.sdk.api.datamodels._generated import TaskInstanceState
from airflow.sdk.execution_time import execute_workload, supervisor
from airflow.sdk.execution_time.comms import RetryTask
from packaging.version import Version

from hybrid_executor.model import start
from hybrid_executor.worker import gauge

log = structlog.get_logger(__name__)

FAILURES = frozenset({TaskInstanceState.FAILED, TaskInstanceState.UP_FOR_RETRY})
UNANSWERED = "Airflow's API server did not answer its request to start"
#: So that the kubelet, which reads 4 KiB, reads the line behind it too.
WORDS_MAX = 500
#: Whether a SIGTERM of this process is one of its task; with the SDK of Airflow 3.4 it no longer is.
PASSES_SIGTERM_ON = Version(airflow.sdk.__version__).release < (1, 4)


class NotStarted(Exception):
    """Airflow never answered the request to start: what happened, in words, and ``start.to_line``."""


@attrs.define(kw_only=True)
class Supervised(supervisor.ActivitySubprocess):
    """A task's process and its supervisor, which keeps a failure to itself that may not be the task's own."""

    #: The signal that this process is to be taken to have died of.
    died_of: ClassVar[signal.Signals | None] = None
    #: Measures the container; None where that can't be done.
    measures: ClassVar[gauge.Gauge | None] = None
    _stopped: bool = attrs.field(default=False, init=False)

    def _on_child_started(self, **given: Any) -> None:
        """Raises ``NotStarted`` where nobody answered: the task's process did nothing, and is gone."""
        try:
            super()._on_child_started(**given)
        except httpx.HTTPError as error:
            if not is_unanswered(error):
                raise
            words = f"{UNANSWERED}: {type(error).__name__}: {error}"[:WORDS_MAX]
            self.process_log.error("The task was not started; the executor says what follows", reason=words)
            host = get_hostname()  # type: ignore[no-untyped-call]
            raise NotStarted(words, start.to_line(host)) from error

    def _monitor_subprocess(self) -> None:
        """As ever, but the signal that ``wait`` has just begun to pass on is noted as well."""
        pass_on: Any = signal.getsignal(signal.SIGTERM)

        def note(number: int, frame: FrameType | None) -> None:
            self._stopped = PASSES_SIGTERM_ON
            pass_on(number, frame)

        signal.signal(signal.SIGTERM, note)
        # Entered after the task's process was forked, so that no thread is copied into it.
        with self.measures.watching() if self.measures else nullcontext():
            super()._monitor_subprocess()  # type: ignore[no-untyped-call]

    def _send_terminal_state_msg(self, msg: Any) -> None:
        if isinstance(msg, RetryTask) and self._stopped:
            self._terminal_state = TaskInstanceState.UP_FOR_RETRY
        else:
            super()._send_terminal_state_msg(msg)

    def update_task_state_if_needed(self) -> None:
        died_of = self._killed_by() if self.final_state in FAILURES else None
        if died_of is None:
            super().update_task_state_if_needed()  # type: ignore[no-untyped-call]
            return
        Supervised.died_of = died_of
        self.process_log.warning(
            "The task was stopped from outside; whether this try counts is for the executor to say",
            signal=died_of.name,
        )

    def _killed_by(self) -> signal.Signals | None:
        if self._stopped:
            return signal.SIGTERM
        return signal.SIGKILL if self._exit_code == -signal.SIGKILL else None


def is_unanswered(error: httpx.HTTPError) -> bool:
    """Whether the server said neither yes nor no; what else it says (4xx) is an answer."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error
    return isinstance(error, httpx.RequestError)


def main() -> None:
    """Do what the stock entry point does with these arguments; end as killed if a report was withheld."""
    Supervised.measures = gauge.own_gauge(gauge.MESSAGE, gauge.CGROUPS)
    # Where a task is started, the class is looked up in its module.
    supervisor.ActivitySubprocess = Supervised  # type: ignore[misc]
    try:
        execute_workload.main()  # type: ignore[no-untyped-call]
    except NotStarted as error:
        log.exception("The task was not started")
        leave_line(error)
        sys.exit(start.EXIT_CODE)
    if Supervised.died_of is not None:
        sys.exit(128 + Supervised.died_of)
    if Supervised.measures:
        tell(Supervised.measures)


def leave_line(error: NotStarted) -> None:
    """Say by what name it asked; a pod that can't say it has failed like any other."""
    words, line = error.args
    try:
        with gauge.MESSAGE.open("a") as message:
            message.write(f"\n{words}\n{line}\n")
    except OSError as failed:
        log.warning("That the task never started can't be told", error=str(failed))


def tell(measured: gauge.Gauge) -> None:
    """Leave the measurements; a task that ended well does not fail for want of them."""
    try:
        gauge.leave(measured.used(), gauge.MESSAGE)
    except (OSError, ValueError) as error:
        log.warning("What the container took can't be told", error=str(error))


if __name__ == "__main__":
    main()
