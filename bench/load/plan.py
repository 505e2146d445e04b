"""How much is offered when, and how long it lives: the whole of a run before it begins. Pure.

A run has four phases, each of which ends when everything that it offered has
ended: nothing at all, Celery tasks alone, pods alone, and both together, which
is the load. The first three say what one scheduler, one task and one pod cost;
the last one whether that holds, and what becomes of it over time.

A task is known everywhere by its map index, which says its phase and its
scheduler; so every process knows by itself how long it lives.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Self

CELERY, KUBERNETES = "default", "kubernetes"
#: Their order is that of the run.
IDLE, CELERY_ALONE, PODS_ALONE, LOAD = "idle", "celery", "pods", "load"
#: Of map indexes: room for so many tasks of one scheduler in one phase, and so many schedulers.
_TASKS, _SCHEDULERS = 10_000_000, 10
#: The shortest and the longest life, of the mean one; evenly drawn, so that the mean is exact.
SPREAD = (0.5, 1.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What is asked for."""

    #: In flight once as many end as begin.
    pods: int
    #: To Celery.
    tasks_an_hour: int
    #: For which the load is offered; what it has begun then ends.
    minutes: float
    pod_life_s: float
    task_life_s: float = 5.0
    #: For which Celery tasks, and then pods, are offered alone.
    alone_s: float = 60.0
    #: For which nothing is.
    idle_s: float = 60.0
    schedulers: int = 2
    #: Of the lives.
    seed: int = 1


SIZES: Mapping[str, Amounts] = {
    # Two to three minutes, on a machine that others use as well.
    "small": Amounts(pods=150, tasks_an_hour=36_000, minutes=0.5, pod_life_s=15.0, alone_s=15.0, idle_s=10.0),
    # Pods come, and go, as fast as Celery tasks do.
    "full": Amounts(pods=10_000, tasks_an_hour=100_000, minutes=25.0, pod_life_s=360.0),
}


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a run."""

    name: str
    #: For which it offers.
    offers_s: float
    tasks_a_second: float
    pods_a_second: float
    task_life_s: float
    pod_life_s: float

    @property
    def drains_s(self) -> float:
        """How long what it offered last may live."""
        lives = [self.task_life_s * bool(self.tasks_a_second), self.pod_life_s * bool(self.pods_a_second)]
        return max(lives) * SPREAD[1]


@dataclass(frozen=True, slots=True)
class Plan:
    """A run of so much."""

    amounts: Amounts

    @property
    def phases(self) -> tuple[Phase, ...]:
        """In their order."""
        a = self.amounts
        tasks, pods = a.tasks_an_hour / 3600, a.pods / a.pod_life_s
        # What a pod costs does not depend on its life; alone they need not live for long.
        short_s = min(a.pod_life_s, a.task_life_s)
        return (
            Phase(IDLE, a.idle_s, 0, 0, a.task_life_s, a.pod_life_s),
            Phase(CELERY_ALONE, a.alone_s, tasks, 0, a.task_life_s, a.pod_life_s),
            Phase(PODS_ALONE, a.alone_s, 0, pods, a.task_life_s, short_s),
            Phase(LOAD, a.minutes * 60, tasks, pods, a.task_life_s, a.pod_life_s),
        )

    def due(self, phase: int, scheduler: int, queue: str, elapsed_s: float) -> int:
        """How many tasks of a queue one scheduler is to have offered so long after the phase began."""
        of = self.phases[phase]
        rate = of.pods_a_second if queue == KUBERNETES else of.tasks_a_second
        # Schedulers take turns: the remainder is not offered by all of them at once.
        share = scheduler / self.amounts.schedulers
        return int(max(0.0, min(elapsed_s, of.offers_s)) * rate / self.amounts.schedulers + share)

    def life_s(self, index: int, queue: str) -> float:
        """How long the task of this map index runs."""
        of = self.phases[phase_of(index)]
        mean_s = of.pod_life_s if queue == KUBERNETES else of.task_life_s
        # Not for secrets: the same seed draws the same lives.
        return mean_s * Random(f"{self.amounts.seed}:{index}").uniform(*SPREAD)  # noqa: S311

    def text(self) -> str:
        """For the command line of a process."""
        return json.dumps(asdict(self.amounts))

    @classmethod
    def of_text(cls, text: str) -> Self:
        """The reverse of ``text``."""
        return cls(Amounts(**json.loads(text)))


def first_index(phase: int, scheduler: int) -> int:
    """The map index of the first task that a scheduler (from 0) offers in a phase (from 0)."""
    return (phase * _SCHEDULERS + scheduler) * _TASKS + 1


def phase_of(index: int) -> int:
    """In which phase the task of a map index was offered."""
    return index // (_SCHEDULERS * _TASKS)


def lost(offered: Mapping[int, Any], observed: Mapping[int, Any]) -> list[int]:
    """Map indexes of which no scheduler has told Airflow an end, in order."""
    return sorted(offered.keys() - observed.keys())
