"""Why an attempt ended, in the log of its try: where the folder shows that it is shared, and nowhere else."""

import json
from pathlib import Path

import pytest

from hybrid_executor.tasklog import SUFFIX, THREAD_NAME, TaskLogs
from tests.fixtures.collector import threads

TRY = "dag_id=d/run_id=r/task_id=t/attempt=1.log"


def told(folder: Path, *, in_pod: bool = True) -> list[dict[str, str]]:
    """The lines beside the try's log after two were told."""
    logs = TaskLogs(str(folder))
    for text in ("Evicted: low on memory", "and gone"):
        logs.tell(TRY, text, in_pod=in_pod)
    logs.flush()
    written = folder / (TRY + SUFFIX)
    return [json.loads(line) for line in written.read_text().splitlines()] if written.exists() else []


def test_a_try_whose_log_lies_there_is_told_in_lines_that_airflow_reads(tmp_path: Path) -> None:
    from airflow.utils.log.file_task_handler import StructuredLogMessage

    log = tmp_path / TRY
    log.parent.mkdir(parents=True)
    log.write_text("of its own\n")
    lines = told(tmp_path, in_pod=False)
    assert [line["event"] for line in lines] == ["Evicted: low on memory", "and gone"]
    message = StructuredLogMessage.model_validate(lines[0])
    assert message.timestamp is not None
    assert log.read_text() == "of its own\n", "a pod's or worker's own file is not touched"
    assert {p.name for p in log.parent.glob(log.name + "*")} == {log.name, log.name + SUFFIX}


def test_a_pod_that_never_ran_is_told_beside_the_other_logs_of_its_dag(tmp_path: Path) -> None:
    (tmp_path / "dag_id=d" / "run_id=before").mkdir(parents=True)
    assert len(told(tmp_path)) == 2
    made = tmp_path / "dag_id=d" / "run_id=r"
    assert oct(made.stat().st_mode)[-3:] == "775", "the pod that comes next may write there"


@pytest.mark.parametrize("in_pod", [True, False])
def test_a_folder_that_holds_nothing_of_the_dag_is_left_alone(tmp_path: Path, in_pod: bool) -> None:
    (tmp_path / "scheduler").mkdir()
    assert told(tmp_path, in_pod=in_pod) == []
    assert [path.name for path in tmp_path.iterdir()] == ["scheduler"]


def test_a_workers_log_that_is_not_there_is_not_hidden_by_a_line_of_ours(tmp_path: Path) -> None:
    """Airflow fetches it from the worker only while it finds no file here."""
    (tmp_path / "dag_id=d").mkdir()
    assert told(tmp_path, in_pod=False) == []


def test_what_can_not_be_written_is_let_go(tmp_path: Path) -> None:
    (tmp_path / "dag_id=d").mkdir()
    (tmp_path / "dag_id=d" / "run_id=r").write_text("a file in the way")
    assert told(tmp_path) == []
    TaskLogs("").tell(TRY, "no folder", in_pod=True)
    TaskLogs(str(tmp_path)).tell(None, "no path", in_pod=True)


def test_no_thread_is_started_before_there_is_something_to_tell(tmp_path: Path) -> None:
    before = threads()
    TaskLogs(str(tmp_path))
    assert threads() == before
    assert THREAD_NAME.startswith("hybrid-")
