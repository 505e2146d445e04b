"""The way of each submission as OpenTelemetry spans, joined to the task's own trace.

Where ``[traces] otel_on`` is set, Airflow gives a task instance a span,
``task_run.<task>``, and hands its id along as ``context_carrier``. A
submission that has ended becomes a child of it, and each stage that it went
through a child of that:

    task_run.load
      submission.load            queued until ended; why, where, which attempt
        queued | waiting | starting | running
      worker.load                Airflow's, of the process

One that was adopted has lost the carrier with its scheduler, and is a trace of
its own; so is one that Airflow gave none (3.3 does so where there is a
``task_instance_mutation_hook``, but for what is mapped at run time). A run that
the sampler leaves out is left out here. Spans are made when a submission ends
and handed to OpenTelemetry's own thread: nothing waits for a collector. Where
tracing is off, nothing is done. Called by ``executor``.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Status, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hybrid_executor.model.record import Outcome
from hybrid_executor.model.transition import Transition

SCOPE = "hybrid_executor"
#: Ends that are nobody's mistake.
FINE = frozenset({Outcome.SUCCEEDED, Outcome.REVOKED})

_carriers = TraceContextTextMapPropagator()


class Spans:
    """Makes spans of the submissions of one scheduler."""

    def __init__(self, *, is_on: bool, provider: TracerProvider | None = None) -> None:
        """Airflow's provider, unless another one is given."""
        self._tracer: Tracer | None = trace.get_tracer(SCOPE, tracer_provider=provider) if is_on else None

    def note(self, end: Transition, carrier: Mapping[str, str] | None) -> None:
        """Tell of a submission that has ended, with all that was before."""
        if self._tracer is None:
            return
        parent = _carriers.extract(carrier) if carrier else Context()
        task_run = trace.get_current_span(parent).get_span_context()
        if task_run.is_valid and not task_run.trace_flags.sampled:
            return
        submission = self._tracer.start_span(
            f"submission.{_name(end)}",
            context=parent,
            start_time=_ns(end.times.queued_at),
            attributes=attributes(end),
        )
        inside = trace.set_span_in_context(submission, parent)
        for leg, begin, until in end.times.legs(end.at):
            self._tracer.start_span(leg, context=inside, start_time=_ns(begin)).end(_ns(until))
        if end.after not in FINE:
            submission.set_status(Status(StatusCode.ERROR, f"{end.reason or end.after}: {end.message}"))
        submission.end(_ns(max(end.at, end.times.queued_at)))


def attributes(step: Transition) -> dict[str, Any]:
    """What is known of it; Airflow's names where it has one."""
    attempt, address = step.attempt, step.attempt.address
    found = {
        "airflow.dag_id": address and address.dag_id,
        "airflow.task_id": address and address.task_id,
        "airflow.dag_run.run_id": address and address.run_id,
        "airflow.task_instance.try_number": address and address.try_number,
        "airflow.task_instance.map_index": address and address.map_index,
        "hybrid_executor.attempt_id": attempt.id,
        "hybrid_executor.submission": step.number,
        "hybrid_executor.backend": str(attempt.route.backend),
        "hybrid_executor.cluster": attempt.route.cluster,
        "hybrid_executor.queue": attempt.queue,
        "hybrid_executor.route": attempt.route.rule,
        "hybrid_executor.external_name": step.external_name,
        "hybrid_executor.where": step.where,
        "hybrid_executor.outcome": str(step.after),
        "hybrid_executor.reason": step.reason and str(step.reason),
        "hybrid_executor.exit_code": step.exit_code,
    }
    return {key: value for key, value in found.items() if value is not None and value != ""}


def _name(step: Transition) -> str:
    """As Airflow names a task's spans."""
    address = step.attempt.address
    if address is None:
        return str(step.attempt.kind)
    return address.task_id + (f"[{address.map_index}]" if address.map_index >= 0 else "")


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1e9)
