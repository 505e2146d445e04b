"""The Dockerfile says what it promises, and each of its commands does what it is there for."""

import importlib
import json
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from hybrid_executor.version import __version__
from tests.image.conftest import DOCKERFILE, Built
from tests.image.dockerfile import ROOT, context, copied, instructions, let_through, settings

FOUND = instructions(DOCKERFILE)
LAST = [one for one in FOUND if one.stage == 2]


def test_the_base_is_the_official_image_of_the_airflow_that_the_lock_pins() -> None:
    arguments = dict(one.rest.split("=", 1) for one in FOUND if one.word == "ARG" and "=" in one.rest)
    base = FOUND[len(arguments)]
    assert arguments["AIRFLOW_IMAGE"] == "apache/airflow"
    assert f"apache-airflow=={arguments['AIRFLOW_VERSION']} " in (ROOT / "requirements.lock").read_text()
    image, digest = "${AIRFLOW_IMAGE}:${AIRFLOW_VERSION}-python${PYTHON_VERSION}", "@${AIRFLOW_DIGEST}"
    assert base.rest == f"{image}${{AIRFLOW_DIGEST:+{digest}}} AS base"
    python = f"Programming Language :: Python :: {arguments['PYTHON_VERSION']}"
    assert python in (ROOT / "pyproject.toml").read_text()


def test_no_build_tool_and_no_layer_of_the_build_is_in_the_image() -> None:
    assert [one.rest for one in LAST if one.word == "FROM"] == ["base"]
    assert not [
        one for one in FOUND if one.word == "RUN" and re.search(r"\b(apt|gcc|build-essential)", one.rest)
    ]
    assert not [one for one in LAST if one.word == "COPY" and "--from" in one.rest]
    [install] = [one.rest for one in LAST if one.word == "RUN"]
    assert install.startswith("--mount=type=bind,from=build")
    assert "--no-cache-dir" in install


def test_it_runs_as_the_user_of_the_official_image() -> None:
    assert [one.rest for one in FOUND if one.word == "USER"] == ["50000:0"]


@pytest.mark.parametrize("one", [one for one in FOUND if one.word == "COPY"], ids=lambda one: one.rest)
def test_whatever_is_copied_is_in_the_context(one) -> None:
    for source in copied(one)[0]:
        assert source in let_through()
        assert any(context(source))


def test_each_setting_is_one_that_airflow_knows() -> None:
    for name, value in settings(LAST).items():
        if not name.startswith("AIRFLOW__"):
            continue
        if re.fullmatch(r"[\w]+(\.\w+)+", value):
            module, _, attribute = value.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute)
        _, section, option = name.lower().split("__")
        assert option in options(section), name


def options(section: str) -> set[str]:
    from airflow.configuration import conf
    from airflow.utils.providers_configuration_loader import providers_configuration_loaded

    @providers_configuration_loaded
    def known() -> set[str]:
        return set(conf.as_dict(display_source=False)[section])

    return known()


def test_the_versions_of_what_carries_tasks_are_those_that_were_tested(built: Built) -> None:
    pins = dict(line.split("==") for line in built.constraints.read_text().splitlines())
    assert set(pins) == {
        "apache-airflow", "apache-airflow-providers-celery", "apache-airflow-providers-cncf-kubernetes",
        "celery", "flower", "kombu", "kubernetes", "kubernetes-asyncio",
    }  # fmt: skip
    lock = (ROOT / "requirements.lock").read_text()
    assert [name for name, version in pins.items() if f"\n{name}=={version} " not in lock] == []


def test_the_wheel_bears_the_version_of_the_source_and_what_airflow_looks_for(built: Built) -> None:
    assert built.wheel.name == f"airflow_hybrid_executor-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(built.wheel) as wheel:
        names = wheel.namelist()
        [entries] = [wheel.read(name).decode() for name in names if name.endswith("entry_points.txt")]
        [metadata] = [wheel.read(name).decode() for name in names if name.endswith("METADATA")]
    for part in ("apache_airflow_provider", "airflow.plugins", "console_scripts"):
        assert f"[{part}]" in entries
    assert "License-Expression: Apache-2.0" in metadata
    for file in ("example_dags/mixed_etl.py", "py.typed", "ledger/alembic.ini", "ledger/live/write.lua"):
        assert f"hybrid_executor/{file}" in names
    assert not [name for name in names if name.startswith(("tests", "docs")) or "__pycache__" in name]


LOOK = """
import importlib.metadata, json, hybrid_executor
from airflow.providers_manager import ProvidersManager
from airflow.executors.executor_loader import ExecutorLoader
distribution = importlib.metadata.distribution("airflow-hybrid-executor")
print(json.dumps({
    "file": hybrid_executor.__file__, "version": distribution.version,
    "provider": "airflow-hybrid-executor" in ProvidersManager().providers,
    "executor": ExecutorLoader.get_default_executor_name().module_path,
}))
"""


def test_airflow_finds_the_installed_wheel(built: Built, tmp_path: Path) -> None:
    environment = built.environment | settings(LAST) | {"AIRFLOW_HOME": str(tmp_path)}
    done = subprocess.run(
        [built.python, "-c", LOOK], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {
        "file": str(built.packages / "hybrid_executor/__init__.py"),
        "version": __version__,
        "provider": True,
        "executor": "hybrid_executor.HybridExecutor",
    }
    program = subprocess.run(
        [built.packages / "bin/hybrid-executor", "--help"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "standalone" in program.stdout


def test_a_container_that_runs_none_of_airflows_parts_is_well() -> None:
    assert (
        subprocess.run([ROOT / "workers/healthcheck", "airflow", "db", "migrate"], check=False).returncode
        == 0
    )


def test_an_api_server_that_is_away_is_not_well() -> None:
    environment = {"PATH": "/usr/bin:/bin", "AIRFLOW__API__PORT": "1"}
    done = subprocess.run(
        [ROOT / "workers/healthcheck", "airflow", "api-server"],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
