"""The fake keeps the promises of the real backends, so what is tested with it means something."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from hybrid_executor.backends.memory import MemoryBackend, MemoryWorld, Run
from hybrid_executor.model.attempt import Attempt, BackendName, Route, Submission, SubmissionId, WorkloadKind
from hybrid_executor.model.observation import Diagnosis, How
from hybrid_executor.model.reason import Reason
from tests.contract.backend_suite import BackendSuite, Fate, WitnessSuite


class MemoryHarness:
    """Drives a world according to each submission's fate, whenever the backend is polled."""

    def __init__(self) -> None:
        self.world = MemoryWorld()
        self.fates: dict[SubmissionId, Fate] = {}
        self.owners = 1
        self.backend = self._driven(MemoryBackend(self.world, owner=self.owner))
        self.backend.start()

    @property
    def owner(self) -> str:
        return str(self.owners)

    def _driven(self, backend: MemoryBackend) -> MemoryBackend:
        poll = backend.poll

        def drive_and_poll() -> list:
            for run in list(self.world.runs.values()):
                self._drive(run.submission.id)
            return poll()

        backend.poll = drive_and_poll  # type: ignore[method-assign]
        return backend

    def _drive(self, submission: SubmissionId) -> None:
        fate = self.fates[submission]
        if fate is not Fate.PENDS:
            self.world.start(submission)
        if fate is Fate.SUCCEEDS:
            self.world.end(submission, How.SUCCEEDED)
        if fate is Fate.FAILS:
            self.world.end(submission, How.FAILED, Diagnosis(reason=Reason.ERROR, exit_code=1))

    def unstarted(self) -> MemoryBackend:
        return self._driven(MemoryBackend(self.world, owner=self.owner))

    def submission(self, fate: Fate, *, attempt_id: str | None = None, number: int = 1) -> Submission:
        attempt_id = attempt_id or str(uuid4())
        self.fates[SubmissionId(attempt_id, number)] = fate
        attempt = Attempt(
            id=attempt_id,
            kind=WorkloadKind.TASK,
            workload_id=str(uuid4()),
            address=None,
            queue="q",
            priority=1,
            route=Route(backend=BackendName.CELERY, rule="test"),
            queued_at=datetime.now(UTC),
        )
        return Submission(attempt=attempt, number=number, payload="{}")

    def sent_by_another(self, fate: Fate) -> tuple[SubmissionId, str]:
        sent = self.submission(fate)
        workload_id = sent.attempt.workload_id
        self.world.foreign[workload_id] = Run(sent, owner="another", started=True, starts=1)
        return sent.id, workload_id

    def finish(self, submission: SubmissionId) -> None:
        self.world.end(submission, How.SUCCEEDED)

    def break_other_side(self) -> None:
        self.world.away = True

    def restore_other_side(self) -> None:
        self.world.away = False

    def restart(self) -> MemoryBackend:
        self.backend.stop(1.0)
        self.owners += 1
        self.backend = self.unstarted()
        self.backend.start()
        return self.backend

    def swept_by_others(self, submission: SubmissionId) -> bool:
        run = self.world.runs.get(submission)
        return run is not None and run.how is not None


@pytest.fixture
def harness() -> MemoryHarness:
    return MemoryHarness()


class TestMemoryBackend(BackendSuite, WitnessSuite):
    """The whole suite."""
