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


def emit_gauges(inflight: Inflight) -> None:
    """Attempts by backend and phase, and how many of them wait outside the slots."""
    for backend in BackendName:
        for phase in Phase:
            tags = {"backend": str(backend), "phase": phase.name.lower()}
            stats.gauge("hybrid_executor.attempts", inflight.count(backend, phase), tags=tags)
        stats.gauge("hybrid_executor.held", inflight.held(backend), tags={"backend": str(backend)})


def count_end(reason: Reason) -> None:
    """One attempt failed for ``reason``."""
    stats.incr("hybrid_executor.failures", tags={"reason": str(reason)})
