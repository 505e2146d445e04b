"""What the executor measures, through Airflow's own stats (StatsD, OpenTelemetry).

Names start with ``hybrid_executor.``; besides these the executor emits
Airflow's own ``executor.open_slots``, ``executor.queued_tasks`` and
``executor.running_tasks``.
"""

from airflow.sdk.observability import stats

from hybrid_executor.inflight import Inflight
from hybrid_executor.lifecycle import Phase
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome


def emit_gauges(inflight: Inflight) -> None:
    """Attempts by backend and phase, and how many of them wait outside the slots."""
    for backend in BackendName:
        for phase in Phase:
            tags = {"backend": str(backend), "phase": phase.name.lower()}
            stats.gauge("hybrid_executor.attempts", inflight.count(backend, phase), tags=tags)
        stats.gauge("hybrid_executor.held", inflight.held(backend), tags={"backend": str(backend)})


def count_failure(reason: Reason) -> None:
    """Airflow was told that an attempt failed for ``reason``."""
    stats.incr("hybrid_executor.failures", tags={"reason": str(reason)})


def count_end(backend: BackendName, outcome: Outcome, reason: Reason | None) -> None:
    """One submission has ended, whether Airflow was told or not."""
    tags = {"backend": str(backend), "outcome": str(outcome), "reason": str(reason or "none")}
    stats.incr("hybrid_executor.ends", tags=tags)
