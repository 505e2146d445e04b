"""A submission's way is told as spans to a collector, inside the trace of its task."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.observation import Diagnosis, How
from hybrid_executor.model.reason import Reason
from hybrid_executor.spans import Spans
from tests.fixtures.collector import Collector, collecting
from tests.fixtures.rig import Rig

TRACE, TASK_RUN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CARRIER = {"traceparent": f"00-{TRACE}-{TASK_RUN}-01"}
LEFT_OUT = {"traceparent": f"00-{TRACE}-{TASK_RUN}-00"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def provider(collector: Collector) -> Iterator[TracerProvider]:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{collector.url}/v1/traces")))
    yield provider
    provider.shutdown()


def run_pod(rig: Rig, how: How, diagnosis: Diagnosis | None = None) -> str:
    """A pod's whole life: 2 s with the scheduler, 1 s until it is there, 4 s to start, 8 s running."""
    flight = rig.queue(backend=BackendName.KUBERNETES, task_id="load")
    rig.steps(2.0)
    rig.steps(1.0)
    rig.clock.elapsed_s += 4.0
    rig.run(flight, where="pod on node")
    rig.steps()
    if how is How.SUCCEEDED:
        rig.row(flight).state = "success"
    rig.worlds[BackendName.KUBERNETES].end(flight.id, how, diagnosis)
    rig.steps(8.0)
    return flight.attempt.id


def tell(rig: Rig, spans: Spans, carrier: dict[str, str] | None = CARRIER) -> None:
    for step in rig.heard.steps:
        if step.is_end:
            spans.note(step, carrier)


def seconds(span: Any) -> float:
    return float(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def test_the_way_from_queued_to_ended_is_a_part_of_the_tasks_trace(
    collector: Collector, provider: TracerProvider
) -> None:
    rig = Rig()
    attempt = run_pod(rig, How.SUCCEEDED)
    tell(rig, Spans(is_on=True, provider=provider))
    provider.force_flush()
    whole = collector.named("submission.load")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, TASK_RUN)
    assert seconds(whole) == 15.0
    said = {one.key: one.value for one in whole.attributes}
    assert said["hybrid_executor.attempt_id"].string_value == attempt
    assert said["hybrid_executor.where"].string_value == "pod on node"
    stages = {"queued": 2.0, "waiting": 1.0, "starting": 4.0, "running": 8.0}
    assert {name: seconds(collector.named(name)) for name in stages} == stages
    assert {collector.named(name).parent_span_id for name in stages} == {whole.span_id}
    assert whole.status.code == trace.StatusCode.UNSET.value


def test_an_end_that_is_an_error_says_why(collector: Collector, provider: TracerProvider) -> None:
    rig = Rig()
    run_pod(rig, How.FAILED, Diagnosis(reason=Reason.OOM_KILLED, message="limit of 512Mi"))
    tell(rig, Spans(is_on=True, provider=provider))
    provider.force_flush()
    whole = collector.named("submission.load")
    assert whole.status.code == trace.StatusCode.ERROR.value
    assert whole.status.message == "OOMKilled: limit of 512Mi"


def test_a_submission_that_is_replaced_and_the_one_that_follows_have_spans_of_their_own(
    collector: Collector, provider: TracerProvider
) -> None:
    rig = Rig()
    flight = rig.queue(backend=BackendName.KUBERNETES, task_id="load")
    rig.steps(1.0, count=2)
    world, evicted = rig.worlds[BackendName.KUBERNETES], Diagnosis(reason=Reason.EVICTED, message="")
    world.end(flight.id, How.FAILED, evicted)
    rig.steps(1.0, count=10)
    rig.controller.revoke(flight)
    rig.steps(1.0, count=2)
    tell(rig, Spans(is_on=True, provider=provider))
    provider.force_flush()
    both = [span for span in collector.spans if span.name == "submission.load"]
    first, second = sorted(both, key=lambda span: span.start_time_unix_nano)
    assert second.start_time_unix_nano == first.end_time_unix_nano


def test_a_run_that_the_sampler_leaves_out_is_left_out(
    collector: Collector, provider: TracerProvider
) -> None:
    rig = Rig()
    run_pod(rig, How.SUCCEEDED)
    tell(rig, Spans(is_on=True, provider=provider), LEFT_OUT)
    provider.force_flush()
    assert collector.spans == []


def test_one_whose_carrier_is_lost_is_a_trace_of_its_own(
    collector: Collector, provider: TracerProvider
) -> None:
    rig = Rig()
    run_pod(rig, How.SUCCEEDED)
    tell(rig, Spans(is_on=True, provider=provider), None)
    provider.force_flush()
    whole = collector.named("submission.load")
    assert not whole.parent_span_id
    assert collector.named("running").trace_id == whole.trace_id


def test_where_tracing_is_off_nothing_is_made(collector: Collector, provider: TracerProvider) -> None:
    rig = Rig()
    run_pod(rig, How.SUCCEEDED)
    tell(rig, Spans(is_on=False, provider=provider))
    provider.force_flush()
    assert collector.spans == []
