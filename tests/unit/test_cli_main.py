"""What the console script says to somebody who types it wrong; nothing is started."""

from pathlib import Path

import pytest

from hybrid_executor.cli.main import main


@pytest.mark.parametrize(("given", "code"), [([], 2), (["--help"], 0), (["standalon"], 2)])
def test_the_usage_is_shown_to_whoever_names_no_command(
    given: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == code
    shown = capsys.readouterr()
    assert "usage: hybrid-executor standalone" in shown.out + shown.err
    assert ("no command 'standalon'" in shown.err) is (given == ["standalon"])


def test_a_state_folder_that_can_not_be_made_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["standalone", "--state", str(file)]) == 2
    assert f"{file}: File exists; choose another --state folder" in capsys.readouterr().err


def test_a_dag_folder_that_is_not_there_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["standalone", "--state", str(tmp_path / "state"), "--dags", str(tmp_path / "none")])
    assert "none is no folder" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
