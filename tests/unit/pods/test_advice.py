"""What a task ought to ask for, from what its runs took."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.cli.pods_advise import told
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, PodRun
from hybrid_executor.pods.advice import CPU_STEP_M, MEMORY_STEP_BYTES, MIB, TaskAdvice, advise, percentile

START = datetime(2026, 11, 1, tzinfo=UTC)


def run(number: int = 0, **values: Any) -> PodRun:
    given_values = {
        "dag_id": "etl",
        "task_id": "load",
        "queued_at": START + timedelta(hours=number),
        "ran_s": 3600.0,
        "outcome": Outcome.SUCCEEDED,
        "reason": None,
        "cpu_request_m": 2000,
        "memory_request_bytes": 4096 * MIB,
        "memory_limit_bytes": 4096 * MIB,
        "cpu_peak_m": 200,
        "memory_peak_bytes": 500 * MIB,
    }
    return PodRun(**(given_values | values))


def of_one(runs: list[PodRun]) -> TaskAdvice:
    [advice] = advise(runs)
    return advice


def test_the_highest_peak_and_a_fifth_is_what_memory_to_ask_for() -> None:
    advice = of_one([run(n, memory_peak_bytes=(100 + n) * MIB) for n in range(100)])
    assert advice.memory is not None
    assert (advice.memory.p50, advice.memory.p95, advice.memory.highest) == (149 * MIB, 194 * MIB, 199 * MIB)
    assert advice.memory.proposed == 240 * MIB
    assert advice.memory.saved_hours == (4096 - 240) * MIB * 100


def test_one_run_in_twenty_may_exceed_its_processor_request() -> None:
    peaks = [100] * 94 + [333] + [4000] * 5
    advice = of_one([run(n, cpu_peak_m=peak) for n, peak in enumerate(peaks)])
    assert advice.cpu is not None
    assert (advice.cpu.p95, advice.cpu.highest, advice.cpu.proposed) == (333, 4000, 340)
    assert advice.cpu.saved_hours == (2000 - 340) * 100


def killed(number: int, limit: int) -> PodRun:
    return run(
        number,
        outcome=Outcome.FAILED,
        reason=Reason.OOM_KILLED,
        memory_limit_bytes=limit,
        memory_peak_bytes=limit,
        cpu_peak_m=None,
    )


def test_a_limit_that_killed_says_nothing_of_the_need_unless_somebody_had_more() -> None:
    too_little = of_one([killed(0, 512 * MIB), run(1, memory_peak_bytes=300 * MIB)])
    assert too_little.memory is not None
    assert too_little.memory.proposed == 768 * MIB
    assert "not known" in too_little.notes[0]
    raised_since = of_one([killed(0, 512 * MIB), run(1, memory_peak_bytes=1000 * MIB)])
    assert raised_since.memory is not None
    assert raised_since.memory.proposed == 1200 * MIB
    assert "less than others needed" in raised_since.notes[0]


def test_what_was_asked_for_is_what_the_newest_run_asked_for() -> None:
    runs = [run(n, memory_request_bytes=asked * MIB) for n, asked in ((1, 900), (2, 1000), (0, 100))]
    advice = of_one(runs)
    assert advice.memory is not None
    assert advice.memory.request == 1000 * MIB


def test_a_request_that_is_too_low_saves_less_than_nothing() -> None:
    advice = of_one([run(memory_request_bytes=None, cpu_request_m=100)])
    assert advice.memory is not None
    assert advice.cpu is not None
    assert advice.memory.saved_hours < 0
    assert advice.cpu.saved_hours == -100
    assert advice.notes == ("few runs",)


SILENT: dict[str, Any] = {"cpu_peak_m": None, "memory_peak_bytes": None}


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ([run(**SILENT)], "measure_pods"),
        ([run(outcome=Outcome.FAILED, reason=Reason.EVICTED, **SILENT)], "no run ended well"),
    ],
)
def test_a_task_without_numbers_says_why(runs: list[PodRun], why: str) -> None:
    advice = of_one(runs)
    assert (advice.memory, advice.cpu, advice.measured) == (None, None, 0)
    assert why in advice.notes[0]
    assert any("etl.load: 1 runs" in line and why in line for line in told([advice]))


def test_the_worst_guess_comes_first_and_what_has_no_numbers_last() -> None:
    runs = [
        run(task_id="close", memory_request_bytes=608 * MIB, cpu_request_m=200),
        run(task_id="wasteful", memory_request_bytes=64_000 * MIB),
        run(task_id="silent", **SILENT),
        run(task_id="starved", memory_request_bytes=0, memory_peak_bytes=90_000 * MIB, ran_s=7200.0),
        run(task_id="idle", memory_request_bytes=608 * MIB, cpu_request_m=32_000),
    ]
    assert [task.task_id for task in advise(runs)] == ["starved", "idle", "wasteful", "close", "silent"]


def test_the_rules_stand_below_the_numbers() -> None:
    lines = list(told(advise([run(n) for n in range(9)])))
    assert lines[:3] == [
        "etl.load: 9 of 9 runs measured",
        (
            "  memory asked 4Gi, limit 4Gi; took p50 500Mi, p95 500Mi, most 500Mi"
            " -> request and limit 608Mi (saves 30.7 GiB·h)"
        ),
        "  cpu    asked 2000m; took p50 200m, p95 200m, most 200m -> request 200m (saves 16.2 cpu·h)",
    ]
    assert [line.split(":")[0] for line in lines[4:]] == ["memory", "cpu"]


@given(st.lists(st.integers(0, 2**50), min_size=1))
def test_a_proposal_covers_every_run_and_no_more_than_it_says(peaks: list[int]) -> None:
    advice = of_one([run(n, memory_peak_bytes=peak, cpu_peak_m=peak) for n, peak in enumerate(peaks)])
    assert advice.memory is not None
    assert advice.cpu is not None
    assert max(peaks) * 1.2 <= advice.memory.proposed <= max(peaks) * 1.2 + MEMORY_STEP_BYTES
    assert advice.cpu.p95 <= advice.cpu.proposed < advice.cpu.p95 + CPU_STEP_M + 1
    assert sum(peak > advice.cpu.proposed for peak in peaks) <= len(peaks) * 0.05


@given(values=st.lists(st.integers(), min_size=1), share=st.floats(0, 1))
def test_a_percentile_is_one_of_the_values(values: list[int], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
