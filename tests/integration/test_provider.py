"""What Airflow makes of the provider metadata, and what the metadata costs to load."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import airflow as airflow_package
import jsonschema
import pytest

from hybrid_executor.options import OPTIONS
from hybrid_executor.provider import get_provider_info


def airflow(home: Path, *command: str) -> str:
    """Run a command and return its output, errors included."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__EXECUTOR": "hybrid_executor.HybridExecutor",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


def test_the_entry_point_leads_to_the_metadata() -> None:
    [found] = [
        point
        for point in entry_points(group="apache_airflow_provider")
        if point.module == "hybrid_executor.provider"
    ]
    assert found.load()() == get_provider_info()


def test_the_metadata_fits_airflows_schema() -> None:
    schema = json.loads((Path(airflow_package.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_metadata_is_loaded_without_airflow() -> None:
    code = (
        "import sys, hybrid_executor.provider as p; p.get_provider_info();"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'airflow', 'pydantic', 'yaml'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_airflow_lists_the_provider(home: Path) -> None:
    assert "airflow-hybrid-executor" in airflow(home, "providers", "list")


def test_airflow_lists_every_option_with_its_default(home: Path) -> None:
    listed = airflow(home, "config", "list", "--section", "hybrid_executor", "--defaults", "--show-values")
    for option in OPTIONS:
        assert f"{option.name} = {option.default or ''}".strip() in listed


def test_airflow_offers_the_commands_without_a_warning(home: Path) -> None:
    shown = airflow(home, "hybrid", "--help")
    for command in ("explain", "routes", "doctor"):
        assert command in shown
    assert "warning" not in shown.lower()
    assert "missing 'cli' section" not in shown
