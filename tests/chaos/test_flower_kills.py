"""A real Flower, whose numbers are the ledger's although who tells it of pods, and it itself, were killed."""

import time
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.naming import celery_task_id
from tests.chaos.scene import Scene, eventually
from tests.fixtures.flower import flower_tasks, flower_workers
from tests.fixtures.stack import wait_until

#: After a kill another begins to tell when the lease of the dead one is over.
TELLS_WITHIN_S = 60
#: Flower, and what it needs to show a first task; a busy machine makes that slow, not wrong.
STARTS_WITHIN_S = 120
SHOWN = {"succeeded": "SUCCESS", "failed": "FAILURE", "revoked": "REVOKED"} | dict.fromkeys(
    ("replaced", "restarted"), "RETRY"
)


def by_the_ledger(scene: Scene, run_id: str) -> dict[str, tuple[str, str]]:
    """Of each submission of a run: UUID, name and state as Flower must show them."""
    query = sa.text(
        "SELECT attempt_id, submission, dag_id || '.' || task_id, outcome FROM hybrid_submission"
        " WHERE run_id = :run"
    )
    with scene.stack.db.connect() as connection:
        rows = connection.execute(query, {"run": run_id}).all()
    return {
        celery_task_id(SubmissionId(i, number)): (name, SHOWN.get(how, "open"))
        for i, number, name, how in rows
    }


def by_flower(scene: Scene, run_id: str) -> dict[str, tuple[str, str]]:
    """The same, as it shows them; found by the run that is among their arguments."""
    return {
        uuid: (task["name"], task["state"])
        for uuid, task in flower_tasks(scene.stack).items()
        if run_id in (task["args"] or "")
    }


def saved_at(folder: Path) -> float:
    """When the state that Flower would find was saved: the time of its oldest file.

    Flower writes files of other names, and renames them one by one when all are written.
    """
    times: list[float] = []
    for file in folder.glob("flower*"):
        if not {".tmp", ".corrupt"} & set(file.suffixes):
            with suppress(FileNotFoundError):
                times.append(file.stat().st_mtime)
    return min(times, default=0.0)


def test_flower_has_the_ledger_s_numbers_after_kills(scene: Scene) -> None:
    worker = f"kubernetes@{scene.stack.namespace}"
    run = scene.stack.trigger("held")
    wait_until(
        lambda: (
            eventually(lambda: "STARTED" in {state for _, state in by_flower(scene, run).values()})
            and flower_workers(scene.stack).get(worker, {}).get("active")
        ),
        STARTS_WITHIN_S,
        lambda: f"nothing runs by Flower: {by_flower(scene, run)} {flower_workers(scene.stack)}",
    )
    scene.stack.kill("scheduler", hold=True)
    scene.let_go(run, 1)
    scene.stack.restart("scheduler")
    scene.stack.wait_run("held", run, 150)
    wait_until(
        lambda: by_flower(scene, run) == by_the_ledger(scene, run),
        TELLS_WITHIN_S,
        lambda: f"Flower: {by_flower(scene, run)}\nledger: {by_the_ledger(scene, run)}",
    )
    expected = by_the_ledger(scene, run)
    assert len(expected) > 10
    # What the kill caught between sending and recording is sent again, as a submission of its own.
    assert "SUCCESS" in {state for _, state in expected.values()} <= {"SUCCESS", "RETRY"}
    # As of its next heartbeat.
    wait_until(
        lambda: not flower_workers(scene.stack)[worker]["active"],
        30,
        lambda: f"active: {flower_workers(scene.stack)[worker]}",
    )
    shown = flower_workers(scene.stack)[worker]
    assert shown["status"]
    assert shown["task-succeeded"] >= 5

    folder, ended_at = scene.stack.stack.setup.state / "flower", time.time()
    wait_until(lambda: saved_at(folder) > ended_at, 30, lambda: "Flower did not save its state")
    scene.stack.kill("flower")
    wait_until(
        lambda: eventually(lambda: by_flower(scene, run), STARTS_WITHIN_S) == expected,
        STARTS_WITHIN_S,
        lambda: f"Flower after its own death: {by_flower(scene, run)}",
    )
