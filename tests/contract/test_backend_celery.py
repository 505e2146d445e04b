"""The backend contract over a real broker and a real Celery worker."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid_executor.backends.celery.backend import CeleryBackend
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.model.attempt import Submission, SubmissionId
from hybrid_executor.model.observation import Accepted
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.contract.backend_suite import BackendSuite, Fate, Heard
from tests.fixtures.celery import celery_app, celery_submission, light_worker
from tests.fixtures.live import until

#: Fast for tests: the contract is about order and truth, not about how often is polled.
CONFIG = CeleryConfig(poll_interval_s=0.1, look_again_s=0.2, absent_after_s=0.5, publish_retry_s=0.05)
BROKER, RESULTS = 1, 2
UNSERVED = "nobody-serves-this"
#: What a worker may need for its start on a busy machine.
WORKER_S = 90.0


class World:
    """One Valkey and one worker for the whole module; the suite's tests kill and restart the Valkey."""

    def __init__(self, server: ValkeyServer, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def app(self) -> Any:
        return celery_app(self.server.url_of(BROKER), self.server.url_of(RESULTS))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("celery-contract")
    server = ValkeyServer(folder / "valkey")
    server.start()
    world = World(server, folder)
    with light_worker(server.url_of(BROKER), server.url_of(RESULTS), folder):
        until(lambda: world.app().control.ping(timeout=0.5), WORKER_S)
        yield world
    server.stop()


class CeleryHarness:
    def __init__(self, world: World) -> None:
        self._world = world
        self._gates: dict[SubmissionId, Path] = {}
        self._number = 0
        self._broken = False
        self.backend = self.unstarted()
        self.backend.start()

    @property
    def owner(self) -> str:
        return str(self._number)

    def unstarted(self) -> CeleryBackend:
        return CeleryBackend(CONFIG, self._world.app)

    def submission(self, fate: Fate, *, attempt_id: str | None = None, number: int = 1) -> Submission:
        attempt_id = attempt_id or str(uuid.uuid4())
        gate = self._world.folder / f"{attempt_id}-{number}"
        order: dict[str, object] = {"gate": str(gate)} if fate is Fate.BLOCKS else {}
        if fate is Fate.FAILS:
            order["fails"] = "as it was told"
        queue = UNSERVED if fate is Fate.PENDS else "default"
        submission = celery_submission(order, queue=queue, attempt_id=attempt_id, number=number)
        self._gates[submission.id] = gate
        return submission

    def sent_by_another(self, fate: Fate) -> tuple[SubmissionId, str]:
        """The stock executor's message of an attempt has the name of ours."""
        sent = self.submission(fate)
        self.backend.submit([sent])
        Heard(self).until_kind(Accepted, [sent.id])
        return sent.id, sent.attempt.workload_id

    def finish(self, submission: SubmissionId) -> None:
        self._gates[submission].touch()

    def break_other_side(self) -> None:
        self._world.server.kill()
        self._broken = True

    def restore_other_side(self) -> None:
        self._world.server.start()
        self._broken = False

    def restart(self) -> CeleryBackend:
        self.backend.stop(1.0)
        self._number += 1
        self.backend = self.unstarted()
        self.backend.start()
        return self.backend

    def close(self) -> None:
        self.backend.stop(1.0)
        if self._broken:
            self.restore_other_side()
        for gate in self._gates.values():
            gate.touch()


@pytest.fixture
def harness(world: World) -> Iterator[CeleryHarness]:
    harness = CeleryHarness(world)
    yield harness
    harness.close()


class TestCeleryBackend(BackendSuite):
    """Everything that ``ports.Backend`` promises."""
