"""From what the runs of a task took to what it ought to ask for.

Pure. The rules, which ``RULES`` tells the user in one line each:

- Memory can't be taken back from a process, so request and limit are one number:
  the highest peak and a fifth, or one and a half times the limit at which a run
  was killed, where no run is known to have had more and lived.
- A processor can be shared, so only the request is proposed: what 95 of 100 runs
  did not exceed in their busiest minute. A limit would slow a task down on a node
  with nothing else to do.

Called by ``airflow hybrid pods advise``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, PodRun

MIB = 1 << 20
MEMORY_STEP_BYTES = 16 * MIB
MEMORY_HEADROOM = 1.2
KILLED_HEADROOM = 1.5
CPU_STEP_M = 10
#: Below so many measured runs a proposal is marked as such.
FEW_RUNS = 5

RULES = (
    "memory: the highest peak and a fifth, in steps of 16Mi; 1.5 times a limit that killed, if none had more",
    "cpu: what 95 of 100 runs did not exceed in their busiest minute, in steps of 10m; no limit",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Of one resource, in bytes or thousandths of a processor."""

    #: Of the newest run that was measured; None where it asked for none.
    request: int | None
    limit: int | None
    p50: int
    p95: int
    highest: int
    proposed: int
    #: What the measured runs would have left to others: bytes or thousandths, times hours; less than
    #: nothing where more is proposed than was asked for.
    saved_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskAdvice:
    """Of one task. ``memory`` and ``cpu`` are None where no run told what it took."""

    dag_id: str
    task_id: str
    runs: int
    measured: int
    memory: Advice | None
    cpu: Advice | None
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Task:
    """The runs of one task; thousands of them cost a few numbers each."""

    runs: int = 0
    ended_well: int = 0
    measured: int = 0
    newest: PodRun | None = None
    hours: float = 0.0
    cpus: list[int] = field(default_factory=list)
    memories: list[int] = field(default_factory=list)
    memory_kills: int = 0
    highest_kill: int = 0
    highest_survived: int = 0

    def add(self, run: PodRun) -> None:
        self.runs += 1
        self.ended_well += run.outcome is Outcome.SUCCEEDED
        if run.cpu_peak_m is None and run.memory_peak_bytes is None:
            return
        self.measured += 1
        self.hours += run.ran_s / 3600
        if self.newest is None or run.queued_at >= self.newest.queued_at:
            self.newest = run
        if run.cpu_peak_m is not None:
            self.cpus.append(run.cpu_peak_m)
        if run.memory_peak_bytes is not None:
            self._add_memory(run.memory_peak_bytes, killed=run.reason is Reason.OOM_KILLED)

    def _add_memory(self, peak: int, *, killed: bool) -> None:
        self.memories.append(peak)
        if killed:
            self.memory_kills += 1
            self.highest_kill = max(self.highest_kill, peak)
        else:
            self.highest_survived = max(self.highest_survived, peak)

    @property
    def kill_hides_the_need(self) -> bool:
        """Whether no run is known to have had more than one that was killed, and lived."""
        return self.memory_kills > 0 and self.highest_kill >= self.highest_survived


def advise(runs: Iterable[PodRun]) -> list[TaskAdvice]:
    """What each task ought to ask for; first those whose requests are furthest off, for longest."""
    tasks: dict[tuple[str, str], _Task] = {}
    for run in runs:
        tasks.setdefault((run.dag_id, run.task_id), _Task()).add(run)
    advice = [_of_task(dag_id, task_id, task) for (dag_id, task_id), task in sorted(tasks.items())]
    return sorted(advice, key=_how_far_off, reverse=True)


def _how_far_off(task: TaskAdvice) -> tuple[bool, float]:
    memory = abs(task.memory.saved_hours) if task.memory else 0.0
    # A processor counts as 4 GiB, which is what clouds sell with one.
    cpu = abs(task.cpu.saved_hours) / 1000 * 4 * 1024 * MIB if task.cpu else 0.0
    return task.measured > 0, memory + cpu


def _of_task(dag_id: str, task_id: str, task: _Task) -> TaskAdvice:
    newest = task.newest
    memory = cpu = None
    if newest and task.memories:
        factor = KILLED_HEADROOM if task.kill_hides_the_need else MEMORY_HEADROOM
        proposed = _in_steps(max(task.memories) * factor, MEMORY_STEP_BYTES)
        asked = newest.memory_request_bytes
        memory = _advice(asked, newest.memory_limit_bytes, task.memories, proposed, task.hours)
    if newest and task.cpus:
        proposed = _in_steps(percentile(task.cpus, 0.95), CPU_STEP_M)
        cpu = _advice(newest.cpu_request_m, None, task.cpus, proposed, task.hours)
    return TaskAdvice(
        dag_id=dag_id,
        task_id=task_id,
        runs=task.runs,
        measured=task.measured,
        memory=memory,
        cpu=cpu,
        notes=tuple(_notes(task)),
    )


def _advice(
    request: int | None, limit: int | None, peaks: Sequence[int], proposed: int, hours: float
) -> Advice:
    return Advice(
        request=request,
        limit=limit,
        p50=percentile(peaks, 0.5),
        p95=percentile(peaks, 0.95),
        highest=max(peaks),
        proposed=proposed,
        saved_hours=((request or 0) - proposed) * hours,
    )


def _notes(task: _Task) -> Iterator[str]:
    if not task.measured:
        yield (
            "no run told what it took: see [hybrid_executor] measure_pods"
            if task.ended_well
            else "no run ended well, and only those tell what they took"
        )
        return
    if task.kill_hides_the_need:
        yield f"{task.memory_kills} killed for memory: what they would have needed is not known"
    elif task.memory_kills:
        yield f"{task.memory_kills} killed for memory, at less than others needed"
    if task.measured < FEW_RUNS:
        yield "few runs"


def percentile(values: Sequence[int], share: float) -> int:
    """The smallest of the values that so great a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _in_steps(value: float, step: int) -> int:
    return max(math.ceil(value / step), 1) * step
