"""Each step of a submission is one line of JSON, which joins with other logs and holds no secret."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.observation import Diagnosis, How, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.transitionlog import LINES_MAX, STDOUT, TransitionLog, fields_of
from tests.fixtures.rig import Rig

TOKEN = "eyJhbGciOiJIUzUxMiJ9.the-token"


@dataclass
class Workload:
    """What carries a token, as Airflow's workload does."""

    token: str = TOKEN


@pytest.fixture
def rig() -> Rig:
    return Rig()


def lines_of(rig: Rig) -> list[dict[str, Any]]:
    return [json.loads(json.dumps(fields_of(step, "1"))) for step in rig.heard.steps]


def test_a_life_is_told_step_by_step_with_the_seconds_of_each_stage(rig: Rig) -> None:
    flight = rig.queue(backend=BackendName.KUBERNETES)
    rig.steps(2.0)
    rig.steps(1.0)
    rig.clock.elapsed_s += 4.0
    rig.run(flight, where="pod on node")
    rig.steps()
    rig.row(flight).state = "success"
    rig.worlds[BackendName.KUBERNETES].end(flight.id, How.SUCCEEDED)
    rig.steps(8.0)
    told = [(line.get("from"), line["to"], line.get("stage"), line.get("stage_s")) for line in lines_of(rig)]
    assert told == [
        (None, "ready", None, None),
        ("ready", "sent", "queued", 2.0),
        ("sent", "accepted", "waiting", 1.0),
        # A wait that has a name now.
        ("accepted", "accepted", None, None),
        ("accepted", "started", "starting", 4.0),
        ("started", "succeeded", "running", 8.0),
    ]
    last = lines_of(rig)[-1]
    address = flight.attempt.address
    assert address
    assert last["attempt_id"] == flight.attempt.id
    assert (last["dag_id"], last["task_id"], last["run_id"]) == (
        address.dag_id,
        address.task_id,
        address.run_id,
    )
    assert (last["where"], last["backend"], last["scheduler"]) == ("pod on node", "kubernetes", "1")


def test_a_wait_is_told_once_with_its_reason_and_a_second_submission_begins_anew(rig: Rig) -> None:
    flight = rig.queue(backend=BackendName.KUBERNETES)
    rig.steps(count=2)
    for _ in range(3):
        rig.sees(Waiting(flight.id, Reason.IMAGE_PULL, "no such image"))
    del rig.backends[BackendName.KUBERNETES].poll
    rig.worlds[BackendName.KUBERNETES].end(
        flight.id, How.FAILED, Diagnosis(reason=Reason.EVICTED, message="low on memory")
    )
    rig.steps()
    told = [(line["submission"], line["to"], line.get("reason")) for line in lines_of(rig)]
    assert told[-3:] == [
        (1, "accepted", "ImagePull"),
        (1, "replaced", "Evicted"),
        (2, "backoff", "Evicted"),
    ]


def test_a_stage_is_timed_once_however_often_it_is_offered(rig: Rig) -> None:
    world = rig.worlds[BackendName.KUBERNETES]
    world.away = True
    rig.queue(backend=BackendName.KUBERNETES)
    rig.steps(30.0, count=8)
    told = [line["to"] for line in lines_of(rig)]
    assert told.count("sent") >= 2
    assert told.count("sent") - 1 <= told.count("backoff")
    world.away = False
    rig.steps(30.0, count=4)
    stages = [line["stage"] for line in lines_of(rig) if "stage" in line]
    assert stages == ["queued", "waiting"]


def test_no_line_holds_what_a_submission_carries(rig: Rig, tmp_path: Path) -> None:
    flight = rig.queue()
    flight.parcel = Workload()
    rig.steps(count=2)
    rig.run(flight)
    rig.steps()
    rig.row(flight).state = "failed"
    rig.worlds[BackendName.CELERY].end(flight.id, How.FAILED)
    rig.steps()
    log = TransitionLog(str(tmp_path / "log"), "1")
    for step in rig.heard.steps:
        log.note(step)
    log.flush()
    text = (tmp_path / "log").read_text()
    assert len(text.splitlines()) == len(rig.heard.steps) >= 5
    assert TOKEN not in text
    assert "parcel" not in text


class TestTheFile:
    def test_a_file_that_is_moved_away_is_made_anew(self, rig: Rig, tmp_path: Path) -> None:
        path, log = tmp_path / "log", TransitionLog(str(tmp_path / "log"), "1")
        rig.queue()
        [step] = rig.heard.steps
        log.note(step)
        log.flush()
        path.rename(tmp_path / "log.1")
        log.note(step)
        log.note(step)
        log.flush()
        assert len((tmp_path / "log.1").read_text().splitlines()) == 1
        assert len(path.read_text().splitlines()) == 2

    def test_one_that_cannot_be_written_stops_nothing_and_gets_its_lines_later(
        self, rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = TransitionLog(str(tmp_path / "missing" / "log"), "1")
        rig.queue()
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                log.note(rig.heard.steps[0])
                log.flush()
        assert len(caplog.records) == 1
        (tmp_path / "missing").mkdir()
        log.flush()
        assert len((tmp_path / "missing" / "log").read_text().splitlines()) == 3

    def test_what_cannot_be_written_is_bounded(self, rig: Rig, tmp_path: Path) -> None:
        log = TransitionLog(str(tmp_path / "missing" / "log"), "1")
        rig.queue()
        for _ in range(LINES_MAX + 5):
            log.note(rig.heard.steps[0])
        assert len(log._lines) == LINES_MAX

    def test_without_a_target_nothing_is_kept(self, rig: Rig) -> None:
        log = TransitionLog("", "1")
        rig.queue()
        log.note(rig.heard.steps[0])
        assert not log._lines

    def test_standard_output_is_the_real_one(self, rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
        log = TransitionLog(STDOUT, "1")
        rig.queue()
        log.note(rig.heard.steps[0])
        log.flush()
        assert json.loads(capfd.readouterr().out)["to"] == "ready"
