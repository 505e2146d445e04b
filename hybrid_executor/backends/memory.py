"""A backend in memory: the fake of all tests of the controller, held to the contract suite.

``MemoryWorld`` is the other side (the broker with its workers, the cluster
with its pods) and outlives any ``MemoryBackend`` that is connected to it, as a
real one outlives a scheduler. Tests drive the world: ``start``, ``end``,
``away``, ``cut_short``. Nothing happens by itself and nothing takes time.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hybrid_executor.model.attempt import BackendName, Submission, SubmissionId
from hybrid_executor.model.observation import Accepted, Diagnosis, Ended, How, Observation, Started, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.resources import Resources


@dataclass(slots=True)
class Run:
    """One submission in the world."""

    submission: Submission
    owner: str
    started: bool = False
    where: str = "memory"
    how: How | None = None
    diagnosis: Diagnosis | None = None
    resources: Resources | None = None
    asked_as: str | None = None
    #: Made, but what it is to run never arrived: it can't start.
    lacks_payload: bool = False
    #: How often its process was started: more than once is what must never happen.
    starts: int = 0


@dataclass(slots=True)
class MemoryWorld:
    """Where submissions run."""

    #: Whether the other side does not answer.
    away: bool = False
    #: Whether what is handed over is made without its payload, as a pod without its Secret.
    cut_short: bool = False
    runs: dict[SubmissionId, Run] = field(default_factory=dict)
    #: Everything that was ever handed over, in order.
    received: list[SubmissionId] = field(default_factory=list)
    #: What another executor sent, by Airflow's id of the workload.
    foreign: dict[str, Run] = field(default_factory=dict)
    listeners: list["MemoryBackend"] = field(default_factory=list)

    def start(self, submission: SubmissionId, where: str = "memory") -> None:
        """Start the process of a submission that waits."""
        run = self.runs[submission]
        if not run.started and run.how is None and not run.lacks_payload:
            run.started, run.starts, run.where = True, run.starts + 1, where
            self._tell(run)

    def end(
        self,
        submission: SubmissionId,
        how: How,
        diagnosis: Diagnosis | None = None,
        resources: Resources | None = None,
        asked_as: str | None = None,
    ) -> None:
        """End a submission, started or not."""
        run = self.runs[submission]
        if run.how is None:
            run.how, run.diagnosis, run.resources, run.asked_as = how, diagnosis, resources, asked_as
            self._tell(run)

    def _tell(self, run: Run) -> None:
        for backend in self.listeners:
            backend.notice(run)


class MemoryBackend:
    """``ports.Backend`` over a ``MemoryWorld``, and one more for each further cluster."""

    def __init__(
        self,
        world: MemoryWorld,
        *,
        name: BackendName = BackendName.CELERY,
        owner: str = "1",
        clusters: Mapping[str, MemoryWorld] | None = None,
    ) -> None:
        self.name = name
        self.owner = owner
        self._worlds = {"": world, **(clusters or {})}
        self._seen: deque[Observation] = deque()
        #: What could not be asked while its world was away, and what was last told of each run.
        self._looking_up: set[tuple[str, SubmissionId]] = set()
        self._inheriting: dict[str, SubmissionId | None] = {}
        self._told: dict[SubmissionId, Observation] = {}

    @property
    def troubles(self) -> Mapping[str, str | None]:
        """See ``ports.Backend``."""
        return {cluster: "away" if world.away else None for cluster, world in self._worlds.items()}

    def start(self) -> None:
        """See ``ports.Backend``."""
        for world in self._worlds.values():
            if self not in world.listeners:
                world.listeners.append(self)

    def stop(self, deadline_s: float) -> None:  # noqa: ARG002
        """See ``ports.Backend``."""
        for world in self._worlds.values():
            if self in world.listeners:
                world.listeners.remove(self)

    def submit(self, batch: Sequence[Submission]) -> None:
        """See ``ports.Backend``."""
        for submission in batch:
            world = self._worlds[submission.attempt.route.cluster]
            if world.away:
                self._seen.append(Waiting(submission.id, Reason.API_UNAVAILABLE, "away", retry_after_s=0.0))
                continue
            world.received.append(submission.id)
            run = world.runs.setdefault(
                submission.id, Run(submission, self.owner, lacks_payload=world.cut_short)
            )
            if world.cut_short and run.lacks_payload:
                self._seen.append(Waiting(submission.id, Reason.API_UNAVAILABLE, "cut", retry_after_s=0.0))
                continue
            run.lacks_payload = False
            self._seen.append(Accepted(submission.id, external_name=f"memory-{submission.id}"))
            self.notice(run)

    def poll(self) -> list[Observation]:
        """See ``ports.Backend``."""
        for cluster, world in self._worlds.items():
            if not world.away:
                self._answer(cluster, world)
        seen = list(self._seen)
        self._seen.clear()
        return seen

    def _answer(self, cluster: str, world: MemoryWorld) -> None:
        asked = sorted(submission for where, submission in self._looking_up if where == cluster)
        for submission in asked:
            self._looking_up.remove((cluster, submission))
            run = world.runs.get(submission)
            if run is None:
                self._seen.append(Ended(submission, How.ABSENT))
            else:
                run.owner = self.owner
                self._told.pop(submission, None)
                if run.lacks_payload:
                    name = f"memory-{submission}"
                    self._seen.append(Accepted(submission, external_name=name, lacks_payload=True))
                self.notice(run)
        if not cluster:
            self._take_foreign(world)
        for run in world.runs.values():
            self.notice(run)

    def _take_foreign(self, world: MemoryWorld) -> None:
        for workload_id, wanted in self._inheriting.items():
            if (found := world.foreign.pop(workload_id, None)) and wanted:
                sent = found.submission
                sent = replace(
                    sent, attempt=replace(sent.attempt, id=wanted.attempt_id), number=wanted.number
                )
                world.runs[wanted] = replace(found, submission=sent, owner=self.owner)
        self._inheriting.clear()

    def notice(self, run: Run) -> None:
        """Tell what is new of a run of ours; the world calls this."""
        if run.owner != self.owner or self._worlds[run.submission.attempt.route.cluster].away:
            return
        observation = _state_of(run)
        if self._told.get(run.submission.id) != observation:
            self._told[run.submission.id] = observation
            self._seen.append(observation)

    def cancel(self, ids: Collection[SubmissionId], cluster: str = "") -> None:
        """See ``ports.Backend``."""
        world = self._worlds[cluster]
        for submission in ids:
            if submission in world.runs:
                world.end(submission, How.CANCELLED)
            else:
                self._seen.append(Ended(submission, How.CANCELLED))

    def adopt(self, ids: Collection[SubmissionId], cluster: str = "") -> None:
        """See ``ports.Backend``."""
        self._looking_up.update((cluster, submission) for submission in ids)

    def inherit(self, wanted: Mapping[SubmissionId, str], unwanted: Collection[str] = ()) -> None:
        """See ``ports.Backend``."""
        self._inheriting |= {workload_id: submission for submission, workload_id in wanted.items()}
        self._inheriting |= dict.fromkeys(unwanted)

    def sweep(self, live_owners: Collection[str]) -> None:
        """See ``ports.Backend``."""
        for world in self._worlds.values():
            for run in world.runs.values():
                if run.how is not None and run.owner not in live_owners:
                    run.owner = self.owner

    def release(self, ids: Collection[SubmissionId]) -> None:
        """See ``ports.Backend``."""
        for world in self._worlds.values():
            for submission in ids:
                if (run := world.runs.get(submission)) and run.how is not None:
                    del world.runs[submission]
                    self._told.pop(submission, None)

    def log(self, attempt_id: str, cluster: str = "") -> list[str] | None:  # noqa: ARG002
        """See ``ports.Backend``: nothing is printed here."""
        return None


def _state_of(run: Run) -> Observation:
    submission = run.submission.id
    if run.how is not None:
        return Ended(submission, run.how, run.diagnosis, resources=run.resources, asked_as=run.asked_as)
    if run.started:
        return Started(submission, where=run.where)
    return Waiting(submission, Reason.POD_PENDING, "not started yet")
