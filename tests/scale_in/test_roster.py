"""Real workers, asked what they have, and told by hand to drain."""

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid_executor.backends.celery.app import TASK_NAME
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.roster import Member, Roster
from tests.fixtures.celery import celery_app, light_worker
from tests.fixtures.kube import until

PATIENCE_S = 40.0


@pytest.mark.parametrize("imports", [["hybrid_executor.worker.draining"], []], ids=["ours", "stock"])
def test_a_worker_drains_by_hand_with_our_module_or_without(
    valkey_url: str, tmp_path: Path, imports: list[str]
) -> None:
    app = celery_app(valkey_url, valkey_url)
    gate, runs = tmp_path / "gate", tmp_path / "runs"

    def publish(**order: Any) -> None:
        app.send_task(TASK_NAME, (json.dumps({"deaf": True, "runs": str(runs), **order}),), queue="default")

    with light_worker(valkey_url, valkey_url, tmp_path, imports=imports):
        publish(gate=str(gate))
        until(runs.exists, "it does not run", PATIENCE_S)
        roster = Roster(app, CeleryConfig())
        # Who is late with an answer is asked again.
        full = Member(queues=("default",), at_hand=1, slots=4)
        found = until(lambda: full in (seen := roster.look()).values() and seen, "never told", PATIENCE_S)
        [(name, member)] = found.items()
        assert roster.drain(name, member)
        until(
            lambda: roster.look().get(name) == Member(queues=(), at_hand=1, slots=4), "it takes", PATIENCE_S
        )
        publish()
        assert until(lambda: (now := roster.look().get(name)) and now.at_hand, "gone", PATIENCE_S) == 1
        gate.touch()
        until(lambda: (now := roster.look().get(name)) and not now.at_hand, "it never ends", PATIENCE_S)
        roster.close()
    assert len(runs.read_text().splitlines()) == 1


def test_what_a_worker_does_not_say_in_time_is_unknown_and_not_nothing(
    valkey_url: str, tmp_path: Path
) -> None:
    app = celery_app(valkey_url, valkey_url)
    with light_worker(valkey_url, valkey_url, tmp_path, imports=["tests.fixtures.late_worker"]):
        roster = Roster(app, CeleryConfig())
        dry, late = (Member(queues=("default",), at_hand=at_hand, slots=4) for at_hand in (0, None))
        until(lambda: dry in roster.look().values(), "it never answers", PATIENCE_S)
        (tmp_path / "late").touch()
        until(lambda: late in roster.look().values(), "what it did not say is taken for nothing", PATIENCE_S)
        roster.close()
