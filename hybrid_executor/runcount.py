"""Where the task instances of one run are, counted so that the counts are all of them. Pure.

Airflow says of each what became of it; of those that it calls queued the ledger
says how far they are. The page in Airflow's UI calls it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from hybrid_executor.contract import RunGroup
from hybrid_executor.model.record import Stage


class Place(StrEnum):
    """Where a task instance is: the ledger's words, and what is with Airflow alone."""

    #: With Airflow: not scheduled, or not queued yet, deferred, or waiting for its next try.
    NOT_QUEUED = "not queued"
    #: Airflow calls it queued, and the ledger has no open submission: another executor has it, or just now.
    NOT_IN_LEDGER = "not in the ledger"
    QUEUED = "queued"
    SUBMITTED = "submitted"
    RUNNING = "running"
    ENDED = "ended"


#: Airflow's states of what runs, and of what is over; all others are with Airflow.
RUNNING = frozenset({"running", "restarting"})
ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCount:
    """One run; each task instance is in one place."""

    places: Mapping[Place, int]
    #: As Airflow calls them.
    states: Mapping[str, int]
    #: The places of each task's instances, those first of which most have not ended.
    tasks: Sequence[tuple[str, Mapping[Place, int]]]

    @property
    def total(self) -> int:
        return sum(self.places.values())


def place_of(state: str | None, stage: Stage | None) -> Place:
    """Airflow is the authority on what runs and on what is over."""
    if state in ENDED:
        return Place.ENDED
    if state in RUNNING:
        return Place.RUNNING
    if state == "queued":
        return Place(stage) if stage else Place.NOT_IN_LEDGER
    return Place.NOT_QUEUED


def count_run(groups: Iterable[RunGroup], stages: Mapping[str, Stage]) -> RunCount:
    """``stages`` is how far the open attempts of the run are, by id."""
    places: Counter[Place] = Counter()
    states: Counter[str] = Counter()
    tasks: dict[str, Counter[Place]] = {}
    for group in groups:
        place = place_of(group.state, stages.get(group.attempt_id or ""))
        places[place] += group.count
        states[group.state or "no state"] += group.count
        tasks.setdefault(group.task_id, Counter())[place] += group.count
    ordered = sorted(tasks.items(), key=lambda one: (one[1][Place.ENDED] - one[1].total(), one[0]))
    return RunCount(places=places, states=dict(states.most_common()), tasks=ordered)
